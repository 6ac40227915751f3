import re
import secrets
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import ConfigurationError
from llm_authmw.keys import format as key_format
from llm_authmw.keys.format import DEFAULT_PREFIX, MAX_KEY_LENGTH, check_prefix, mint_key, new_key_id, parse_key

PREFIXES = st.from_regex(r"[a-z][a-z0-9-]{0,30}-", fullmatch=True)
PRINTABLE = "".join(chr(code) for code in range(0x20, 0x7F))
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@given(PREFIXES)
def test_a_minted_key_parses_to_its_id(prefix: str) -> None:
    minted = mint_key(prefix=prefix)
    assert minted.id == parse_key(minted.text)
    assert minted.text.startswith(f"{prefix}{minted.id}_")
    assert len(minted.text) < MAX_KEY_LENGTH


def test_a_key_is_one_word_of_a_prefix_an_id_a_secret_and_a_checksum() -> None:
    minted = mint_key()
    match = re.fullmatch(r"sk-([0-9a-z]{16})_([0-9A-Za-z]{43})([0-9A-Za-z]{6})", minted.text)
    assert match is not None
    assert minted.id == match[1]
    number = 0
    for digit in match[3]:
        number = number * 62 + DIGITS.index(digit)
    assert zlib.crc32(minted.text[:-6].encode()) == number


def test_the_form_never_changes() -> None:
    # A key that was printed years ago, and what a secret scanner was told, must stay right.
    assert "0123456789abcdef" == parse_key("sk-0123456789abcdef_" + "0" * 43 + "1QTkjR")


@pytest.mark.parametrize("bits", [0, 2**256 - 1])
def test_every_secret_of_256_bits_has_the_same_length(monkeypatch: pytest.MonkeyPatch, bits: int) -> None:
    asked: list[int] = []

    def randbits(count: int) -> int:
        asked.append(count)
        return bits

    monkeypatch.setattr(secrets, "randbits", randbits)
    minted = mint_key()
    assert [256] == asked
    assert 3 + 16 + 1 + 43 + 6 == len(minted.text)
    assert minted.id == parse_key(minted.text)


def test_no_two_keys_are_alike() -> None:
    keys = [mint_key() for _ in range(200)]
    assert 200 == len({key.id for key in keys}) == len({key.text for key in keys})


def test_a_new_secret_under_an_id_that_exists() -> None:
    key_id = new_key_id()
    one, other = mint_key(key_id=key_id), mint_key(key_id=key_id, prefix="acme-")
    assert key_id == one.id == other.id == parse_key(one.text) == parse_key(other.text)
    assert one.text != other.text


def test_a_minted_key_prints_its_id_only() -> None:
    minted = mint_key()
    for shown in (repr(minted), str(minted), f"{minted}", repr([minted])):
        assert minted.id in shown
        assert minted.text not in shown
        assert minted.text[-49:] not in shown


def test_one_wrong_character_is_always_found() -> None:
    text = mint_key().text
    for position, right in enumerate(text):
        for wrong in PRINTABLE.replace(right, ""):
            assert parse_key(text[:position] + wrong + text[position + 1 :]) is None


def test_a_character_too_many_or_too_few_and_two_that_changed_places_are_always_found() -> None:
    text = mint_key().text
    for position in range(len(text)):
        assert parse_key(text[:position] + text[position + 1 :]) is None
        for added in DIGITS + "-_ ":
            assert parse_key(text[:position] + added + text[position:]) is None
        swapped = text[:position] + text[position : position + 2][::-1] + text[position + 2 :]
        assert swapped == text or parse_key(swapped) is None


@pytest.mark.parametrize(
    "spoilt",
    ["{}\n", "\n{}", " {}", "{} ", "{}\x00", "Bearer {}", "{}{}", "'{}'", "{}\u200b", "\ufeff{}"],
)
def test_nothing_may_stand_around_a_key(spoilt: str) -> None:
    assert parse_key(spoilt.replace("{}", mint_key().text)) is None


@pytest.mark.parametrize("text", ["", "sk-", "sk-1234", "sk-proj-" + "a" * 48, "sk-" + "a" * 48, "x" * 10_000, "sk-\x00", "\u0661" * 70])
def test_a_string_of_another_form_is_no_key(text: str) -> None:
    assert parse_key(text) is None


@pytest.mark.parametrize(
    "body",
    [
        *("SK-" + "0" * 16 + "_" + "a" * 43, "sk_" + "0" * 16 + "_" + "a" * 43, "0" * 16 + "_" + "a" * 43, "-" + "0" * 16 + "_" + "a" * 43),
        *(
            "sk-" + "0" * 15 + "_" + "a" * 43,
            "sk-" + "0" * 17 + "_" + "a" * 43,
            "sk-" + "A" * 16 + "_" + "a" * 43,
            "sk-" + "0" * 16 + "-" + "a" * 43,
        ),
        *("sk-" + "0" * 16 + "_" + "a" * 42, "sk-" + "0" * 16 + "_" + "a" * 44, "sk-" + "0" * 16 + "_" + "-" * 43, "x" * 60),
    ],
)
def test_a_right_checksum_makes_no_key_of_another_form(body: str) -> None:
    assert parse_key(body + key_format._checksum(body)) is None


def test_case_matters() -> None:
    minted = mint_key()
    assert parse_key(minted.text.upper()) is None
    assert parse_key(minted.text.lower()) is None
    assert parse_key("SK-" + minted.text[3:]) is None


@given(st.text(max_size=80) | st.from_regex(r"[a-z][a-z0-9-]{0,30}-[0-9a-z]{16}_[0-9A-Za-z]{49}", fullmatch=True))
def test_a_random_string_is_no_key(text: str) -> None:
    # One in 4 294 967 296 of the well-formed ones would be.
    assert parse_key(text) is None


@pytest.mark.parametrize(
    "prefix",
    ["", "-", "sk", "sk_", "Sk-", "SK-", "1k-", "-sk-", "s k-", "sk-\n", "sk-é-", "sk.-", "sk/-", "a" * 32 + "-", "sk-x", " sk-", "sk- "],
)
def test_a_prefix_is_lower_case_letters_and_digits_that_end_in_a_hyphen(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^prefix: "):
        check_prefix(prefix)
    with pytest.raises(ConfigurationError, match=r"^prefix: "):
        mint_key(prefix=prefix)


@pytest.mark.parametrize("prefix", [DEFAULT_PREFIX, "a-", "sk-proj-", "acme2-live-", "a" * 31 + "-", "s--"])
def test_a_prefix_may_have_several_words(prefix: str) -> None:
    assert prefix == check_prefix(prefix)
