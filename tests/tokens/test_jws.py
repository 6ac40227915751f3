"""Compact signatures: taken apart strictly, verified with keys that were chosen beforehand."""

from typing import Any

import msgspec
import pytest

from llm_authmw import ConfigurationError, TokenInvalid
from llm_authmw.testing import SigningKey, make_signing_key, sign
from llm_authmw.tokens import verify_jws
from llm_authmw.tokens.base64url import encode
from llm_authmw.tokens.jws import (
    MAX_CANDIDATES,
    MAX_HEADER,
    MAX_TOKEN,
    check_algorithms,
    is_hmac,
    looks_compact,
    read_compact,
    verify_signature,
)
from llm_authmw.tokens.keys import ALGORITHMS, KeyRing, read_key

KEY = make_signing_key("ES256", kid="k-1")
EVERY = list(ALGORITHMS)


def token(header: Any = None, payload: bytes = b"{}", key: SigningKey = KEY) -> bytes:
    return sign({"alg": key.algorithm, "kid": key.kid} if header is None else header, payload, key).encode()


def reason(given: bytes) -> str:
    with pytest.raises(TokenInvalid) as caught:
        read_compact(given)
    return caught.value.reason


def test_a_token_is_taken_apart() -> None:
    given = token({"alg": "ES256", "kid": "k-1", "typ": "application/AT+jwt", "more": [1]}, b'{"a":1}')
    compact = read_compact(given)
    assert ("ES256", "k-1", "at+jwt") == compact.header[:3]
    assert {"alg": "ES256", "kid": "k-1", "typ": "application/AT+jwt", "more": [1]} == compact.header.members
    assert (given.rpartition(b".")[0], b'{"a":1}', 64) == (compact.signing_input, compact.payload, len(compact.signature))


def test_a_token_that_was_taken_apart_does_not_print_itself() -> None:
    given = token(payload=b'{"sub":"needle"}')
    printed = repr(read_compact(given))
    assert "CompactToken(algorithm='ES256', kid='k-1')" == printed
    assert not [part for part in given.decode().split(".") if part in printed]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"alg": None},
        {"alg": 5},
        {"alg": ["ES256"]},
        {"alg": "ES256", "kid": 5},
        {"alg": "ES256", "kid": ""},
        {"alg": "ES256", "kid": "k" * 257},
        {"alg": "ES256", "typ": 5},
        {"alg": "ES256", "typ": ["JWT"]},
        {"alg": "ES256", "crit": []},
        {"alg": "ES256", "crit": None},
        {"alg": "ES256", "b64": True},
        {"alg": "ES256", "zip": "DEF"},
        {"alg": "ES256", "enc": "A256GCM"},
        b"[]",
        b'"ES256"',
        b"null",
        b"",
        b"\xff",
        b'{"alg":"ES256","alg":"ES256"}',
        b'{"alg":"ES256"}x',
    ],
    ids=str,
)
def test_a_header_that_is_none_or_needs_more_than_is_done_here_is_refused(header: Any) -> None:
    assert "token_malformed" == reason(token(header))


def test_absent_members_are_none() -> None:
    assert ("ES256", None, None) == read_compact(token({"alg": "ES256"})).header[:3]
    assert ("ES256", None, None) == read_compact(token({"alg": "ES256", "kid": None, "typ": None})).header[:3]


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b".",
        b"..",
        b"a",
        b"a.b",
        b"a.b.c.d",
        b"....",
        token() + b".",
        token() + b"=",
        token() + b"\n",
        b" " + token(),
        token().replace(b".", b".\x00", 1),
    ],
    ids=lambda given: str(given)[:12],
)
def test_other_shapes_are_refused(given: bytes) -> None:
    assert "token_malformed" == reason(given)


def test_sizes_are_bounded() -> None:
    short = token({"alg": "ES256", "x": ""})
    room = MAX_TOKEN - len(short)
    assert "token_malformed" == reason(token({"alg": "ES256"}, b"x" * MAX_TOKEN))
    assert 9_000 == len(read_compact(token({"alg": "ES256"}, b"x" * 9_000)).payload)
    assert room > MAX_HEADER
    assert "token_malformed" == reason(token({"alg": "ES256", "x": "x" * MAX_HEADER}))
    assert read_compact(token({"alg": "ES256", "x": "x" * 3_000})).header.members["x"].startswith("xxx")


@pytest.mark.parametrize(
    ("given", "compact"),
    [
        (token(), True),
        (b"ey..", True),
        (b"ewogImFsZyI.x.y", True),
        (b"eyA.x.y", True),
        (b"ey.x", False),
        (b"ey.x.y.z", False),
        (b"a.b.c", False),
        (b"sk-amw_x", False),
        (b"", False),
    ],
)
def test_the_shape_is_told_without_reading(given: bytes, compact: bool) -> None:
    assert compact is looks_compact(given)


@pytest.mark.parametrize("header", [b'{"alg":"x"}', b'{ "alg":"x"}', b'{\n"alg":"x"}', b'{\r\n "alg":"x"}', b'{\t"alg":"x"}'])
def test_every_way_to_begin_an_object_has_the_shape(header: bytes) -> None:
    assert looks_compact(encode(header) + b".x.y")


def keys(*of: SigningKey) -> tuple[Any, ...]:
    return tuple(read_key(one.public()) for one in of)


def test_the_key_that_signed_is_found_among_others() -> None:
    others = [make_signing_key("ES256") for _ in range(3)]
    compact = read_compact(token())
    assert "k-1" == verify_signature(compact, keys(*others, KEY)).kid
    for candidates, expected in ((keys(*others), "token_signature_invalid"), ((), "token_key_unknown")):
        with pytest.raises(TokenInvalid) as caught:
            verify_signature(compact, candidates)
        assert expected == caught.value.reason


def test_a_token_without_an_id_is_tried_with_a_few_keys_only() -> None:
    others = [make_signing_key("ES256") for _ in range(MAX_CANDIDATES)]
    compact = read_compact(token({"alg": "ES256"}))
    assert "k-1" == verify_signature(compact, keys(*others[1:], KEY)).kid
    with pytest.raises(TokenInvalid, match=r"not one that is accepted"):
        verify_signature(compact, keys(*others, KEY))


@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if not name.startswith("HS")])
def test_every_algorithm_verifies_what_it_signed_and_nothing_else(algorithm: str) -> None:
    key = make_signing_key(algorithm)
    jwks = {"keys": [key.public()]}
    good = token(payload=b"hello", key=key).decode()
    assert b"hello" == verify_jws(good, jwks, algorithms=[algorithm])
    head, _, signature = good.rpartition(".")
    for forged in (
        f"{head}.",
        f"{head}.{'A' * len(signature)}",
        f"{head}A.{signature}",
        token(key=make_signing_key(algorithm, kid=key.kid)).decode(),
    ):
        with pytest.raises(TokenInvalid):
            verify_jws(forged, jwks, algorithms=[algorithm])


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_secrets_verify_when_the_set_is_all_secrets(algorithm: str) -> None:
    key = make_signing_key(algorithm)
    secret: dict[str, Any] = {**key.private.as_dict(private=True), "kid": key.kid}
    good = token(payload=b"hello", key=key).decode()
    assert b"hello" == verify_jws(good, {"keys": [secret]}, algorithms=EVERY)
    with pytest.raises(TokenInvalid) as caught:
        verify_jws(good, {"keys": [secret, KEY.public()]}, algorithms=EVERY)
    assert "token_key_unusable" == caught.value.reason


WRONG: list[Any] = [
    (token().decode(), {"keys": [KEY.public()]}, ["RS256"], "token_algorithm_not_allowed"),
    (token().decode(), {"keys": []}, EVERY, "token_key_unusable"),
    (token().decode(), {"keys": [{}]}, EVERY, "token_key_unusable"),
    (token().decode(), {"keys": None}, EVERY, "token_malformed"),
    (token().decode(), {}, EVERY, "token_key_unusable"),
    (token().decode(), {"keys": [KEY.public(), KEY.public()]}, EVERY, "token_key_unusable"),
    (token().decode(), {"keys": [make_signing_key("ES256").public()]}, EVERY, "token_key_unknown"),
    (token({"alg": "none"}).decode(), {"keys": [KEY.public()]}, EVERY, "token_algorithm_not_allowed"),
    ("\u00e9" + token().decode(), {"keys": [KEY.public()]}, EVERY, "token_malformed"),
    ("\ud800", {"keys": [KEY.public()]}, EVERY, "token_malformed"),
    ("", {"keys": [KEY.public()]}, EVERY, "token_malformed"),
]


@pytest.mark.parametrize(("given", "jwks", "algorithms", "expected"), WRONG)
def test_whatever_is_wrong_is_told_by_a_reason(given: str, jwks: Any, algorithms: list[str], expected: str) -> None:
    with pytest.raises(TokenInvalid) as caught:
        verify_jws(given, jwks, algorithms=algorithms)
    assert expected == caught.value.reason


def test_no_library_error_comes_out_of_a_signature() -> None:
    class Broken:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError(name)

    key = read_key(KEY.public())
    broken = type(key)(key.kid, key.algorithms, Broken(), ())
    with pytest.raises(TokenInvalid):
        verify_signature(read_compact(token()), KeyRing([broken]).keys)


@pytest.mark.parametrize("algorithms", [[], "RS256", ["none"], ["HS256", "hs256"], ["ES256K"], ["A256GCM"]])
def test_algorithms_are_named_and_known(algorithms: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^algorithms: "):
        check_algorithms(algorithms)


def test_hmac_is_told_from_the_others() -> None:
    assert {"HS256", "HS384", "HS512"} == {name for name in ALGORITHMS if is_hmac(name)}
    assert set(EVERY) == check_algorithms(EVERY)


def test_the_header_is_read_anew_for_every_other_one() -> None:
    one, two = (read_compact(token({"alg": "ES256", "n": number}, msgspec.json.encode(number))) for number in (1, 2))
    assert (1, 2) == (one.header.members["n"], two.header.members["n"])
    assert one.header is read_compact(token({"alg": "ES256", "n": 1})).header
