"""An issuer that lies, and tokens made to fool us with what it publishes: a 401 or a 503, and nothing reaches the app."""

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import OctKey, RSAKey
from starlette.middleware import Middleware

from llm_authmw import ClaimMap, IntrospectionMiddleware, Introspector, Issuer, JWTMiddleware
from llm_authmw.testing import SigningKey, make_signing_key, sign
from llm_authmw.testing.guarded import Guarded, Outcome, guarded
from llm_authmw.tokens.introspection import MAX_ANSWER
from tests.peers.issuers import DISCOVERY, HostileIssuer

pytestmark = pytest.mark.anyio

AUDIENCE = "https://llm.example"
OTHER = "https://other.example"
LATER = 2**32
CLAIMS = ClaimMap(user="sub", email="email", groups="groups")
SAID: dict[str, Any] = {"sub": "ada", "aud": AUDIENCE, "exp": LATER}
"""What makes an answer, or a token, a good one."""
MISSING: Any = object()

WEAK_PRIVATE, ODD_PRIVATE = rsa.generate_private_key(65537, 1024), rsa.generate_private_key(3, 2048)
WEAK, ODD = (RSAKey(private, private) for private in (WEAK_PRIVATE, ODD_PRIVATE))
GOOD = make_signing_key("RS256", kid="good")
TWIN = make_signing_key("RS256", kid="good")
SHARED = make_signing_key("HS256", kid="shared")

# Taken apart by some reader of JSON, or by none.
NOT_JSON_OBJECTS = {
    "nothing": "",
    "half of an object": '{"active": true, "sub": "ada"',
    "a page": "<html>Please log in to the Wi-Fi.</html>",
    "a list": '[{"active": true, "sub": "ada"}]',
    "a boolean": "true",
    "null": "null",
    "a text": '"active"',
    "two objects": '{"active": true}{"active": true}',
    "a member twice": '{"active": false, "keys": [], "active": true, "sub": "ada", "keys": []}',
    "no number": '{"active": true, "sub": "ada", "exp": NaN}',
    "a mark in front": '\ufeff{"active": true, "sub": "ada", "keys": []}',
    "a single quote": "{'active': true}",
    "endless depth": '{"active": true, "sub": "ada", "keys": ' + "[" * 20_000,
    "depth": '{"active": true, "sub": "ada", "x": ' + "[" * 1_000 + "]" * 1_000 + "}",
}
not_json_objects = pytest.mark.parametrize("body", [pytest.param(body, id=what) for what, body in NOT_JSON_OBJECTS.items()])


def refused(outcome: Outcome) -> tuple[int, str | None]:
    """Return how a request was refused; fail if the app was called, or if the refusal was an accident."""
    assert outcome.caller is None
    assert "check_failed" != outcome.reason
    return outcome.status, outcome.reason


def changed(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in (SAID | changes).items() if value is not MISSING}


def forged(issuer: HostileIssuer, header: dict[str, Any], key: SigningKey) -> str:
    return sign(header, json.dumps({"iss": issuer.url, **SAID}).encode(), key)


def key_set(*keys: dict[str, Any]) -> str:
    return json.dumps({"keys": keys})


# What introspection says


@asynccontextmanager
async def asking(issuer: HostileIssuer, **options: Any) -> AsyncGenerator[Guarded]:
    usual: dict[str, Any] = {"issuer": issuer.url, "endpoint": issuer.url + HostileIssuer.INTROSPECTION, "audience": AUDIENCE}
    usual |= {"client_id": "proxy", "client_secret": "a secret that it never looks at", "claims": CLAIMS}
    async with guarded(Middleware(IntrospectionMiddleware, introspector=Introspector(**(usual | options)))) as app:
        yield app


async def test_an_honest_answer_is_believed(hostile_issuer: HostileIssuer) -> None:
    hostile_issuer.lie_at_introspection({"active": True, **SAID})
    async with asking(hostile_issuer) as app:
        outcome = await app.ask("opaque")
    assert outcome.caller is not None
    assert "ada" == outcome.caller.user


@pytest.mark.parametrize("active", [MISSING, None, False, "true", "True", 1, 1.0, "1", [True], {"value": True}, "yes", ""])
async def test_active_is_true_or_the_token_is_not(hostile_issuer: HostileIssuer, active: Any) -> None:
    hostile_issuer.lie_at_introspection(changed({"active": active}))
    async with asking(hostile_issuer) as app:
        assert (401, "token_inactive") == refused(await app.ask("opaque"))


LIES: list[tuple[dict[str, Any], str]] = [
    ({"exp": 1}, "token_expired"),
    ({"exp": -1}, "token_expired"),
    *[({"exp": exp}, "token_claim_invalid") for exp in ("never", str(LATER), True, 1e300, [LATER], {"at": LATER})],
    ({"nbf": LATER}, "token_not_yet_valid"),
    ({"iat": LATER}, "token_not_yet_valid"),
    ({"nbf": "now"}, "token_claim_invalid"),
    *[
        ({"aud": aud}, "audience_mismatch")
        for aud in (OTHER, MISSING, None, "", [], [OTHER], {AUDIENCE: 1}, 7, AUDIENCE + "/", [AUDIENCE, 7])
    ],
    *[({"iss": iss}, "issuer_mismatch") for iss in (OTHER, None, "", 7, [OTHER])],
    *[({"sub": sub}, "token_claim_missing") for sub in (MISSING, None)],
    *[
        ({"sub": sub}, "token_claim_invalid")
        for sub in ("", 7, True, ["ada"], {"ada": 1}, "a\0b", "a\nb", "client:ada", "key:1", "x" * 5000)
    ],
    *[({"token_type": kind}, "token_type_mismatch") for kind in ("refresh_token", "mac", "DPoP", 7, ["Bearer"])],
    ({"typ": "Refresh"}, "token_type_mismatch"),
    ({"token_use": "id"}, "token_type_mismatch"),
    *[({"email": email}, "token_claim_invalid") for email in (7, "ada", "a@b@c", "ada@exämple.com", ["ada@example.com"])],
    *[({"groups": groups}, "token_claim_invalid") for groups in (7, {"admins": True}, [1], ["a", ["b"]], ["x"] * 300)],
    *[({"scope": scope}, "token_claim_invalid") for scope in (7, {"llm:admin": True}, [["llm:admin"]])],
    ({"cnf": {"x5t#S256": "A" * 43}}, "token_binding_mismatch"),
]


@pytest.mark.parametrize(("changes", "reason"), LIES)
async def test_an_active_token_is_refused_for_what_else_is_said_of_it(
    hostile_issuer: HostileIssuer, changes: dict[str, Any], reason: str
) -> None:
    hostile_issuer.lie_at_introspection(changed({"active": True, **changes}))
    async with asking(hostile_issuer) as app:
        assert (401, reason) == refused(await app.ask("opaque"))


bound = pytest.mark.parametrize("cnf", [{"jkt": "A" * 43}, {"x5t#S256": 7}, {}, {"kid": "1"}, "bound", []])


@bound
async def test_an_active_token_that_is_bound_to_what_is_not_proven_here_is_refused(hostile_issuer: HostileIssuer, cnf: Any) -> None:
    hostile_issuer.lie_at_introspection({"active": True, **SAID, "cnf": cnf})
    async with asking(hostile_issuer) as app:
        assert 401 == refused(await app.ask("opaque"))[0]


@not_json_objects
async def test_introspection_that_says_nothing_readable_says_nothing(hostile_issuer: HostileIssuer, body: str) -> None:
    hostile_issuer.answer(HostileIssuer.INTROSPECTION, body)
    async with asking(hostile_issuer, audience=None) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask("opaque"))


async def test_introspection_that_says_too_much_says_nothing(hostile_issuer: HostileIssuer) -> None:
    hostile_issuer.lie_at_introspection({"active": True, **SAID, "filler": "x" * MAX_ANSWER})
    async with asking(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask("opaque"))


@pytest.mark.parametrize("status", [201, 204, 302, 400, 401, 403, 404, 429, 500, 502])
async def test_an_answer_with_another_status_is_none_whatever_it_says(hostile_issuer: HostileIssuer, status: int) -> None:
    body = "" if status == 204 else json.dumps({"active": True, **SAID})
    hostile_issuer.answer(HostileIssuer.INTROSPECTION, body, status=status)
    async with asking(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask("opaque"))


# What it signs


@asynccontextmanager
async def trusting(issuer: HostileIssuer, **options: Any) -> AsyncGenerator[Guarded]:
    usual: dict[str, Any] = {"audience": AUDIENCE, "claims": CLAIMS}
    async with guarded(Middleware(JWTMiddleware, issuers=[Issuer(issuer.url, **(usual | options))])) as app:
        yield app


async def test_a_token_that_says_what_it_must_is_good(hostile_issuer: HostileIssuer) -> None:
    async with trusting(hostile_issuer) as app:
        outcome = await app.ask(hostile_issuer.token(SAID))
    assert outcome.caller is not None
    assert "ada" == outcome.caller.user


SIGNED_LIES: list[tuple[dict[str, Any], str]] = [
    *[(changes, reason) for changes, reason in LIES if changes.keys().isdisjoint(("iss", "token_type", "aud", "cnf"))],
    *[({"aud": aud}, "audience_mismatch") for aud in (OTHER, MISSING, None, [], [OTHER], 7, {AUDIENCE: 1})],
    *[({"exp": exp}, "token_claim_missing") for exp in (MISSING, None)],
    *[({name: "x"}, "token_type_mismatch") for name in ("nonce", "at_hash", "events")],
    ({"jti": 7}, "token_claim_invalid"),
]


@pytest.mark.parametrize(("changes", "reason"), SIGNED_LIES)
async def test_a_token_that_is_signed_is_refused_for_what_it_says(
    hostile_issuer: HostileIssuer, changes: dict[str, Any], reason: str
) -> None:
    left_out = tuple(name for name, value in changes.items() if value is MISSING)
    token = hostile_issuer.token({name: value for name, value in (SAID | changes).items() if value is not MISSING}, without=left_out)
    async with trusting(hostile_issuer) as app:
        assert (401, reason) == refused(await app.ask(token))


@bound
async def test_a_signed_token_that_is_bound_to_what_is_not_proven_here_is_refused(hostile_issuer: HostileIssuer, cnf: Any) -> None:
    async with trusting(hostile_issuer) as app:
        assert 401 == refused(await app.ask(hostile_issuer.token({**SAID, "cnf": cnf})))[0]


@pytest.mark.parametrize("iss", [OTHER, None, 7, "", ["{url}"], "{url}/", "{URL}"])
async def test_a_token_that_names_another_issuer_is_nobodys(hostile_issuer: HostileIssuer, iss: Any) -> None:
    spelled = json.loads(json.dumps(iss).replace("{url}", hostile_issuer.url).replace("{URL}", hostile_issuer.url.upper()))
    async with trusting(hostile_issuer) as app:
        assert (401, "invalid_token") == refused(await app.ask(hostile_issuer.token({**SAID, "iss": spelled})))


HEADERS: list[dict[str, Any]] = [
    {"crit": ["exp"]},
    {"crit": []},
    {"crit": ["b64"], "b64": False},
    {"b64": False},
    {"kid": "no such key"},
    {"kid": 7},
    {"kid": "x" * 300},
    {"kid": ["a"]},
    {"typ": "logout+jwt"},
    {"typ": "token-introspection+jwt"},
    {"typ": 7},
    {"zip": "DEF"},
    {"filler": "x" * 5000},
]


@pytest.mark.parametrize("header", HEADERS)
async def test_a_token_is_refused_for_what_its_header_asks_for(hostile_issuer: HostileIssuer, header: dict[str, Any]) -> None:
    hostile_issuer.answer(HostileIssuer.JWKS, key_set(GOOD.public()))
    async with trusting(hostile_issuer) as app:
        token = forged(hostile_issuer, {"alg": "RS256", "kid": "good", **header}, GOOD)
        assert 401 == refused(await app.ask(token))[0]


async def test_a_token_of_another_type_is_refused_where_access_tokens_are_demanded(hostile_issuer: HostileIssuer) -> None:
    async with trusting(hostile_issuer, typ="at+jwt") as app:
        assert (401, "token_type_mismatch") == refused(await app.ask(hostile_issuer.token(SAID)))
        thin = hostile_issuer.token(SAID, header={"typ": "at+jwt"})
        assert (401, "token_claim_missing") == refused(await app.ask(thin))


async def test_a_token_that_names_another_key_than_signed_it_is_refused(hostile_issuer: HostileIssuer) -> None:
    one, two = hostile_issuer.new_key("RS256"), hostile_issuer.new_key("RS256")
    async with trusting(hostile_issuer) as app:
        assert 200 == (await app.ask(hostile_issuer.token(SAID, kid=one))).status
        forged = hostile_issuer.token(SAID, kid=one, header={"kid": two})
        assert (401, "token_signature_invalid") == refused(await app.ask(forged))


# Tokens that somebody else has made of what it publishes


@pytest.fixture(scope="module")
def published(the_hostile_issuer: HostileIssuer) -> dict[str, Any]:
    """One of its public keys."""
    kid = the_hostile_issuer.new_key("RS256")
    keys: list[dict[str, Any]] = the_hostile_issuer.client.get(HostileIssuer.JWKS).json()["keys"]
    return next(key for key in keys if key["kid"] == kid)


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None])
@pytest.mark.parametrize("signed", [False, True])
async def test_a_token_without_a_signature_is_refused(
    hostile_issuer: HostileIssuer, published: dict[str, Any], alg: str | None, signed: bool
) -> None:
    token = forged(hostile_issuer, {"alg": alg, "kid": published["kid"]}, make_signing_key("ES256"))
    async with trusting(hostile_issuer) as app:
        assert 401 == refused(await app.ask(token if signed else token.rpartition(".")[0] + "."))[0]


def spki(jwk: dict[str, Any], encoding: Encoding) -> bytes:
    public: Any = RSAKey.import_key({name: jwk[name] for name in ("kty", "n", "e")}).public_key
    encoded: bytes = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
    return encoded


SECRETS: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "PEM": lambda jwk: spki(jwk, Encoding.PEM),
    "PEM without its last line break": lambda jwk: spki(jwk, Encoding.PEM).strip(),
    "DER": lambda jwk: spki(jwk, Encoding.DER),
    "JWK": lambda jwk: json.dumps(jwk).encode(),
    "modulus": lambda jwk: jwk["n"].encode(),
    "nothing": lambda jwk: b"\0" * 32,
}


@pytest.mark.parametrize("alg", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("named", [False, True])
# The point of these is a secret that is none, of which the library that signs with it says so.
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_a_public_key_is_no_shared_secret(
    hostile_issuer: HostileIssuer, published: dict[str, Any], alg: str, secret: Callable[[dict[str, Any]], bytes], named: bool
) -> None:
    key = SigningKey(published["kid"], alg, OctKey(secret(published), secret(published)))
    token = forged(hostile_issuer, {"alg": alg, **({"kid": key.kid} if named else {})}, key)
    async with trusting(hostile_issuer) as app:
        assert (401, "token_algorithm_not_allowed") == refused(await app.ask(token))


async def test_a_key_that_a_token_brings_along_is_no_key(hostile_issuer: HostileIssuer, published: dict[str, Any]) -> None:
    key = make_signing_key("RS256", kid=published["kid"])
    hostile_issuer.answer("/mine", json.dumps({"keys": [key.public()]}))
    mine = f"{hostile_issuer.url}/mine"
    async with trusting(hostile_issuer) as app:
        for brought in ({"jwk": key.public()}, {"jku": mine}, {"x5u": mine}, {"x5c": ["MIIB"]}):
            token = forged(hostile_issuer, {"alg": "RS256", "kid": key.kid, **brought}, key)
            assert 401 == refused(await app.ask(token))[0]
    assert 0 == hostile_issuer.hits("/mine")


# What it publishes


async def test_a_key_that_it_publishes_verifies(hostile_issuer: HostileIssuer) -> None:
    hostile_issuer.answer(HostileIssuer.JWKS, key_set(GOOD.public()))
    async with trusting(hostile_issuer) as app:
        assert 200 == (await app.ask(forged(hostile_issuer, {"alg": "RS256", "kid": "good"}, GOOD))).status


PUBLISHED: dict[str, tuple[SigningKey, list[dict[str, Any]]]] = {
    "weak": (SigningKey("weak", "RS256", WEAK), [SigningKey("weak", "RS256", WEAK).public()]),
    "a small exponent": (SigningKey("odd", "RS256", ODD), [SigningKey("odd", "RS256", ODD).public()]),
    "two of one name": (GOOD, [GOOD.public(), TWIN.public()]),
    "a secret": (SHARED, [SHARED.private.as_dict(private=True) | {"kid": "shared", "alg": "HS256"}]),
    "private": (GOOD, [GOOD.private.as_dict(private=True) | {"kid": "good", "alg": "RS256"}]),
    "for encryption": (GOOD, [GOOD.public() | {"use": "enc"}]),
    "for another operation": (GOOD, [GOOD.public() | {"key_ops": ["encrypt"]}]),
    "for another algorithm": (GOOD, [GOOD.public() | {"alg": "PS256"}]),
    "of another kind": (GOOD, [GOOD.public() | {"kty": "EC"}]),
    "without a number": (GOOD, [{name: value for name, value in GOOD.public().items() if name != "e"}]),
    "with a number that is none": (GOOD, [GOOD.public() | {"n": 7}]),
    "an even modulus": (GOOD, [GOOD.public() | {"n": "A" * 341 + "C"}]),
    "a name that is none": (GOOD, [GOOD.public() | {"kid": ["good"]}]),
    "more than anybody has": (GOOD, [GOOD.public()] * 1000),
}


@pytest.mark.parametrize(("key", "keys"), PUBLISHED.values(), ids=PUBLISHED)
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a good one"])
# Else it would be the warning that refuses the weak key here, and not the check of its length.
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
async def test_a_key_that_is_no_good_verifies_nothing(
    hostile_issuer: HostileIssuer, key: SigningKey, keys: list[dict[str, Any]], beside: bool
) -> None:
    neighbour = make_signing_key("ES256", kid="neighbour")
    hostile_issuer.answer(HostileIssuer.JWKS, key_set(*keys, *([neighbour.public()] if beside else [])))
    token = forged(hostile_issuer, {"alg": key.algorithm, "kid": key.kid}, key)
    async with trusting(hostile_issuer) as app:
        assert refused(await app.ask(token))[0] in {401, 503}
        if beside and len(keys) < 100:
            # One bad key takes nothing from those beside it.
            assert 200 == (await app.ask(forged(hostile_issuer, {"alg": "ES256", "kid": "neighbour"}, neighbour))).status


@not_json_objects
async def test_a_key_set_that_cannot_be_read_is_an_outage(hostile_issuer: HostileIssuer, body: str) -> None:
    hostile_issuer.answer(HostileIssuer.JWKS, body)
    async with trusting(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask(hostile_issuer.token(SAID)))


@pytest.mark.parametrize("body", ['{"keys": []}', "{}", '{"keys": {}}', '{"keys": null}', '{"keys": [7, null, "key", []]}'])
async def test_a_key_set_without_keys_is_an_outage(hostile_issuer: HostileIssuer, body: str) -> None:
    hostile_issuer.answer(HostileIssuer.JWKS, body)
    async with trusting(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask(hostile_issuer.token(SAID)))


async def test_a_key_set_without_an_end_is_an_outage(hostile_issuer: HostileIssuer) -> None:
    hostile_issuer.answer(HostileIssuer.JWKS, key_set({**GOOD.public(), "filler": "x" * 2_000_000}))
    async with trusting(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask(forged(hostile_issuer, {"alg": "RS256", "kid": "good"}, GOOD)))


METADATA: list[dict[str, Any]] = [
    {"issuer": OTHER},
    {"issuer": "{url}/"},
    {"issuer": None},
    {"jwks_uri": "file:///etc/passwd"},
    {"jwks_uri": "data:application/json,{}"},
    {"jwks_uri": "http://192.0.2.1/jwks"},
    {"jwks_uri": "http://127.0.0.1@192.0.2.1/jwks"},
    {"jwks_uri": "//127.0.0.1/jwks"},
    {"jwks_uri": None},
    {"jwks_uri": ["{url}/jwks"]},
]


@pytest.mark.parametrize("changes", METADATA)
async def test_metadata_that_lead_elsewhere_are_an_outage(hostile_issuer: HostileIssuer, changes: dict[str, Any]) -> None:
    honest = {"issuer": hostile_issuer.url, "jwks_uri": f"{hostile_issuer.url}/jwks"}
    hostile_issuer.answer(DISCOVERY, json.dumps(honest | changes).replace("{url}", hostile_issuer.url))
    fetched = hostile_issuer.hits(HostileIssuer.JWKS)
    async with trusting(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask(hostile_issuer.token(SAID)))
    assert fetched == hostile_issuer.hits(HostileIssuer.JWKS)


@not_json_objects
async def test_metadata_that_cannot_be_read_are_an_outage(hostile_issuer: HostileIssuer, body: str) -> None:
    hostile_issuer.answer(DISCOVERY, body)
    async with trusting(hostile_issuer) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask(hostile_issuer.token(SAID)))


# What userinfo says


async def test_userinfo_adds_to_a_token_and_changes_nothing_in_it(hostile_issuer: HostileIssuer) -> None:
    told = {"sub": "ada", "email": "ada@example.com", "groups": ["ml"], "scope": "llm:admin", "aud": OTHER, "exp": 1, "iss": OTHER}
    hostile_issuer.lie_at_userinfo(told)
    async with trusting(hostile_issuer, userinfo=True) as app:
        caller = (await app.ask(hostile_issuer.token(SAID))).caller
        told_already = (await app.ask(hostile_issuer.token({**SAID, "groups": ["few"]}))).caller
    assert caller is not None
    assert told_already is not None
    assert ("ada@example.com", ("ml",), ()) == (caller.email, caller.groups, caller.scopes)
    assert ("few",) == told_already.groups


@pytest.mark.parametrize(
    ("told", "status", "expected"),
    [
        ({"sub": "eve", "groups": ["admins"]}, 200, (401, "token_claim_invalid")),
        ({"groups": ["admins"]}, 200, (401, "token_claim_invalid")),
        ({"sub": ["ada"]}, 200, (401, "token_claim_invalid")),
        ({"sub": "ada", "groups": {"admins": True}}, 200, (401, "token_claim_invalid")),
        ({"sub": "ada", "email": 7}, 200, (401, "token_claim_invalid")),
        ({"sub": "ada"}, 401, (401, "token_inactive")),
        ({"sub": "ada"}, 403, (401, "token_inactive")),
        ({"sub": "ada"}, 500, (503, "issuer_unavailable")),
        ([{"sub": "ada"}], 200, (503, "issuer_unavailable")),
    ],
)
async def test_userinfo_that_lies_makes_nobody_of_anybody(
    hostile_issuer: HostileIssuer, told: Any, status: int, expected: tuple[int, str]
) -> None:
    hostile_issuer.lie_at_userinfo(told, status=status)
    async with trusting(hostile_issuer, userinfo=True) as app:
        assert expected == refused(await app.ask(hostile_issuer.token(SAID)))


@not_json_objects
async def test_userinfo_that_cannot_be_read_is_an_outage(hostile_issuer: HostileIssuer, body: str) -> None:
    hostile_issuer.answer(HostileIssuer.USERINFO, body)
    async with trusting(hostile_issuer, userinfo=True) as app:
        assert (503, "issuer_unavailable") == refused(await app.ask(hostile_issuer.token(SAID)))
