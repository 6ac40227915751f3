"""Base64url in its one form."""

import base64

import pytest

from llm_authmw.tokens.base64url import InvalidBase64urlError, decode, encode


@pytest.mark.parametrize("length", range(12))
def test_every_length_goes_there_and_back(length: int) -> None:
    for value in (bytes(range(length)), b"\xff" * length, b"\x00" * length):
        text = base64.urlsafe_b64encode(value).rstrip(b"=")
        assert (text, value) == (encode(value), decode(text))


def test_the_two_characters_that_differ_are_the_ones_for_urls() -> None:
    assert b"-_-_" == encode(b"\xfb\xff\xbf")
    assert b"\xfb\xff\xbf" == decode(b"-_-_")


@pytest.mark.parametrize(
    "text",
    [
        b"=",
        b"==",
        b"AA==",
        b"AAA=",
        b"AAAA=",
        b"AA=A",
        b"=AAA",
        b"A",
        b"AAAAA",
        b"+/+/",
        b"AA\n",
        b"A A",
        b" AAAA",
        b"AAAA\n",
        b"AA.A",
        b"AA\xff",
    ],
    ids=repr,
)
def test_padding_blanks_and_other_characters_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidBase64urlError):
        decode(text)


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_no_other_byte_is_passed_over(place: int) -> None:
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for byte in range(256):
        text = bytearray(b"AAAA")
        text[place] = byte
        if byte in alphabet:
            assert bytes(text) == encode(decode(bytes(text)))
        else:
            with pytest.raises(InvalidBase64urlError):
                decode(bytes(text))


def test_of_all_texts_that_stand_for_a_value_one_is_accepted() -> None:
    """RFC 4648 §3.5: bits behind the last byte may be anything to a lax decoder."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for head, expected in (("A", 4), ("AA", 16)):
        accepted = 0
        for last in alphabet:
            try:
                value = decode((head + last).encode())
            except InvalidBase64urlError:
                continue
            assert (head + last).encode() == encode(value)
            accepted += 1
        assert expected == accepted
