"""Whatever the bytes of a token are: somebody is let in who has a good one, or there is a decision against it. Never a 500."""

import functools
import json
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_authmw import ClaimMap, EmailDomain, Issuer, JWTMiddleware, Principal
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, TestIssuer, sign, stream
from llm_authmw.testing.witness import Witness
from llm_authmw.tokens.base64url import InvalidBase64urlError, decode, encode

CLOCK = ManualClock()
LISTS = ("roles", "scopes", "groups", "tags", "models", "limits", "budgets")
EVERYTHING = ClaimMap(
    user=("sub", "uid"),
    email="email",
    client=("azp", "client_id"),
    team="team",
    org=EmailDomain("email"),
    tenant="tenant",
    tier="tier",
    keep=["department", "nested.claim"],
    **{name: name for name in LISTS},
)


@functools.cache
def issuer() -> TestIssuer:
    return TestIssuer(algorithm="EdDSA", clock=CLOCK)


@functools.cache
def trusted() -> Issuer:
    """Return an issuer with its keys at hand, and everything read that a token may say."""
    return issuer().trusted(jwks={"keys": [issuer().keys[0].public()]}, claims=EVERYTHING)


def outcome(value: bytes, *, header: bytes = b"authorization") -> tuple[int, Principal | None]:
    """Send a header with this value; return the status, and who was let in."""

    async def ask() -> tuple[int, Principal | None]:
        app = Witness()
        async with stream(JWTMiddleware(app, issuers=[trusted()]), "GET /v1/models", headers=[(header, value)]) as exchange:
            async for _ in exchange:
                pass
        last = exchange.scope[CONTEXT_KEY].decisions[-1]
        assert (exchange.response.status == 200) == bool(app.scopes) == (last.outcome == "allowed")
        # `check_failed` is what an exception becomes that nobody expected.
        assert last.reason != "check_failed"
        return exchange.response.status, app.scopes[0]["user"] if app.scopes else None

    return anyio.run(ask)


def refused(value: bytes) -> None:
    status, principal = outcome(value)
    assert principal is None
    assert status in {400, 401, 503}


def judged(token: str) -> None:
    """See that a token which the issuer has signed is refused, or lets somebody in as whom it names."""
    status, principal = outcome(b"Bearer " + token.encode())
    if principal is None:
        assert status in {400, 401, 503}
        return
    claims = msgspec.json.decode(decode(token.split(".")[1].encode()))
    assert "https://issuer.example" == claims["iss"] == principal.issuer
    assert principal.user == claims.get("sub", claims.get("uid"))
    assert "https://issuer.example" == principal.realm
    assert CLOCK.now() < claims["exp"] + 5
    assert hash(principal) == hash(principal)


texts = st.text(max_size=8) | st.sampled_from(
    ["", "ada", "client:x", "a\x00", "\u202e", "60 requests/minute", "50 usd/month", "gpt-4o*", "a@b.example"]
)
numbers = (
    st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([10**400, -(10**400), 2**63, -0.0, 1e12, 1e308])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
CLAIMS = (
    *("iss", "sub", "uid", "aud", "exp", "nbf", "iat", "jti", "typ", "azp", "client_id", "email", "email_verified", "cnf", "act"),
    *("acr", "amr", "auth_time", "events", "nonce", "token_use", "department", "nested", "nested.claim", "team", "tenant", "tier"),
    *LISTS,
)


@given(st.binary(max_size=64))
def test_any_bytes_as_a_token_are_refused(value: bytes) -> None:
    refused(b"Bearer " + value)


@given(st.lists(st.binary(max_size=24), min_size=1, max_size=6))
def test_any_bytes_in_the_parts_of_a_token_are_refused(parts: list[bytes]) -> None:
    refused(b"Bearer " + b".".join(encode(part) for part in parts))


@given(st.binary(max_size=48))
def test_any_bytes_as_a_header_are_refused(header: bytes) -> None:
    payload = msgspec.json.encode(issuer().claims())
    refused(b"Bearer " + sign(header, payload, issuer().keys[0]).encode())


@given(
    st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "b64", "zip", "enc", "cty", "jwk", "jku", "x5c"]) | texts, values, max_size=5
    )
)
@example({"alg": "EdDSA"})
@example({"alg": ["EdDSA"]})
@example({"alg": "EdDSA", "typ": {}})
def test_any_json_as_a_header_is_judged(members: dict[str, Any]) -> None:
    judged(sign(json.dumps(members).encode("utf-8", "replace"), msgspec.json.encode(issuer().claims()), issuer().keys[0]))


@given(st.dictionaries(st.sampled_from(["typ", "cty", "x5c", "extra"]), values, max_size=3))
def test_any_further_members_of_a_good_header_are_judged(members: dict[str, Any]) -> None:
    usual = {"alg": "EdDSA", "kid": issuer().keys[0].kid}
    judged(sign(json.dumps({**members, **usual}).encode(), msgspec.json.encode(issuer().claims()), issuer().keys[0]))


@given(values)
def test_any_json_as_a_payload_is_judged(payload: Any) -> None:
    judged(issuer().signed(json.dumps(payload).encode()))


@settings(max_examples=400)
@given(st.dictionaries(st.sampled_from(CLAIMS), values, max_size=4))
@example({"exp": 10**400})
@example({"nbf": -(10**400)})
@example({"auth_time": 10**400})
@example({"department": [10**400]})
@example({"aud": {"api://llm": 1}})
@example({"cnf": {"x5t#S256": None}})
@example({"act": {"act": {"act": {"sub": "x"}}}})
def test_any_claims_of_any_type_are_judged(claims: dict[str, Any]) -> None:
    judged(issuer().signed(json.dumps({**issuer().claims(), **claims}).encode()))


@given(st.sampled_from(CLAIMS), values)
def test_any_one_claim_of_any_type_is_judged(claim: str, value: Any) -> None:
    judged(issuer().signed(json.dumps({**issuer().claims(), claim: value}).encode()))


@functools.cache
def good() -> bytes:
    token = issuer().token().encode()
    assert 200 == outcome(b"Bearer " + token)[0]
    return token


@settings(max_examples=500)
@given(st.data())
def test_a_token_with_any_one_byte_changed_is_never_accepted(data: st.DataObject) -> None:
    token = bytearray(good())
    place = data.draw(st.integers(0, len(token) - 1))
    token[place] = data.draw(st.integers(0, 255).filter(lambda byte: byte != token[place]))
    changed = bytes(token)
    refused(b"Bearer " + changed)


def test_a_token_with_any_one_character_changed_left_out_or_said_twice_is_never_accepted() -> None:
    token = good()
    for place in range(len(token)):
        for other in (b"A", b"_", b".", b"=", b""):
            if token[place : place + 1] != other:
                refused(b"Bearer " + token[:place] + other + token[place + 1 :])
        refused(b"Bearer " + token[:place] + token[place : place + 1] + token[place:])


@given(st.binary(max_size=24))
def test_what_is_decoded_has_one_text(text: bytes) -> None:
    try:
        value = decode(text)
    except InvalidBase64urlError:
        return
    assert text == encode(value)


@given(st.binary(max_size=64))
def test_what_is_encoded_is_decoded(value: bytes) -> None:
    assert value == decode(encode(value))


@given(st.binary(max_size=12), st.sampled_from([b"Bearer", b"bearer", b"DPoP", b"Basic", b""]))
def test_any_value_of_the_header_is_decided_on(value: bytes, scheme: bytes) -> None:
    refused(scheme + b" " + value)


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer ", b"Bearer  ", b"Bearer a b", b"\xff", b"Bearer \xff", b"ey.ey.ey", b"Bearer ey.ey.ey"]
)
def test_what_is_no_credential_is_refused(value: bytes) -> None:
    refused(value)
