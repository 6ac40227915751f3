import secrets
import traceback

import pytest

from llm_authmw.errors import ConfigurationError
from llm_authmw.keys.strength import MAX_LENGTH, MIN_LENGTH, check_chosen_key
from llm_authmw.secrets import Secret


def refused(text: str) -> str:
    with pytest.raises(ConfigurationError, match=r"^master_key: ") as caught:
        check_chosen_key("master_key", Secret(text))
    assert not text or text not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("length", [8, MIN_LENGTH - 1, MAX_LENGTH + 1])
def test_a_chosen_key_of_an_odd_length_is_refused(length: int) -> None:
    text = (secrets.token_hex(300))[:length]
    assert f"has {length} characters, and 32 to 512 are asked for" in refused(text)


@pytest.mark.parametrize(
    "text",
    [
        "edd1c9f034335f136f87ad84b625c8f1",
        "EDD1C9F034335F136F87AD84B625C8F1",
        "sk-1234sk-1234sk-1234sk-1234sk-1234",
        "sk-12345678901234567890123456789012",
        "my-master-key-for-the-proxy-2026-07",
        "My_Master_Key_for_the_proxy_2026_07",
        "changeme-changeme-changeme-changeme",
        "replace-me-with-something-long-4711",
        "PASSWORD0123456789PASSWORD012345678",
        "this-is-only-an-example-of-a-key-42",
        "abcdefghijklmnopqrstuvwxyz0123456789",
        "qwertyuiopasdfghjklzxcvbnm0123456789",
    ],
)
def test_a_published_or_guessable_key_is_refused(text: str) -> None:
    assert "is a well-known or easily guessed value" in refused(text)


@pytest.mark.parametrize("text", ["a" * 32, "ab" * 32, "012345678" * 4, "012345678" * 50])
def test_a_key_of_few_different_characters_is_refused(text: str) -> None:
    assert "is a well-known or easily guessed value" in refused(text)


@pytest.mark.parametrize("odd", [" ", "\t", "\n", "\x00", "\x7f", "é", "日", "\u00a0"])
@pytest.mark.parametrize("where", [0, 16, 40])
def test_a_key_that_cannot_travel_in_a_header_is_refused(odd: str, where: int) -> None:
    text = secrets.token_hex(20)
    assert "cannot be sent in a header" in refused(text[:where] + odd + text[where:])


@pytest.mark.parametrize(
    "text",
    [
        "0123456789" + "x" * 22,
        "9f86d081884c7d659a2feaa0c55ad015",
        pytest.param(secrets.token_urlsafe(48), id="urlsafe"),
        pytest.param(secrets.token_hex(256), id="hexadecimal"),
    ],
)
def test_a_random_key_is_taken_as_it_is(text: str) -> None:
    assert text.encode() == check_chosen_key("master_key", Secret(text))
