"""Models that an id names. LiteLLM writes them into the ids of files, batches and vector stores, and goes by what it finds there.

Nothing signs such an id, so a caller can make one: it names a model as plainly as `model` does.
"""

import base64
import binascii
import re
from typing import Final

from llm_authmw.llm.model_names import model_name

_PREFIXES: Final = ("file-", "batch_")
_SHORTEST: Final = len(base64.b64encode(b"litellm:;model,m").rstrip(b"="))
_LONG_SEGMENT: Final = re.compile(rf"[^/]{{{_SHORTEST},}}")
_STANDARD: Final = str.maketrans("-_", "+/")
_MARK: Final = b"litellm"
_NAMES: Final = re.compile(rb"(?:;model|target_model_names),([^;]+)")


def models_in_id(value: str) -> tuple[str, ...]:
    """Return the models that an id names, or none if it is not one of LiteLLM's.

    Raises:
        Denial: it names a model by something that is no model's name (`model_malformed`).
    """
    if len(value) < _SHORTEST:
        return ()
    encoded = next((value.removeprefix(prefix) for prefix in _PREFIXES if value.startswith(prefix)), value)
    # Some are taken as they stand too. Both are looked at, as what one of them hides may be in the other.
    texts = [text for text in (value.encode("utf-8", "surrogatepass"), _decoded(encoded)) if _MARK in text]
    listed = [match[1].decode("utf-8", "replace") for text in texts for match in _NAMES.finditer(text)]
    return tuple(model_name(name.strip()) for names in listed for name in names.split(","))


def models_in_path(path: str) -> tuple[str, ...]:
    """Return the models that ids in a path name.

    Raises:
        Denial: as `models_in_id`.
    """
    return tuple(name for segment in _LONG_SEGMENT.findall(path) for name in models_in_id(segment))


def _decoded(text: str) -> bytes:
    # As Python decodes it where it is not told to be strict: characters outside of the alphabet are skipped.
    try:
        return base64.b64decode(text.translate(_STANDARD).rstrip("=") + "===")
    except (binascii.Error, ValueError):
        return b""
