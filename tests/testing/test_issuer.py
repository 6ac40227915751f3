"""`TestIssuer`: its good tokens are good, and its wrong ones are wrong in the one way that was asked for."""

from collections.abc import Callable
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from llm_authmw import Issuer, TokenInvalid
from llm_authmw.testing import ManualClock, SigningKey, TestIssuer, make_signing_key, request, sign
from llm_authmw.tokens import verify_jws
from llm_authmw.tokens.base64url import decode
from llm_authmw.tokens.keys import ALGORITHMS

pytestmark = pytest.mark.anyio

NOW = 1_800_000_000


@pytest.fixture
def issuer() -> TestIssuer:
    return TestIssuer(algorithm="ES256", clock=ManualClock())


def parts(token: str) -> tuple[dict[str, Any], Any]:
    header, payload, _ = (decode(part.encode()) for part in token.split("."))
    return msgspec.json.decode(header), msgspec.json.decode(payload)


async def reason(trusted: Issuer, token: str) -> str | None:
    try:
        await trusted.verify(token.encode())
    except TokenInvalid as invalid:
        return invalid.reason
    return None


async def get(issuer: TestIssuer, path: str, **headers: str) -> tuple[int, Any]:
    status, _, body = await issuer.answer("GET", path, headers, b"")
    return status, msgspec.json.decode(body)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_its_tokens_are_good_with_every_algorithm(algorithm: str) -> None:
    issuer = TestIssuer(algorithm=algorithm, clock=ManualClock())
    assert await reason(issuer.trusted(), issuer.token()) is None
    header, claims = parts(issuer.token(jti="t-1"))
    assert {"alg": algorithm, "kid": issuer.keys[0].kid, "typ": "at+jwt"} == header
    assert {
        "iss": "https://issuer.example",
        "sub": "ada",
        "aud": "api://llm",
        "iat": NOW,
        "exp": NOW + 600,
        "jti": "t-1",
    } == claims


async def test_a_claim_or_member_is_changed_or_taken_away_and_nothing_else_is(issuer: TestIssuer) -> None:
    usual_header, usual = parts(issuer.token(jti="t"))
    header, claims = parts(issuer.token(jti="t", sub="bob", extra=[1], aud=None, header={"typ": None, "x5c": ["y"]}))
    assert {name: value for name, value in {**usual, "sub": "bob", "extra": [1]}.items() if name != "aud"} == claims
    assert {"alg": usual_header["alg"], "kid": usual_header["kid"], "x5c": ["y"]} == header
    assert parts(issuer.token())[1]["jti"] != parts(issuer.token())[1]["jti"]


WRONG: dict[str, tuple[Callable[[TestIssuer], str], str]] = {
    "ended": (lambda issuer: issuer.token(exp=NOW - 60), "token_expired"),
    "begins later": (lambda issuer: issuer.token(nbf=NOW + 60), "token_not_yet_valid"),
    "for somebody else": (lambda issuer: issuer.token(aud="x"), "audience_mismatch"),
    "of somebody else": (lambda issuer: issuer.token(iss="https://x.example"), "issuer_mismatch"),
    "of nobody": (lambda issuer: issuer.token(sub=None), "token_claim_missing"),
    "without an end": (lambda issuer: issuer.token(exp=None), "token_claim_missing"),
    "of another kind": (lambda issuer: issuer.token(header={"typ": "logout+jwt"}), "token_type_mismatch"),
    "with a key that is not published": (lambda issuer: issuer.token(key=make_signing_key("ES256")), "token_key_unknown"),
    "with another key of the same name": (
        lambda issuer: issuer.token(key=make_signing_key("ES256", kid=issuer.keys[0].kid)),
        "token_signature_invalid",
    ),
    "unsigned": (lambda issuer: issuer.token(header={"alg": "none"}), "token_algorithm_not_allowed"),
    "over no JSON": (lambda issuer: issuer.signed(b"hello"), "token_malformed"),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_wrong_token_is_wrong_in_one_way(issuer: TestIssuer, how: str) -> None:
    make, expected = WRONG[how]
    assert expected == await reason(issuer.trusted(), make(issuer))


@pytest.mark.parametrize("how", WRONG)
async def test_the_signature_of_a_wrong_token_is_right_unless_that_is_what_is_wrong(issuer: TestIssuer, how: str) -> None:
    make, expected = WRONG[how]
    jwks = {"keys": [key.public() for key in issuer.keys]}
    if expected in {"token_key_unknown", "token_signature_invalid", "token_algorithm_not_allowed"}:
        with pytest.raises(TokenInvalid):
            verify_jws(make(issuer), jwks, algorithms=["ES256"])
    else:
        assert verify_jws(make(issuer), jwks, algorithms=["ES256"])


def test_anything_is_signed_over_anything() -> None:
    key = make_signing_key("EdDSA", kid="k")
    for header in ({"alg": "EdDSA", "x": 1}, b'{"alg":"EdDSA","alg":"EdDSA"}', b"\xff"):
        for payload in (b"", b"\x00\xff", b"{}"):
            token = sign(header, payload, key)
            encoded, middle, _ = token.split(".")
            assert payload == decode(middle.encode())
            assert (header if isinstance(header, bytes) else msgspec.json.encode(header)) == decode(encoded.encode())
    assert b"hello" == verify_jws(sign({"alg": "EdDSA"}, b"hello", key), key.public(), algorithms=["EdDSA"])


def test_a_key_is_published_without_its_private_part() -> None:
    for algorithm in ("RS256", "ES256", "EdDSA"):
        key = make_signing_key(algorithm, kid="k")
        assert ("k", algorithm) == (key.kid, key.algorithm)
        assert {"kid": "k", "alg": algorithm, "use": "sig"}.items() <= key.public().items()
        assert key.public().keys().isdisjoint({"d", "p", "q", "dp", "dq", "qi", "k"})
    assert make_signing_key("ES256").kid != make_signing_key("ES256").kid


async def test_it_publishes_its_metadata_and_its_keys(issuer: TestIssuer) -> None:
    expected = {
        "issuer": "https://issuer.example",
        "jwks_uri": "https://issuer.example/jwks",
        "introspection_endpoint": "https://issuer.example/introspect",
        "userinfo_endpoint": "https://issuer.example/userinfo",
        "token_endpoint": "https://issuer.example/token",
    }
    for path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
        assert (200, expected) == await get(issuer, path)
    assert (200, {"keys": [issuer.keys[0].public()]}) == await get(issuer, "/jwks")
    issuer.metadata["issuer"] = "https://other.example"
    assert "https://other.example" == (await get(issuer, "/.well-known/openid-configuration"))[1]["issuer"]
    assert (404, {}) == await get(issuer, "/elsewhere")
    assert {
        "/.well-known/openid-configuration": 2,
        "/.well-known/oauth-authorization-server": 1,
        "/jwks": 1,
        "/elsewhere": 1,
    } == issuer.hits


async def test_a_secret_is_never_published() -> None:
    issuer = TestIssuer(algorithm="HS256")
    assert (200, {"keys": []}) == await get(issuer, "/jwks")
    assert len(issuer.secret) >= 32
    assert issuer.secret not in repr(issuer)


async def test_an_issuer_with_a_path_answers_below_it() -> None:
    issuer = TestIssuer("https://sso.example/realms/corp", algorithm="ES256", clock=ManualClock())
    assert await reason(issuer.trusted(), issuer.token()) is None
    assert {"/realms/corp/.well-known/openid-configuration": 1, "/realms/corp/jwks": 1} == issuer.hits


async def introspect(issuer: TestIssuer, token: str) -> Any:
    status, headers, body = await issuer.answer("POST", "/introspect", {}, f"token={token}".encode())
    assert (200, "application/json") == (status, headers["content-type"])
    return msgspec.json.decode(body)


async def test_opaque_tokens_are_known_to_introspection_until_they_are_revoked(issuer: TestIssuer) -> None:
    token = issuer.opaque(sub="bob", scope="a")
    answer = await introspect(issuer, token)
    assert {"active": True, "token_type": "Bearer", "sub": "bob", "scope": "a"}.items() <= answer.items()
    assert {"active": False} == await introspect(issuer, "unknown")
    issuer.answer_introspection(token, {"active": "true"})
    assert {"active": "true"} == await introspect(issuer, token)
    issuer.revoke(token)
    issuer.revoke(token)
    assert {"active": False} == await introspect(issuer, token)


async def test_userinfo_tells_of_people_whom_it_knows(issuer: TestIssuer) -> None:
    issuer.know("ada", email="ada@corp.example")
    for token in (issuer.token(), issuer.opaque()):
        assert (200, {"sub": "ada", "email": "ada@corp.example"}) == await get(issuer, "/userinfo", authorization=f"Bearer {token}")
    for token in (issuer.token(sub="bob"), issuer.opaque(sub=None), "unknown", ""):
        assert (401, {"error": "invalid_token"}) == await get(issuer, "/userinfo", authorization=f"Bearer {token}")


def test_rotation_signs_with_a_new_key_and_keeps_the_old_ones_or_not(issuer: TestIssuer) -> None:
    first = issuer.keys[0]
    second = issuer.rotate()
    assert [second, first] == issuer.keys
    assert second.kid == parts(issuer.token())[0]["kid"]
    third: SigningKey = issuer.rotate(keep=False, algorithm="EdDSA")
    assert ([third], "EdDSA") == (issuer.keys, third.algorithm)


@pytest.mark.parametrize(("how", "status"), [("unavailable", 503), ("html", 200), ("garbage", 200)])
async def test_it_fails_in_the_way_that_is_named_and_comes_back(issuer: TestIssuer, how: Any, status: int) -> None:
    issuer.go_down(how)
    for path in ("/jwks", "/.well-known/openid-configuration", "/userinfo"):
        answer = await issuer.answer("GET", path, {}, b"")
        assert status == answer[0]
        with pytest.raises(msgspec.DecodeError):
            msgspec.json.decode(answer[2])
    issuer.come_back()
    assert 200 == (await get(issuer, "/jwks"))[0]


async def test_it_can_be_out_of_reach_or_without_keys(issuer: TestIssuer) -> None:
    issuer.go_down("refused")
    with pytest.raises(ConnectionRefusedError):
        await get(issuer, "/jwks")
    issuer.go_down("empty")
    assert (200, {"keys": []}) == await get(issuer, "/jwks")
    assert 200 == (await get(issuer, "/.well-known/openid-configuration"))[0]


async def test_held_requests_wait_until_they_are_let_go(issuer: TestIssuer) -> None:
    answers: list[int] = []

    async def ask() -> None:
        answers.append((await get(issuer, "/jwks"))[0])

    issuer.hold()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        tasks.start_soon(ask)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert ([], 2) == (answers, issuer.hits["/jwks"])
        issuer.release()
    await ask()
    assert [200, 200, 200] == answers


async def test_its_client_reaches_it_and_nobody_else(issuer: TestIssuer) -> None:
    async with issuer.http.stream("GET", "https://issuer.example/jwks") as response:
        assert 200 == response.status_code
        assert [issuer.keys[0].kid] == [
            key["kid"] for key in msgspec.json.decode(b"".join([chunk async for chunk in response.aiter_raw()]))["keys"]
        ]
    for url in ("https://other.example/jwks", "http://issuer.example/jwks", "https://issuer.example:8443/jwks"):
        with pytest.raises(ConnectionError):
            async with issuer.http.stream("GET", url):
                pass


async def test_it_is_an_app_too(issuer: TestIssuer) -> None:
    response = await request(issuer, "GET /jwks")
    assert (200, "application/json", [issuer.keys[0].kid]) == (
        response.status,
        response.header("content-type"),
        [key["kid"] for key in response.json()["keys"]],
    )
    token = issuer.opaque()
    answered = await request(issuer, "POST /introspect", body=[b"token=", token.encode()])
    assert answered.json()["active"] is True
    assert 404 == (await request(issuer, "GET /")).status
    transport = httpx.ASGITransport(app=issuer)
    async with httpx.AsyncClient(transport=transport) as client:
        assert 200 == (await client.get("https://issuer.example/jwks")).status_code


async def test_it_is_no_app_for_anything_but_http(issuer: TestIssuer) -> None:
    with pytest.raises(RuntimeError, match=r"HTTP requests only"):
        await issuer({"type": "websocket"}, None, None)


def test_options_of_trust_are_those_of_an_issuer(issuer: TestIssuer) -> None:
    trusted = issuer.trusted(audience="other", realm="staff")
    assert ("https://issuer.example", "staff") == (trusted.issuer, trusted.realm)
    assert "TestIssuer('https://issuer.example')" == repr(issuer)
    assert frozenset({"HS512"}) == TestIssuer(algorithm="HS512").trusted().algorithms
