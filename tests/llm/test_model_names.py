from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import Denial
from llm_authmw.llm.model_names import model_name
from llm_authmw.names import MAX_NAME_LENGTH

FIRST = "ABCXYZabcxyz0189@"
REST = FIRST + "._:/+=~-"


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 1.5, b"gpt-4o", ["gpt-4o"], ("gpt-4o",), {"gpt-4o": 1}, {"model": "gpt-4o"}, object()),
        *("", " ", "gpt-4o ", " gpt-4o", "gpt 4o", "gpt-4o\n", "gpt-4o\0", "gpt-4o\t", "\x7fgpt-4o", "gpt-4o\x85"),
        *("gpt-4o,gpt-4", "gpt-4o;gpt-4", "[gpt-4o]", '"gpt-4o"', "gpt-4o*", "!gpt-4o", "gpt-4o?", "gpt-4o#1", "gpt-4o%20", "{gpt-4o}"),
        *("-gpt-4o", ".gpt-4o", "/gpt-4o", "~gpt-4o", ":gpt-4o", "\\gpt-4o", "a\\b", "a|b", "a&b", "a$b", "a(b)", "a'b", "a<b>"),
        # Full-width letters, a zero-width space, a right-to-left mark, a combining accent, a lone surrogate, digits that are not ASCII.
        *("\uff47pt-4o", "gpt\u200b-4o", "gpt-4o\u202e", "gpt-4o\u0301", "gpt-4o\ud800", "gpt-\u0664o", "\u0131gpt", "gpt-4\u00ba"),
        "m" * (MAX_NAME_LENGTH + 1),
    ],
)
def test_what_is_no_name_of_a_model_is_refused(value: Any) -> None:
    with pytest.raises(Denial) as caught:
        model_name(value)

    assert ("model_malformed", 400) == (caught.value.reason, caught.value.status)


def test_a_text_of_another_type_is_refused_as_it_may_compare_in_its_own_way() -> None:
    class Text(str):
        __slots__ = ()

    with pytest.raises(Denial):
        model_name(Text("gpt-4o"))


@pytest.mark.parametrize(
    "name",
    [
        "gpt-4o",
        "GPT-4o",
        "openai/gpt-4o-mini",
        "meta-llama/Llama-3.1-8B-Instruct",
        "@cf/meta/llama-3",
        "claude-sonnet-4@20250514",
        "ft:gpt-4o-mini:acme::AbC1",
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-3",
        "llama3.1:8b",
        "a",
        "0",
        "m" * MAX_NAME_LENGTH,
    ],
)
def test_a_name_comes_out_as_it_went_in(name: str) -> None:
    assert name == model_name(name)


@given(st.text(max_size=20) | st.text(alphabet=REST, max_size=20))
def test_exactly_the_names_of_the_grammar_are_taken(text: str) -> None:
    ascii_letters_and_digits = text.replace("@", "a").translate({ord(sign): "a" for sign in "._:/+=~-"})
    expected = ascii_letters_and_digits.isascii() and ascii_letters_and_digits.isalnum() and text[0] not in "._:/+=~-"
    try:
        taken = model_name(text) == text
    except Denial:
        taken = False
    assert expected == taken
