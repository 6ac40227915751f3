"""Models that a request names outside of its path and its body: in the query and in headers, which some proxies prefer to both."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl

from llm_authmw.header_names import ORDINARY, fold
from llm_authmw.llm.model_names import model_name

# `model` chooses for LiteLLM and for realtime APIs, `deployment` for Azure's.
_NAMES_ONE: Final = frozenset({"model", "deployment"})
# LiteLLM's list of where a file or a batch goes, with commas between the names and blanks around them.
_NAMES_SEVERAL: Final = "target_model_names"
_HEADERS: Final = frozenset(
    {
        b"x-litellm-model",
        # Which of the models behind an endpoint: SageMaker's and Azure Machine Learning's.
        b"azureml-model-deployment",
        b"x-amzn-sagemaker-inference-component",
        b"x-amzn-sagemaker-target-model",
        b"x-amzn-sagemaker-target-variant",
    }
)


def models_named_outside(query_string: bytes, headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, ...]:
    """Return every model that the query and the headers name, each once, in their order.

    A parameter counts in any case and a header in any spelling, as some proxies look for them so; one that comes twice counts twice.

    Args:
        query_string: As the scope has it: percent-encoded, without the question mark.
        headers: As the scope has them.

    Raises:
        Denial: one of them names a model by something that is no model's name (`model_malformed`).
    """
    found: list[str] = []
    if query_string:
        # The very call by which Starlette reads a query, so that the app sees the same names and values. What does not decode
        # comes out as U+FFFD, which no model's name has.
        for parameter, text in parse_qsl(query_string.decode("latin-1"), keep_blank_values=True):
            folded = parameter.lower()
            if folded in _NAMES_ONE:
                found.append(model_name(text))
            elif folded == _NAMES_SEVERAL:
                found += [model_name(name.strip(" ")) for name in text.split(",")]
    # Bytes beyond ASCII decode to letters that no model's name has.
    found += [
        model_name(value.decode("latin-1").strip(" \t")) for header, value in headers if header not in ORDINARY and fold(header) in _HEADERS
    ]
    return tuple(dict.fromkeys(found))
