"""Tokens that must not be believed: one test for each kind of attack, through real requests."""

import functools
import hashlib
import hmac
import json
import logging
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwe
from joserfc.jwk import OctKey

from llm_authmw import ClaimMap, ConfigurationError, Decision, Issuer, JWTMiddleware
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.reasons import REASONS
from llm_authmw.testing import ManualClock, Response, SigningKey, TestIssuer, make_signing_key, sign, stream
from llm_authmw.testing.scripted import Reply, Script, ScriptedClient
from llm_authmw.testing.witness import Witness
from llm_authmw.tokens.base64url import decode, encode
from llm_authmw.tokens.keys import read_keys

pytestmark = pytest.mark.anyio

LAYER = "JWTMiddleware"
ISSUER = "https://issuer.example"
JWKS_URL = "https://issuer.example/jwks"
METADATA_URL = "https://issuer.example/.well-known/openid-configuration"
AUDIENCE = "api://llm"

# The order of the group of P-256 (FIPS 186-5).
P_256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

Changes: TypeAlias = dict[str, Any]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(clock: ManualClock) -> TestIssuer:
    return TestIssuer(ISSUER, algorithm="ES256", clock=clock)


async def ask(layer: Any, *lines: tuple[bytes, bytes]) -> tuple[Response, list[Decision]]:
    async with stream(layer, "POST /v1/chat/completions", headers=lines) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY].decisions


async def refused(trusted: Issuer, token: str | bytes, reason: str) -> None:
    """Send a token, and see that it is refused for this reason, and that nobody is told more than may be.

    A token that cannot be read, or names no issuer of the layer's, is left to the layers beside it; there is none.
    """
    app = Witness()
    token = token.encode("utf-8", "surrogatepass") if isinstance(token, str) else token
    response, decisions = await ask(JWTMiddleware(app, issuers=[trusted]), (b"authorization", b"Bearer " + token))
    assert [] == app.scopes
    exact, *before = [(decision.outcome, decision.reason) for decision in reversed(decisions)]
    assert ("denied", reason) == exact
    assert before == ([("passed", None)] if reason == "invalid_token" else [])
    known = REASONS[reason]
    told = REASONS[known.public or reason]
    assert told.status == response.status
    assert (known.public or reason) == response.header("x-authmw-reason")
    kind = {400: "invalid_request_error", 401: "authentication_error", 503: "server_error"}[told.status]
    assert {"error": {"message": told.message, "type": kind, "param": None, "code": known.public or reason}} == response.json()
    error = {400: 'Bearer error="invalid_request"', 401: 'Bearer error="invalid_token"', 503: None}[told.status]
    assert error == response.header("www-authenticate")


async def accepted(trusted: Issuer, token: str) -> None:
    app = Witness()
    response, decisions = await ask(JWTMiddleware(app, issuers=[trusted]), (b"authorization", f"Bearer {token}".encode()))
    assert (200, ["allowed"]) == (response.status, [decision.outcome for decision in decisions])


def compact(header: Any, payload: Any, signature: bytes = b"") -> str:
    """Return a token out of any parts, bytes as they are and anything else as JSON."""
    parts = [part if isinstance(part, bytes) else msgspec.json.encode(part) for part in (header, payload)]
    return b".".join(encode(part) for part in (*parts, signature)).decode()


def publishing(*keys: Any, clock: ManualClock, **options: Any) -> Issuer:
    """Return an issuer that publishes exactly these keys, whatever they are."""
    client = ScriptedClient({JWKS_URL: Reply(body={"keys": list(keys)})})
    return Issuer(ISSUER, audience="api://llm", jwks_url=JWKS_URL, http=client, clock=clock, **options)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", " none", "none ", "none\x00", ""])
async def test_a_token_without_a_signature_is_refused_however_that_is_spelt(issuer: TestIssuer, name: str) -> None:
    """CVE-2015-9235."""
    signature = issuer.token().rpartition(".")[2]
    header = {"alg": name, "kid": issuer.keys[0].kid}
    for end in ("", signature):
        await refused(issuer.trusted(), compact(header, issuer.claims()) + end, "token_algorithm_not_allowed")


def test_none_and_an_empty_list_are_no_algorithms_to_allow() -> None:
    for algorithms in ([], ["none"], ["None"], ["RS256", "none"], "RS256", ["ES256K"], ["dir"]):
        with pytest.raises(ConfigurationError, match=r"^algorithms: "):
            Issuer(ISSUER, audience="api://llm", algorithms=algorithms)  # type: ignore[arg-type]


@functools.cache
def rsa_key() -> SigningKey:
    """Return a key that is made once, since that takes a while."""
    return make_signing_key("RS256", kid="rsa")


@functools.cache
def public_texts() -> dict[str, bytes]:
    """Return an RSA public key in the texts that have been taken for HMAC secrets."""
    public = rsa_key().private.public_key
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    jwk = msgspec.json.encode(rsa_key().private.as_dict(private=False))
    return {
        "PEM": pem,
        "PEM of PKCS 1": public.public_bytes(Encoding.PEM, PublicFormat.PKCS1),
        "PEM with blanks before": b" \n" + pem,
        "PEM without its line break": pem.strip(),
        "PEM that is cut": pem[:300],
        "DER": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "SSH": public.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
        "JWK": jwk,
        "JWK with blanks before": b" " + jwk,
    }


TEXTS = ["PEM", "PEM of PKCS 1", "PEM with blanks before", "PEM without its line break", "PEM that is cut", "DER", "SSH", "JWK"]
TEXTS.append("JWK with blanks before")


@pytest.mark.parametrize("text", TEXTS)
async def test_what_is_signed_with_a_public_key_as_the_secret_is_refused(clock: ManualClock, text: str) -> None:
    """CVE-2024-33663 of python-jose and its bypass by DER, CVE-2026-48526, CVE-2026-39999, CVE-2026-34950: algorithm confusion."""
    issuer = TestIssuer(ISSUER, algorithm="ES256", clock=clock)
    issuer.keys = [rsa_key()]
    for kid in ({}, {"kid": "rsa"}):
        message = b".".join(encode(msgspec.json.encode(part)) for part in ({"alg": "HS256", **kid}, issuer.claims()))
        forged = (message + b"." + encode(hmac.digest(public_texts()[text], message, hashlib.sha256))).decode()
        await refused(issuer.trusted(), forged, "token_algorithm_not_allowed")
        await refused(issuer.trusted(algorithms=["RS256"]), forged, "token_algorithm_not_allowed")


@pytest.mark.parametrize("text", TEXTS)
def test_a_public_key_is_no_secret_to_configure(text: str) -> None:
    secret = public_texts()[text]
    if text == "DER":
        # It is no text, so it comes as a published secret only, if at all.
        published = {"keys": [{"kty": "oct", "k": encode(secret).decode()}]}
        assert ((), 1) == (read_keys(published, symmetric=True).keys, read_keys(published, symmetric=True).skipped)
        return
    with pytest.raises(ConfigurationError, match=r"^secret: ") as caught:
        Issuer(ISSUER, audience=AUDIENCE, secret=secret.decode())
    assert secret.decode() not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"algorithms": ["HS256"]},
        {"algorithms": ["HS256", "RS256"]},
        {"algorithms": ["HS256"], "jwks_url": JWKS_URL},
        {"algorithms": ["HS256", "RS256"], "secret": "s" * 64},
        {"algorithms": ["RS256"], "secret": "s" * 64},
    ],
)
def test_secrets_and_public_keys_are_never_mixed(options: Changes) -> None:
    with pytest.raises(ConfigurationError, match=r"^algorithms: "):
        Issuer(ISSUER, audience=AUDIENCE, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {"alg": "ES384"},
        {"alg": "RS256"},
        {"alg": "ECDH-ES"},
        {"alg": None},
        {"alg": ["ES256"]},
        {"alg": ""},
        {"use": "enc"},
        {"use": None},
        {"use": "signature"},
        {"key_ops": ["sign"]},
        {"key_ops": []},
        {"key_ops": "verify"},
        {"key_ops": ["encrypt", "wrapKey"]},
        {"kty": "RSA"},
        {"kty": "OKP"},
        {"kty": "oct"},
        {"crv": "P-384"},
        {"crv": "secp256k1"},
        {"crv": 256},
    ],
    ids=str,
)
async def test_a_key_that_is_for_something_else_verifies_nothing(issuer: TestIssuer, clock: ManualClock, changes: Changes) -> None:
    """CVE-2026-48523 of PyJWT: `alg` and `use` of the key were ignored."""
    other = make_signing_key("ES256", kid="other").public()
    published = publishing(issuer.keys[0].public() | changes, other, clock=clock)
    await refused(published, issuer.token(), "token_key_unknown")
    await accepted(publishing(issuer.keys[0].public() | {"key_ops": ["verify"]}, other, clock=clock), issuer.token())


async def test_a_token_with_another_algorithm_of_the_same_family_is_refused(clock: ManualClock) -> None:
    issuer = TestIssuer(ISSUER, algorithm="ES256", clock=clock)
    issuer.keys = [rsa_key()]
    for other in ("RS384", "RS512", "PS256", "PS384", "PS512"):
        token = issuer.token(key=rsa_key()._replace(algorithm=other))
        await refused(issuer.trusted(), token, "token_key_unknown")
        await refused(issuer.trusted(algorithms=["RS256"]), token, "token_algorithm_not_allowed")
    await accepted(issuer.trusted(algorithms=["RS256"]), issuer.token())


@pytest.mark.parametrize("kid", ["the issuer's", "the attacker's", None])
@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256"])
async def test_a_header_brings_no_keys(issuer: TestIssuer, member: str, kid: str | None) -> None:
    """CVE-2026-27962 of Authlib: the key in the header verified its own token. Nothing is fetched that a header names."""
    attacker = make_signing_key("ES256", kid="attacker")
    certificate = "MIIBszCCAVmgAwIBAgIUcYWY8ahmfFkzcg=="
    material: Changes = {
        "jwk": attacker.public(),
        "jku": "https://attacker.example/jwks",
        "x5u": "https://attacker.example/chain.pem",
        "x5c": [certificate],
        "x5t": "dGh1bWJwcmludA",
        "x5t#S256": "dGh1bWJwcmludA",
    }
    kids = {"the issuer's": issuer.keys[0].kid, "the attacker's": attacker.kid, None: None}
    trusted = issuer.trusted()
    await accepted(trusted, issuer.token())
    asked = issuer.hits.copy()
    token = issuer.token(key=attacker, header={member: material[member], "kid": kids[kid]})
    await refused(trusted, token, "token_key_unknown" if kid == "the attacker's" else "token_signature_invalid")
    assert asked.keys() == issuer.hits.keys() == {"/.well-known/openid-configuration", "/jwks"}
    await accepted(trusted, issuer.token(header={member: material[member]}))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/keys.json",
        "data:application/json,{}",
        "ftp://keys.example/jwks",
        "http://keys.example/jwks",
        "http://169.254.169.254/jwks",
        "http://[::ffff:127.0.0.1]@keys.example/",
        "https://user:secret@keys.example/jwks",
        "https://",
        "//keys.example/jwks",
        "gopher://127.0.0.1/",
    ],
)
async def test_keys_come_over_https_and_from_nowhere_else(issuer: TestIssuer, clock: ManualClock, url: str) -> None:
    """CVE-2026-48522 of PyJWT: file and data URLs. In the operator's configuration they are an error, in metadata nothing."""
    with pytest.raises(ConfigurationError, match=r"^jwks_url: "):
        Issuer(ISSUER, audience=AUDIENCE, jwks_url=url)
    client = ScriptedClient({METADATA_URL: Reply(body={"issuer": ISSUER, "jwks_uri": url})})
    await refused(Issuer(ISSUER, audience=AUDIENCE, http=client, clock=clock), issuer.token(), "issuer_unavailable")
    assert [METADATA_URL] == client.asked


@pytest.mark.parametrize(
    "reply",
    [
        Reply(302, headers={"location": "https://elsewhere.example/jwks"}),
        Reply(200, b" " * 2_000_000),
        Reply(200, b"<html>Please log in.</html>"),
        Reply(200, b'{"keys":[]}'),
        Reply(200, b'{"keys":[],"keys":[]}'),
        Reply(200, b"[" * 100_000),
        Reply(200, b'{"keys":{}}'),
        Reply(200, b'{"keys":[' + b"{}," * 101 + b"{}]}"),
        Reply(200, b""),
        Reply(500, b'{"keys":[]}'),
        ConnectionError("refused"),
    ],
    ids=["redirect", "endless", "HTML", "empty", "twice", "deep", "no list", "many", "nothing", "500", "refused"],
)
async def test_whatever_the_issuer_sends_no_key_is_a_failed_check_and_no_bad_token(
    issuer: TestIssuer, clock: ManualClock, reply: Script
) -> None:
    client = ScriptedClient({JWKS_URL: reply, "https://elsewhere.example/jwks": Reply(body={"keys": [issuer.keys[0].public()]})})
    trusted = Issuer(ISSUER, audience=AUDIENCE, jwks_url=JWKS_URL, http=client, clock=clock)
    await refused(trusted, issuer.token(), "issuer_unavailable")
    assert [JWKS_URL] == client.asked


async def test_a_flood_of_made_up_key_ids_costs_one_question_per_interval_and_no_key(issuer: TestIssuer, clock: ManualClock) -> None:
    """CVE-2025-64527 of Envoy; CVE-2026-48524 of PyJWT, which dropped its keys on errors."""
    trusted = issuer.trusted()
    await accepted(trusted, issuer.token())
    for number in range(100):
        await refused(trusted, issuer.token(header={"kid": f"made-up-{number}"}), "token_key_unknown")
    assert 2 == issuer.hits["/jwks"]
    clock.advance(30)
    issuer.go_down("refused")
    for number in range(100):
        await refused(trusted, issuer.token(header={"kid": f"again-{number}"}), "issuer_unavailable")
    assert 3 == issuer.hits["/.well-known/openid-configuration"]
    await accepted(trusted, issuer.token())


KIDS = [
    "../../etc/passwd",
    "/dev/null",
    "' OR 1=1 --",
    "https://attacker.example/key",
    "key\x00",
    "${jndi:ldap://x}",
    "\u202ekey",
    "k" * 256,
]


@pytest.mark.parametrize("kid", KIDS)
async def test_a_key_id_is_looked_up_and_nothing_else(issuer: TestIssuer, kid: str) -> None:
    await refused(issuer.trusted(), issuer.token(header={"kid": kid}), "token_key_unknown")
    assert {"/.well-known/openid-configuration", "/jwks"} == issuer.hits.keys()


@pytest.mark.parametrize("kid", [5, 1.5, True, ["key"], {"key": 1}, "", "k" * 257, "k" * 10_000], ids=lambda kid: str(kid)[:12])
async def test_a_key_id_that_is_no_short_text_makes_no_token(issuer: TestIssuer, kid: Any) -> None:
    await refused(issuer.trusted(), issuer.token(header={"kid": kid}), "invalid_token")
    assert {} == issuer.hits


CRITICAL: list[Any] = [["exp"], ["alg"], ["b64"], ["x"], [], "exp", None, 5, {}, [5], ["exp", "exp"], [""]]


@pytest.mark.parametrize("crit", CRITICAL, ids=str)
async def test_a_header_with_critical_members_is_refused(issuer: TestIssuer, crit: Any) -> None:
    """CVE-2026-32597 of PyJWT, CVE-2025-59420 of Authlib, GHSA-hm7r-c7qw-ghp6 of fast-jwt; RFC 7515 §4.1.11."""
    claims = msgspec.json.encode(issuer.claims())
    header = {"alg": "ES256", "kid": issuer.keys[0].kid, "exp": 1, "crit": crit}
    await refused(issuer.trusted(), sign(header, claims, issuer.keys[0]), "invalid_token")
    del header["crit"]
    await accepted(issuer.trusted(), sign(header, claims, issuer.keys[0]))


@pytest.mark.parametrize("b64", [False, True, None, 0, "false"])
async def test_an_unencoded_payload_is_refused(issuer: TestIssuer, b64: Any) -> None:
    """GHSA-wphv-vfrh-23q5 of joserfc, CVE-2026-48525 of PyJWT; RFC 7797 §7."""
    payload = msgspec.json.encode(issuer.claims())
    header = {"alg": "ES256", "kid": issuer.keys[0].kid, "b64": b64}
    await refused(issuer.trusted(), sign(header, payload, issuer.keys[0]), "invalid_token")
    signed = sign({**header, "crit": ["b64"]}, payload, issuer.keys[0])
    first, _, last = signed.split(".")
    await refused(issuer.trusted(), f"{first}.{payload.decode().replace('.', '')}.{last}", "invalid_token")


def raw(issuer: TestIssuer, *, header: bytes | None = None, payload: bytes | None = None) -> str:
    """Return a token that the issuer has really signed, over a header and a payload of any bytes."""
    key = issuer.keys[0]
    usual = {"alg": key.algorithm, "kid": key.kid}
    return sign(usual if header is None else header, msgspec.json.encode(issuer.claims()) if payload is None else payload, key)


def with_members(issuer: TestIssuer, more: bytes) -> bytes:
    """Return the payload of a good token with more members, as they are written."""
    return msgspec.json.encode(issuer.claims())[:-1] + b"," + more + b"}"


@pytest.mark.parametrize(
    "more",
    [
        b'"sub":"root"',
        b'"sub":"ada"',
        b'"s\\u0075b":"root"',
        b'"exp" : 9999999999',
        b'"aud"\n:"other"',
        b'"x":{"a":1,"a":1}',
        b'"x":[{"a":1,"a" :2}]',
    ],
    ids=repr,
)
async def test_a_payload_that_says_something_twice_is_refused(issuer: TestIssuer, more: bytes) -> None:
    """Two parsers read two tokens out of it (RFC 8725 §2.4); joserfc keeps the last."""
    await refused(issuer.trusted(), raw(issuer, payload=with_members(issuer, more)), "invalid_token")
    await accepted(issuer.trusted(), raw(issuer, payload=with_members(issuer, b'"x":"\\"sub\\":\\"root\\"", "y":{"a":1}, "z":{"a":1}')))


@pytest.mark.parametrize("more", [b'"alg":"none"', b'"alg":"ES256"', b'"\\u0061lg":"HS256"', b'"kid" :"x"', b'"x":{"a":1,"a":2}'], ids=repr)
async def test_a_header_that_says_something_twice_is_refused(issuer: TestIssuer, more: bytes) -> None:
    usual = msgspec.json.encode({"alg": "ES256", "kid": issuer.keys[0].kid})
    await refused(issuer.trusted(), raw(issuer, header=usual[:-1] + b"," + more + b"}"), "invalid_token")


BIG = b"1" + b"0" * 400
NO_MOMENTS = [b"true", b"false", b'"1800000600"', b"[1800000600]", b"{}", b"1e13", b"-1e13", b"1e308", b"9" * 30, BIG, b"-" + BIG]
NO_NUMBERS = [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"-1e400", b"0x7fffffff", b"1" * 5000, b"1_000", b"01", b"1.", b"+1"]


@pytest.mark.parametrize("value", [*NO_MOMENTS, *NO_NUMBERS], ids=lambda value: value[:12].decode())
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_a_time_that_is_no_moment_is_refused(issuer: TestIssuer, claim: str, value: bytes) -> None:
    """joserfc below 1.8 took NaN for an end that never comes."""
    claims = {name: it for name, it in issuer.claims().items() if name != claim}
    payload = msgspec.json.encode(claims)[:-1] + b',"%s":%s}' % (claim.encode(), value)
    await refused(issuer.trusted(), raw(issuer, payload=payload), "token_claim_invalid" if value in NO_MOMENTS else "invalid_token")


@pytest.mark.parametrize("claims", [{"exp": None}, {"exp": None, "iat": None}])
async def test_a_token_without_an_end_is_refused(issuer: TestIssuer, claims: Changes) -> None:
    await refused(issuer.trusted(), issuer.token(**claims), "token_claim_missing")
    payload = msgspec.json.encode({**issuer.claims(), "exp": None})
    await refused(issuer.trusted(), raw(issuer, payload=payload), "token_claim_missing")


OTHER_KINDS: dict[str, tuple[Changes, Changes]] = {
    "ID token": ({"typ": "JWT"}, {"nonce": "n-0S6"}),
    "ID token of a code flow": ({"typ": "JWT"}, {"at_hash": "x"}),
    "ID token of a hybrid flow": ({"typ": None}, {"c_hash": "x"}),
    "ID token of Keycloak": ({"typ": "JWT"}, {"typ": "ID"}),
    "ID token of Cognito": ({"typ": None}, {"token_use": "id"}),
    "refresh token of Keycloak": ({"typ": "JWT"}, {"typ": "Refresh"}),
    "offline token of Keycloak": ({"typ": "JWT"}, {"typ": "Offline"}),
    "logout token": ({"typ": "logout+jwt"}, {}),
    "logout token, the long way": ({"typ": "application/LOGOUT+jwt"}, {}),
    "logout token without a type": ({"typ": "JWT"}, {"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
    "security event": ({"typ": "secevent+jwt"}, {}),
    "introspection answer": ({"typ": "token-introspection+jwt"}, {}),
    "proof of possession": ({"typ": "dpop+jwt"}, {}),
    "authorization request": ({"typ": "oauth-authz-req+jwt"}, {}),
    "key binding": ({"typ": "kb+jwt"}, {}),
    "status list": ({"typ": "statuslist+jwt"}, {}),
    "entity statement": ({"typ": "entity-statement+jwt"}, {}),
    "client authentication": ({"typ": "client-authentication+jwt"}, {}),
}


@pytest.mark.parametrize("kind", OTHER_KINDS)
async def test_a_token_of_another_kind_is_refused(issuer: TestIssuer, kind: str) -> None:
    """RFC 8725 §2.8, RFC 9068 §4: what the same issuer signs with the same key for another use."""
    header, claims = OTHER_KINDS[kind]
    token = issuer.token(header=header, **claims)
    await refused(issuer.trusted(), token, "token_type_mismatch")
    await refused(issuer.trusted(typ="at+jwt"), token, "token_type_mismatch" if header != {} else "token_claim_missing")


@pytest.mark.parametrize(
    "aud",
    [
        None,
        "",
        [],
        "api://ll",
        "api://llm2",
        "api://LLM",
        " api://llm",
        ["api://other"],
        ["api://llm", 5],
        ["api://llm", None],
        5,
        True,
        {"api://llm": 1},
    ],
    ids=repr,
)
async def test_a_token_for_another_audience_is_refused(issuer: TestIssuer, aud: Any) -> None:
    """MCP Python SDK 1445, 1454; LiteLLM takes any audience unless a variable is set."""
    await refused(issuer.trusted(), issuer.token(aud=aud), "audience_mismatch")
    await accepted(issuer.trusted(), issuer.token(aud=["api://other", AUDIENCE]))


def test_an_issuer_without_an_audience_is_not_made() -> None:
    for audience in ([], "", [""], None, 5):
        with pytest.raises(ConfigurationError, match=r"^audience: "):
            Issuer(ISSUER, audience=audience)  # type: ignore[arg-type]


async def test_issuers_with_one_key_id_and_one_subject_are_never_mixed_up(clock: ManualClock) -> None:
    """GHSA-4mq7-pvjg-xp2r of Oathkeeper: what was verified for one issuer counted for another."""
    red, blue = (TestIssuer(f"https://{name}.example", algorithm="ES256", clock=clock) for name in ("red", "blue"))
    red.keys, blue.keys = [make_signing_key("ES256", kid="1")], [make_signing_key("ES256", kid="1")]
    app = Witness()
    layer = JWTMiddleware(app, issuers=[red.trusted(), blue.trusted()])
    for issuer in (red, blue, red):
        response, _ = await ask(layer, (b"authorization", f"Bearer {issuer.token(jti='1')}".encode()))
        assert 200 == response.status
    assert ["default/https:%2F%2Fred.example/ada", "default/https:%2F%2Fblue.example/ada"] == [
        scope["user"].identity for scope in app.scopes[:2]
    ]
    for forged in (red.token(iss=blue.issuer), blue.token(iss=red.issuer)):
        response, decisions = await ask(layer, (b"authorization", f"Bearer {forged}".encode()))
        assert (401, "token_signature_invalid") == (response.status, decisions[-1].reason)
    assert 3 == len(app.scopes)


@pytest.mark.parametrize(
    "iss", ["https://issuer.example/", "https://ISSUER.example", "https://issuer.example\x00", "", None, 5, ["https://issuer.example"]]
)
async def test_an_issuer_is_compared_to_the_letter(issuer: TestIssuer, iss: Any) -> None:
    await refused(issuer.trusted(), issuer.token(iss=iss), "invalid_token")
    assert {} == issuer.hits


def weak(bits: int, exponent: int = 65537) -> dict[str, Any]:
    """Return a published RSA key of this size; whether its modulus has two factors is of no account."""
    modulus, size = (1 << (bits - 1)) + 12_345_677, (bits + 7) // 8
    return {
        "kty": "RSA",
        "kid": "weak",
        "n": encode(modulus.to_bytes(size)).decode(),
        "e": encode(exponent.to_bytes((exponent.bit_length() + 7) // 8)).decode(),
    }


def roca() -> dict[str, Any]:
    """Return a key with the fingerprint of CVE-2017-15361: its modulus is a power of 65537 modulo the product of small primes."""
    primes = [prime for prime in range(3, 168) if all(prime % other for other in range(2, math.isqrt(prime) + 1))]
    product = math.prod(primes)
    modulus = pow(65537, 12_345, product) + product * ((1 << 2047) // product + 1)
    modulus += product * (1 - modulus % 2)
    return {"kty": "RSA", "kid": "weak", "n": encode(modulus.to_bytes(256)).decode(), "e": "AQAB"}


WEAK = {
    "1024 bits": lambda: weak(1024),
    "2047 bits": lambda: weak(2047),
    "16384 bits": lambda: weak(16_384),
    "exponent 1": lambda: weak(2048, 1),
    "exponent 3": lambda: weak(2048, 3),
    "even exponent": lambda: weak(2048, 65_538),
    "ROCA": roca,
}


@pytest.mark.parametrize("kind", WEAK)
async def test_a_weak_key_is_no_key(issuer: TestIssuer, clock: ManualClock, kind: str) -> None:
    """CVE-2017-15361; RFC 7518 §3.3."""
    trusted = publishing(WEAK[kind](), issuer.keys[0].public(), clock=clock)
    await refused(trusted, issuer.token(header={"alg": "RS256", "kid": "weak"}), "token_key_unknown")
    await accepted(trusted, issuer.token())
    with pytest.raises(ConfigurationError, match=r"^jwks: "):
        Issuer(ISSUER, audience=AUDIENCE, jwks={"keys": [WEAK[kind]()]})


@pytest.mark.parametrize(("algorithm", "length"), [("HS256", 31), ("HS384", 47), ("HS512", 63)])
def test_a_short_secret_is_no_secret(algorithm: str, length: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"^secret: is shorter than the {length + 1} bytes"):
        Issuer(ISSUER, audience=AUDIENCE, secret="s" * length, algorithms=[algorithm])
    Issuer(ISSUER, audience=AUDIENCE, secret="s" * (length + 1), algorithms=[algorithm])


def pair(r: int, s: int, size: int = 32) -> bytes:
    return r.to_bytes(size) + s.to_bytes(size)


SIGNATURES = {
    "both zero": pair(0, 0),
    "r is zero": pair(0, 1),
    "s is zero": pair(1, 0),
    "r is the order": pair(P_256_ORDER, 1),
    "s is the order": pair(1, P_256_ORDER),
    "both the order": pair(P_256_ORDER, P_256_ORDER),
    "both one": pair(1, 1),
    "all ones": b"\xff" * 64,
    "nothing": b"",
    "one byte": b"\x00",
    "half": b"\x01" * 32,
    "one byte short": b"\x01" * 63,
    "one byte long": b"\x01" * 65,
    "DER": bytes.fromhex("3006020101020101"),
}


@pytest.mark.parametrize("signature", SIGNATURES)
async def test_a_signature_that_no_key_makes_is_refused(issuer: TestIssuer, signature: str) -> None:
    """CVE-2022-21449: r = s = 0 was good for every message."""
    token = issuer.token().rpartition(".")[0] + "." + encode(SIGNATURES[signature]).decode()
    await refused(issuer.trusted(), token, "token_signature_invalid")


async def test_a_signature_in_another_form_is_not_the_same(issuer: TestIssuer) -> None:
    head, _, last = issuer.token().rpartition(".")
    signature = decode(last.encode())
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    for other in (pair(r, s, 33), pair(s, r), signature + b"\x00", b"\x00" + signature, pair(r, s)[::-1]):
        await refused(issuer.trusted(), f"{head}.{encode(other).decode()}", "token_signature_invalid")


BAD_ENTRIES: dict[str, Callable[[SigningKey], Any]] = {
    "a private key": lambda key: {**key.private.as_dict(private=True), "kid": "bad"},
    "a secret": lambda key: {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "bad"},
    "a secret that is a public key": lambda key: {"kty": "oct", "k": encode(public_texts()["PEM"]).decode(), "kid": "bad"},
    "no object": lambda key: "key",
    "nothing": lambda key: None,
    "an empty object": lambda key: {},
    "an unknown type": lambda key: {"kty": "PQC", "kid": "bad"},
    "a point that is on no curve": lambda key: {**key.public(), "x": key.public()["y"], "kid": "bad"},
    "a short coordinate": lambda key: {**key.public(), "x": "AQ", "kid": "bad"},
    "no coordinate": lambda key: {"kty": "EC", "crv": "P-256", "kid": "bad"},
    "a coordinate with padding": lambda key: {**key.public(), "x": key.public()["x"] + "=", "kid": "bad"},
    "a coordinate that is a number": lambda key: {**key.public(), "x": 5, "kid": "bad"},
    "an id that is a number": lambda key: {**key.public(), "kid": 5},
    "a long id": lambda key: {**key.public(), "kid": "k" * 257},
}


@pytest.mark.parametrize("entry", BAD_ENTRIES)
async def test_a_bad_key_in_a_set_is_left_out_and_the_others_stay(
    issuer: TestIssuer, clock: ManualClock, caplog: pytest.LogCaptureFixture, entry: str
) -> None:
    """joserfc takes private and symmetric ones, and fails the whole set over a malformed one."""
    caplog.set_level(logging.WARNING)
    bad: Any = BAD_ENTRIES[entry](issuer.keys[0])
    await accepted(publishing(bad, issuer.keys[0].public(), clock=clock), issuer.token())
    assert f"keys in the set of {ISSUER} that cannot be used, and are left out: 1" in caplog.text
    trusted = publishing(bad, issuer.keys[0].public(), clock=clock)
    await refused(trusted, issuer.token(header={"kid": "bad"}), "token_key_unknown")
    if entry.startswith("a secret"):
        message = b".".join(encode(msgspec.json.encode(part)) for part in ({"alg": "HS256", "kid": "bad"}, issuer.claims()))
        forged = message + b"." + encode(hmac.digest(decode(bad["k"].encode()), message, "sha256"))
        await refused(trusted, forged, "token_algorithm_not_allowed")


async def test_of_two_keys_with_one_id_neither_is_used(clock: ManualClock) -> None:
    issuer = TestIssuer(ISSUER, algorithm="ES256", clock=clock)
    one, two, other = (make_signing_key("ES256", kid=kid) for kid in ("same", "same", "other"))
    trusted = publishing(one.public(), two.public(), other.public(), clock=clock)
    for key in (one, two):
        await refused(trusted, issuer.token(key=key), "token_key_unknown")
        await refused(trusted, issuer.token(key=key, header={"kid": None}), "token_signature_invalid")
    await accepted(trusted, issuer.token(key=other))


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


async def test_sizes_and_depths_are_bounded(issuer: TestIssuer) -> None:
    """CVE-2025-61920 of Authlib, CVE-2019-12995 of Envoy."""
    usual = {"alg": "ES256", "kid": issuer.keys[0].kid}
    for payload in (nested(65), b"[" * 8_000, b'{"a":' * 2_000, b"[" * 4_000 + b"]" * 4_000):
        await refused(issuer.trusted(), raw(issuer, payload=payload), "invalid_token")
        await refused(issuer.trusted(), raw(issuer, payload=with_members(issuer, b'"x":' + payload)), "invalid_token")
        await refused(issuer.trusted(), raw(issuer, header=payload), "invalid_token")
    await refused(issuer.trusted(), issuer.token(header={**usual, "x": "x" * 4_000}), "invalid_token")
    await refused(issuer.trusted(), issuer.token(groups=["g"] * 3_100), "malformed_credential")
    many: dict[str, Any] = {f"claim-{number}": number for number in range(400)}
    await accepted(issuer.trusted(), issuer.token(**many))
    await refused(
        issuer.trusted(claims=ClaimMap(groups="groups")), issuer.token(groups=[str(n) for n in range(257)]), "token_claim_invalid"
    )
    app = Witness()
    response, _ = await ask(JWTMiddleware(app, issuers=[issuer.trusted()]), (b"authorization", b"Bearer eyJ" + b"a" * 20_000_000))
    assert (400, []) == (response.status, app.scopes)


@pytest.mark.parametrize(
    "header", [{"alg": "dir", "enc": "A256GCM"}, {"alg": "dir", "enc": "A256GCM", "zip": "DEF"}], ids=["JWE", "zipped"]
)
async def test_an_encrypted_token_is_none(issuer: TestIssuer, header: Changes) -> None:
    """CVE-2024-33664, CVE-2026-27932, CVE-2023-50967: compression and PBES2 as bombs."""
    encrypted = jwe.encrypt_compact(header, issuer.token().encode(), OctKey.generate_key(256))
    await refused(issuer.trusted(), encrypted, "invalid_token")
    bomb = {"alg": "PBES2-HS256+A128KW", "enc": "A128CBC-HS256", "p2c": 2**31 - 1, "p2s": "c2FsdHNhbHRzYWx0"}
    await refused(issuer.trusted(), compact(bomb, issuer.claims()) + ".AAAA.AAAA", "invalid_token")
    await refused(issuer.trusted(), compact(bomb, issuer.claims(), b"signature"), "invalid_token")
    for member in ("zip", "enc"):
        await refused(issuer.trusted(), issuer.token(header={member: "DEF"}), "invalid_token")


async def test_what_is_remembered_of_one_token_is_no_other_token_s(issuer: TestIssuer, clock: ManualClock) -> None:
    """CVE-2026-35030 of LiteLLM (the first 20 characters), CVE-2026-35039 of fast-jwt; an entry never outlives its token or its key."""
    trusted, app = issuer.trusted(), Witness()
    layer = JWTMiddleware(app, issuers=[trusted])
    token = issuer.token(sub="ada", exp=int(clock.now()) + 100)
    head, _, last = token.rpartition(".")
    for _ in range(2):
        await accepted(trusted, token)
        for other in (f"{head}.", f"{head}.{last[:-4]}", f"{head}.AAAA{last[4:]}", f"{head}.{last[:-1]}{'A' if last[-1] != 'A' else 'Q'}"):
            response, decisions = await ask(layer, (b"authorization", f"Bearer {other}".encode()))
            assert (401, []) == (response.status, app.scopes)
            assert decisions[-1].reason in {"token_signature_invalid", "invalid_token"}
    await refused(issuer.trusted(audience="api://other"), token, "audience_mismatch")
    clock.advance(104.9)
    await accepted(trusted, token)
    clock.advance(0.1)
    await refused(trusted, token, "token_expired")


async def test_a_token_whose_key_was_withdrawn_is_refused_though_it_is_remembered(issuer: TestIssuer, clock: ManualClock) -> None:
    trusted = issuer.trusted()
    token = issuer.token(exp=int(clock.now()) + 86_400)
    await accepted(trusted, token)
    issuer.rotate(keep=False)
    clock.advance(30)
    await accepted(trusted, issuer.token())
    await refused(trusted, token, "token_key_unknown")


async def test_what_is_refused_says_nothing_of_the_token_or_the_keys(
    issuer: TestIssuer, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2022-29266 of APISIX: errors that tell secrets."""
    caplog.set_level(logging.DEBUG)
    secret = "needle-in-the-claims"
    tokens = [
        issuer.token(sub=secret, aud=secret),
        issuer.token(sub=secret, exp=1),
        issuer.token(sub=[secret]),
        issuer.token(key=make_signing_key("ES256", kid=secret)),
        issuer.token(header={"alg": secret}),
        issuer.token(header={"typ": f"{secret}+jwt"}),
        issuer.token(nbf=secret),
        issuer.token(cnf={"jkt": secret}),
        issuer.token(iss=secret),
        issuer.token(jti=5, sub=secret),
    ]
    for token in tokens:
        app = Witness()
        response, decisions = await ask(JWTMiddleware(app, issuers=[issuer.trusted()]), (b"authorization", f"Bearer {token}".encode()))
        assert (401, []) == (response.status, app.scopes)
        shown = f"{response.headers!r} {response.text} {decisions!r} {caplog.text}"
        assert secret not in shown
        assert not [part for part in token.split(".") if part in shown]
        assert hashlib.sha256(token.encode()).hexdigest() not in shown


@pytest.mark.parametrize(
    "hd",
    [
        "corp.example.attacker.example",
        "xcorp.example",
        "corp_example",
        "CORP.example",
        "corp.example\n",
        "corp.example ",
        ["corp.example"],
        True,
    ],
)
async def test_a_required_value_is_compared_and_never_searched_for(issuer: TestIssuer, hd: Any) -> None:
    """GHSA-3j8v-cgw4-2g6q of fast-jwt: unanchored expressions."""
    trusted = issuer.trusted(required_claims={"hd": "corp.example"})
    await refused(trusted, issuer.token(hd=hd), "token_claim_invalid")
    await refused(trusted, issuer.token(), "token_claim_missing")
    await accepted(trusted, issuer.token(hd="corp.example"))


async def test_a_token_in_another_serialization_is_none(issuer: TestIssuer) -> None:
    protected, payload, signature = issuer.token().split(".")
    whole = {"payload": payload, "protected": protected, "signature": signature}
    general: list[Any] = [whole, {"payload": payload, "signatures": []}, {"payload": payload, "signatures": [whole]}]
    for text in general:
        await refused(issuer.trusted(), json.dumps(text, separators=(",", ":")), "invalid_token")
    for other in (
        f"{protected}.{payload}",
        f"{protected}.{payload}.{signature}.",
        f"{protected}..{signature}",
        f".{payload}.{signature}",
        "..",
        ".",
    ):
        await refused(issuer.trusted(), other, "invalid_token")


ENCODINGS: dict[str, Callable[[bytes], bytes]] = {
    "UTF-16": lambda text: text.decode().encode("utf-16"),
    "UTF-16 without a mark": lambda text: text.decode().encode("utf-16-le"),
    "UTF-32": lambda text: text.decode().encode("utf-32"),
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text,
    "Latin-1": lambda text: text[:-1] + b',"x":"\xe9"}',
    "lone surrogate": lambda text: text[:-1] + b',"x":"\\ud800"}',
    "encoded surrogate": lambda text: text[:-1] + b',"x":"\xed\xa0\x80"}',
    "NUL behind": lambda text: text + b"\x00",
    "second text behind": lambda text: text + text,
    "comment": lambda text: b"/**/" + text,
    "trailing comma": lambda text: text[:-1] + b",}",
    "single quotes": lambda text: text.replace(b'"', b"'"),
    "list": lambda text: b"[" + text + b"]",
    "text": lambda text: b'"' + text.replace(b'"', b'\\"') + b'"',
    "number": lambda text: b"5",
    "null": lambda text: b"null",
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_json_in_another_encoding_or_with_anything_around_it_is_refused(issuer: TestIssuer, encoding: str) -> None:
    """joserfc takes UTF-16, byte order marks and lone surrogates in payloads."""
    change = ENCODINGS[encoding]
    header = msgspec.json.encode({"alg": "ES256", "kid": issuer.keys[0].kid})
    await refused(issuer.trusted(), raw(issuer, payload=change(msgspec.json.encode(issuer.claims()))), "invalid_token")
    await refused(issuer.trusted(), raw(issuer, header=change(header)), "invalid_token")


@pytest.mark.parametrize(
    "sub", ["", " ada", "ada ", "a\x00da", "a\nda", "a\u202eda", "a\u2028da", "client:x", "key:x", "a" * 513, 5, True, ["ada"], {"a": 1}]
)
async def test_a_name_that_could_be_taken_for_another_one_is_refused(issuer: TestIssuer, sub: Any) -> None:
    await refused(issuer.trusted(), issuer.token(sub=sub), "token_claim_invalid")


async def test_a_token_has_one_text(issuer: TestIssuer) -> None:
    """Another text for the same bytes would be another token to whatever remembers tokens by their text (RFC 7515 §2)."""
    token = issuer.token()
    header, payload, signature = token.split(".")
    for changed in (
        f"{header}.{payload}.{signature}=",
        f"{header}.{payload}.{signature}==",
        f"{header}=.{payload}.{signature}",
        f"{header}.{payload}=.{signature}",
        f"{header}.{payload}.{signature}\t",
        f"{header}\x0b.{payload}.{signature}",
        f"{header}.{payload}.{signature}".replace(".", ".\u200b", 1),
        f"{header}.{payload[:-1]}%41.{signature}",
        f"{header}.{payload}.{signature[:20]}+{signature[21:]}",
        f"{header}.{payload}.{signature[:20]}/{signature[21:]}",
        f"\ufeff{token}",
    ):
        app = Witness()
        response, _ = await ask(JWTMiddleware(app, issuers=[issuer.trusted()]), (b"authorization", b"Bearer " + changed.encode()))
        if changed.endswith("\t"):
            # Blanks at the end of a header's value are no part of it (RFC 9110 §5.5).
            assert 200 == response.status
        else:
            assert (True, []) == (response.status in {400, 401}, app.scopes)


BINDINGS: list[Any] = [
    {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
    {"jwk": {"kty": "EC"}},
    {"x5t#S256": "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"},
    {"x5t#S256": "A" * 43, "jkt": "x"},
    {"x5t#S256": "short"},
    {"x5t#S256": 5},
    {"kid": "x"},
    {"unknown": "x"},
    {},
    [],
    "x",
    5,
    True,
]


@pytest.mark.parametrize("cnf", BINDINGS, ids=repr)
async def test_a_bound_token_is_no_bearer_token(issuer: TestIssuer, cnf: Any) -> None:
    """RFC 8705 §3, RFC 9449 §7.1: what a token is bound to is proven, or the token is refused; never ignored."""
    await refused(issuer.trusted(), issuer.token(cnf=cnf), "token_binding_mismatch")


async def test_a_dpop_token_does_not_come_with_its_own_scheme_either(issuer: TestIssuer) -> None:
    app = Witness()
    layer = JWTMiddleware(app, issuers=[issuer.trusted()])
    token = issuer.token(cnf={"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"})
    response, decisions = await ask(layer, (b"authorization", f"DPoP {token}".encode()), (b"dpop", issuer.token().encode()))
    assert (401, "credential_not_accepted", []) == (response.status, decisions[-1].reason, app.scopes)
