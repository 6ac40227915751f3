import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import Denial
from llm_authmw.llm.managed_ids import models_in_id


def is_model_name(name: str) -> bool:
    return not {".", ".."} & set(name.split("/"))


NAMES = st.text(st.sampled_from("abcdefgxyz0189./_-"), min_size=1, max_size=30).map(lambda text: f"m{text}").filter(is_model_name)


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize("prefix", ["", "file-", "batch_"])
@pytest.mark.parametrize("padded", [True, False])
@given(name=NAMES, own=st.text(st.sampled_from("abc123-"), max_size=20))
def test_the_model_in_an_id_is_found_however_it_is_written(prefix: str, padded: bool, name: str, own: str) -> None:
    text = encoded(f"litellm:file-{own};model,{name}")
    assert (name,) == models_in_id(prefix + (text if padded else text.rstrip("=")))


@given(names=st.lists(NAMES, min_size=1, max_size=4))
def test_every_target_of_a_managed_file_is_found(names: list[str]) -> None:
    text = f"litellm_proxy:application/json;unified_id,c48;target_model_names,{','.join(names)};llm_output_file_id,file-1"
    assert tuple(names) == models_in_id(encoded(text).rstrip("="))
    assert tuple(names) == models_in_id(text)


def test_characters_that_a_lenient_decoder_skips_hide_nothing() -> None:
    text = encoded("litellm:file-1;model,fake-big")
    assert ("fake-big",) == models_in_id(f"file-{text[:5]}!{text[5:9]}\n{text[9:]}")
    assert ("fake-big",) == models_in_id(f"file-{base64.b64encode(b'litellm:file-???>>>;model,fake-big').decode()}")


def test_an_id_that_also_reads_like_one_as_it_stands_hides_nothing() -> None:
    # The mark itself, where it stands in the encoded text: these bytes are what it decodes to, in two places of it.
    inside = base64.b64decode("AlitellmAAAA")
    text = base64.b64encode(b"litellm:abc" + b"x" + inside + b";model,fake-big").decode()
    assert "litellm" in text
    assert ("fake-big",) == models_in_id(f"file-{text}")


def test_the_shortest_id_is_read() -> None:
    assert ("m",) == models_in_id(encoded("litellm:;model,m").rstrip("="))


@pytest.mark.parametrize(
    "value",
    [
        "",
        "file-abc123",
        "file-" + "a" * 100,
        "batch_" + "\ud800" * 40,
        encoded("something else;model,fake-big that is long"),
        # A deployment's own id is no name, and comes with every response.
        f"resp_{encoded('litellm:custom_llm_provider:openai;model_id:1f0;response_id:resp_1')}",
    ],
)
def test_an_id_of_another_kind_names_nothing(value: str) -> None:
    assert () == models_in_id(value)


def test_a_model_that_is_no_name_is_refused() -> None:
    with pytest.raises(Denial) as refused:
        models_in_id(f"file-{encoded('litellm:file-1;model,fake big')}")
    assert "model_malformed" == refused.value.reason
