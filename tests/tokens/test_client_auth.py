import base64
import json
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_plus

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.secrets import Secret
from llm_authmw.testing import ManualClock
from llm_authmw.tokens import verify_jws
from llm_authmw.tokens.client_auth import ASSERTION_TYPE, Proof, client_auth

pytestmark = pytest.mark.anyio

ENDPOINT = "https://sso.example.com/introspect"
RSA = RSAKey.generate_key(2048)
EC = ECKey.generate_key("P-384")
ED = OKPKey.generate_key("Ed25519")


def pem(key: Any) -> str:
    return str(key.as_pem(private=True).decode())


def jwk(key: Any, *, private: bool = True, **members: Any) -> str:
    return json.dumps({**key.as_dict(private=private), **members})


def weak_rsa() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pem(RSAKey.generate_key(1024))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        pytest.param({"client_id": "x"}, "client_secret", id="nothing to prove it with"),
        pytest.param({"client_secret": "s"}, "client_id", id="no id"),
        pytest.param({"client_id": "", "client_secret": "s"}, "client_id", id="empty id"),
        pytest.param({"client_id": 7, "client_secret": "s"}, "client_id", id="an id that is no text"),
        pytest.param({"client_id": "x", "client_secret": ""}, "client_secret", id="empty secret"),
        pytest.param({"client_id": "x", "client_secret": "env:NOT_SET_ANYWHERE"}, "client_secret", id="a secret that is not there"),
        pytest.param({"client_id": "x", "client_secret": "s", "client_auth": "basic"}, "client_auth", id="unknown method"),
        pytest.param({"client_id": "x", "client_secret": "s", "client_key": pem(EC)}, "client_secret", id="secret and key"),
        pytest.param(
            {"client_id": "x", "client_key": pem(EC), "client_auth": "client_secret_post"}, "client_key", id="a key that nothing uses"
        ),
        pytest.param({"client_id": "x", "client_auth": "private_key_jwt"}, "client_key", id="no key"),
        pytest.param({"client_key": pem(EC)}, "client_id", id="a key without an id"),
        pytest.param({"client_auth": "bearer"}, "client_secret", id="no token"),
        pytest.param({"client_auth": "bearer", "client_secret": "two words"}, "client_secret", id="a token that is none"),
        pytest.param({"client_id": "x", "client_secret": lambda: "s"}, "client_secret", id="a function where a secret is due"),
        pytest.param({"client_id": "x", "client_key": "no key"}, "client_key", id="no key at all"),
        pytest.param({"client_id": "x", "client_key": "{"}, "client_key", id="broken JSON"),
        pytest.param({"client_id": "x", "client_key": "{}"}, "client_key", id="an empty JWK"),
        pytest.param({"client_id": "x", "client_key": jwk(EC, private=False)}, "client_key", id="a public JWK"),
        pytest.param({"client_id": "x", "client_key": EC.as_pem(private=False).decode()}, "client_key", id="a public PEM"),
        pytest.param({"client_id": "x", "client_key": jwk(EC, use="enc")}, "client_key", id="a key for encryption"),
        pytest.param({"client_id": "x", "client_key": jwk(EC, alg="RS256")}, "client_key", id="a key that its own alg does not fit"),
        pytest.param({"client_id": "x", "client_key": jwk(OctKey.generate_key(256))}, "client_key", id="a symmetric key"),
        pytest.param({"client_id": "x", "client_key": pem(OKPKey.generate_key("X25519"))}, "client_key", id="a key that cannot sign"),
        pytest.param({"client_id": "x", "client_key": weak_rsa()}, "client_key", id="a weak key"),
    ],
)
def test_options_that_are_wrong_missing_or_would_be_ignored_are_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_auth(**options)
    assert named == caught.value.option


@pytest.mark.parametrize("client_key", [jwk(EC, private=False), EC.as_pem(private=False).decode()])
def test_a_public_key_is_told_from_no_key(client_key: str) -> None:
    with pytest.raises(ConfigurationError, match="is a public key"):
        client_auth(client_id="x", client_key=client_key)


@pytest.mark.parametrize("client_key", [pem(EC)[:-60], jwk(EC)[:-10], jwk(EC, d="not base64url!")])
def test_a_broken_key_is_not_quoted(client_key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        client_auth(client_id="x", client_key=client_key)
    problem: BaseException | None = caught.value
    while problem is not None:
        assert client_key[40:80] not in str(problem)
        problem = problem.__cause__


async def test_a_secret_goes_into_the_header_encoded_as_a_form_first() -> None:
    client_id, secret = "urn:proxy/1 ü", "p%a:s+s w&rd=é"
    proof = await client_auth(client_id=client_id, client_secret=secret).prove(ENDPOINT)
    scheme, _, credentials = proof.headers["authorization"].partition(" ")
    sent = base64.b64decode(credentials).decode("ascii")
    assert ("Basic", {}, 1) == (scheme, proof.fields, sent.count(":"))
    assert (client_id, secret) == tuple(unquote_plus(part) for part in sent.split(":"))


async def test_a_secret_may_go_into_the_form() -> None:
    client = client_auth(client_id="x", client_secret=Secret("p%a:s+s"), client_auth="client_secret_post")
    assert Proof({}, {"client_id": "x", "client_secret": "p%a:s+s"}) == await client.prove(ENDPOINT)


async def test_a_secret_is_read_from_the_place_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTROSPECTION_SECRET", "s3cret")
    client = client_auth(client_id="x", client_secret="env:INTROSPECTION_SECRET", client_auth="client_secret_post")
    assert "s3cret" == (await client.prove(ENDPOINT)).fields["client_secret"]


@pytest.mark.parametrize(
    ("key", "text", "algorithm"),
    [
        (RSA, pem(RSA), "RS256"),
        (RSA, jwk(RSA), "RS256"),
        (RSA, jwk(RSA, alg="PS256"), "PS256"),
        (EC, pem(EC), "ES384"),
        (EC, jwk(EC), "ES384"),
        (ED, pem(ED), "EdDSA"),
        (ED, jwk(ED, alg="Ed25519"), "Ed25519"),
    ],
)
async def test_a_key_signs_an_assertion_for_the_audience(key: Any, text: str, algorithm: str) -> None:
    clock = ManualClock(now=1_800_000_000.9)
    proof = await client_auth(client_id="llm-proxy", client_key=text, clock=clock).prove(ENDPOINT)
    assert ({}, {"client_id", "client_assertion_type", "client_assertion"}) == (proof.headers, set(proof.fields))
    assert ("llm-proxy", ASSERTION_TYPE) == (proof.fields["client_id"], proof.fields["client_assertion_type"])
    claims = json.loads(verify_jws(proof.fields["client_assertion"], key.as_dict(private=False), algorithms=[algorithm]))
    assert len(claims.pop("jti")) >= 16
    usual = {"iss": "llm-proxy", "sub": "llm-proxy", "aud": ENDPOINT, "iat": 1_800_000_000, "exp": 1_800_000_060}
    assert usual == claims


async def test_no_assertion_is_made_twice() -> None:
    client = client_auth(client_id="x", client_key=pem(ED))
    first, second = [(await client.prove(ENDPOINT)).fields["client_assertion"] for _ in range(2)]
    assert first != second


async def test_the_id_of_a_key_goes_into_the_header_of_the_assertion() -> None:
    headers: list[dict[str, str]] = []
    for text in (jwk(ED, kid="2026-01"), pem(ED)):
        assertion = (await client_auth(client_id="x", client_key=text).prove(ENDPOINT)).fields["client_assertion"]
        segment = assertion.partition(".")[0]
        headers.append(json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))))
    assert [{"alg": "EdDSA", "typ": "JWT", "kid": "2026-01"}, {"alg": "EdDSA", "typ": "JWT"}] == headers


async def asynchronous() -> str:
    return "from-a-vault"


@pytest.mark.parametrize("token", ["from-a-vault", Secret("from-a-vault"), lambda: "from-a-vault", asynchronous])
async def test_a_bearer_token_is_given_or_asked_for(token: Any) -> None:
    client = client_auth(client_secret=token, client_auth="bearer")
    assert Proof({"authorization": "Bearer from-a-vault"}, {}) == await client.prove(ENDPOINT)


async def test_a_function_is_asked_for_a_token_each_time() -> None:
    tokens = iter(["one", "two"])
    client = client_auth(client_secret=lambda: next(tokens), client_auth="bearer")
    assert ["Bearer one", "Bearer two"] == [(await client.prove(ENDPOINT)).headers["authorization"] for _ in range(2)]


def raises() -> str:
    raise RuntimeError("the vault said: hunter2")


@pytest.mark.parametrize("source", [raises, lambda: None, lambda: "", lambda: "two\r\nlines", lambda: b"bytes"])
async def test_a_function_that_gives_no_token_means_that_the_provider_cannot_be_asked(source: Callable[[], Any]) -> None:
    with pytest.raises(IssuerUnavailableError) as caught:
        await client_auth(client_secret=source, client_auth="bearer").prove(ENDPOINT)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_nothing_of_a_secret_is_printed() -> None:
    for options in (
        {"client_id": "x", "client_secret": "hunter2"},
        {"client_id": "x", "client_secret": "hunter2", "client_auth": "client_secret_post"},
        {"client_secret": "hunter2", "client_auth": "bearer"},
        {"client_id": "x", "client_key": pem(ED)},
    ):
        client = client_auth(**options)  # type: ignore[arg-type]
        proof = await client.prove(ENDPOINT)
        shown = f"{client!r} {client} {proof!r} {proof}"
        secrets = [
            "hunter2",
            *proof.headers.values(),
            *(value for name, value in proof.fields.items() if name in ("client_secret", "client_assertion")),
        ]
        assert not any(secret in shown for secret in secrets)
