"""The peers themselves: what tests that stand on them take for granted. Nothing of ours is tested here, but that they are real."""

import signal
from base64 import b64decode
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from joserfc import jwt
from joserfc.jwk import JWKRegistry, KeySet

from llm_authmw.testing.servers import RunningServer
from tests.peers import issuers, needs
from tests.peers.certificates import Certificates
from tests.peers.issuers import HostileIssuer, Issuer, OidcProvider
from tests.peers.nginx import CERTIFICATE_HEADERS, LOGIN_HEADERS, FrontProxy, nginx
from tests.peers.sockets import SocketServer, serve_on_socket

PEER_APPS = Path(needs.__file__).parent / "apps"
SIGNED = "application/token-introspection+jwt"

StartNginx = Callable[..., FrontProxy]
StartServer = Callable[..., RunningServer]
MakeClient = Callable[..., httpx.Client]


@pytest.fixture
def at_once() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def verified(issuer: Issuer, token: str) -> jwt.Token:
    keys = KeySet.import_key_set(issuer.client.get("/jwks").json())
    return jwt.decode(token, keys, algorithms=["RS256", "ES256"])


def introspected(provider: OidcProvider, token: str) -> dict[str, Any]:
    basic = (quote_plus("asks:basic"), quote_plus(provider.secrets["asks:basic"]))
    answer: dict[str, Any] = provider.client.post(provider.INTROSPECTION, data={"token": token}, auth=basic).raise_for_status().json()
    return answer


# What is not installed


@pytest.mark.parametrize(("ci", "outcome"), [("true", pytest.fail.Exception), ("", pytest.skip.Exception)])
@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ({"programs": ["sh", "no_such_program"]}, "the program no_such_program"),
        ({"npm": ["no_such_package"]}, r"npm package no_such_package \(.*npm ci --prefix tests/peers\)"),
    ],
)
def test_what_is_missing_skips_a_test_and_fails_it_in_ci(
    monkeypatch: pytest.MonkeyPatch, ci: str, outcome: type[BaseException], missing: dict[str, Any], said: str
) -> None:
    monkeypatch.setenv("CI", ci)
    # Both are caught, or else this test would be skipped where it has to fail.
    with pytest.raises((pytest.fail.Exception, pytest.skip.Exception), match=f"^needs what is not installed: {said}$") as raised:
        needs.need("httpx", **missing)
    assert outcome is raised.type


# Issuers


@pytest.mark.parametrize(("resource", "alg"), [(OidcProvider.JWT, "RS256"), (OidcProvider.JWT_ES256, "ES256")])
def test_oidc_provider_signs_access_tokens_that_its_key_set_verifies(oidc_provider: OidcProvider, resource: str, alg: str) -> None:
    token = verified(oidc_provider, oidc_provider.service_token(resource))
    assert ("at+jwt", alg) == (token.header["typ"], token.header["alg"])
    assert (oidc_provider.url, resource, "service") == (token.claims["iss"], token.claims["aud"], token.claims["client_id"])


def test_oidc_provider_gives_people_tokens_with_their_claims(oidc_provider: OidcProvider) -> None:
    claims = verified(oidc_provider, oidc_provider.user_token("ada", resource=oidc_provider.JWT)).claims
    assert ("ada", "ada@example.com", True, "research") == (
        claims["sub"],
        claims["email"],
        claims["email_verified"],
        claims["department"],
    )
    assert ["ml-platform", "research"] == claims["groups"]


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"])
def test_oidc_provider_is_discovered_in_both_forms(oidc_provider: OidcProvider, path: str) -> None:
    metadata = oidc_provider.client.get(path).json()
    assert oidc_provider.url == metadata["issuer"]
    endpoints = {"jwks_uri": "JWKS", "introspection_endpoint": "INTROSPECTION", "userinfo_endpoint": "USERINFO"}
    assert {name: oidc_provider.url + getattr(oidc_provider, path) for name, path in endpoints.items()} == {
        name: metadata[name] for name in endpoints
    }


def test_oidc_provider_introspects_opaque_tokens_until_they_are_revoked(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("ada", resource=oidc_provider.OPAQUE)
    answer = introspected(oidc_provider, token)
    assert (True, "ada", oidc_provider.OPAQUE, "llm:chat") == (answer["active"], answer["sub"], answer["aud"], answer["scope"])
    oidc_provider.revoke(token)
    assert {"active": False} == introspected(oidc_provider, token)


def test_oidc_provider_says_no_subject_for_a_service(oidc_provider: OidcProvider) -> None:
    answer = introspected(oidc_provider, oidc_provider.service_token(oidc_provider.OPAQUE))
    assert (True, "service", False) == (answer["active"], answer["client_id"], "sub" in answer)


def test_oidc_provider_refuses_basic_credentials_that_are_not_encoded(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.service_token(oidc_provider.OPAQUE)
    raw = ("asks:basic", oidc_provider.secrets["asks:basic"])
    answer = oidc_provider.client.post(oidc_provider.INTROSPECTION, data={"token": token}, auth=raw)
    assert (401, "invalid_client") == (answer.status_code, answer.json()["error"])


def test_oidc_provider_takes_a_secret_in_the_form(oidc_provider: OidcProvider) -> None:
    form = {"token": "x", "client_id": "asks-post", "client_secret": oidc_provider.secrets["asks-post"]}
    assert {"active": False} == oidc_provider.client.post(oidc_provider.INTROSPECTION, data=form).json()


@pytest.mark.parametrize("number", [0, 1])
def test_oidc_provider_takes_a_signed_assertion_once(oidc_provider: OidcProvider, number: int) -> None:
    jwk = oidc_provider.assertion_keys[number]
    claims = {"iss": "asks-jwt", "sub": "asks-jwt", "aud": oidc_provider.url, "exp": 2**32, "jti": f"assertion {number}"}
    assertion = jwt.encode({"alg": jwk["alg"], "kid": jwk["kid"]}, claims, JWKRegistry.import_key({**jwk}))
    form = {
        "token": "x",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": assertion,
    }
    answers = [oidc_provider.client.post(oidc_provider.INTROSPECTION, data=form) for _ in range(2)]
    assert [200, 401] == [answer.status_code for answer in answers]


def test_oidc_provider_signs_introspection_answers_for_those_who_want_it(oidc_provider: OidcProvider) -> None:
    token = oidc_provider.user_token("bob", resource=oidc_provider.OPAQUE)
    basic = ("asks-signed", oidc_provider.secrets["asks-signed"])
    answer = oidc_provider.client.post(oidc_provider.INTROSPECTION, data={"token": token}, auth=basic, headers={"accept": SIGNED})
    assert SIGNED == answer.headers["content-type"].partition(";")[0]
    signed = verified(oidc_provider, answer.text)
    assert ("token-introspection+jwt", "asks-signed") == (signed.header["typ"], signed.claims["aud"])
    assert "bob" == signed.claims["token_introspection"]["sub"]


def test_oidc_provider_tells_userinfo_for_tokens_without_an_audience(oidc_provider: OidcProvider) -> None:
    def ask(token: str) -> httpx.Response:
        return oidc_provider.client.get(oidc_provider.USERINFO, headers={"authorization": f"Bearer {token}"})

    told: dict[str, object] = {"sub": "bob", "email": "bob@example.com", "email_verified": False, "groups": [], "department": "sales"}
    assert told == ask(oidc_provider.user_token("bob")).json()
    assert 401 == ask(oidc_provider.user_token("bob", resource=oidc_provider.OPAQUE, scope="openid")).status_code


@pytest.mark.parametrize("keep", [True, False])
def test_oidc_provider_rotates_its_keys_and_keeps_its_tokens(oidc_provider: OidcProvider, *, keep: bool) -> None:
    opaque = oidc_provider.service_token(oidc_provider.OPAQUE)
    old = verified(oidc_provider, oidc_provider.service_token(oidc_provider.JWT)).header["kid"]
    published = oidc_provider.rotate(keep=keep)
    new = verified(oidc_provider, oidc_provider.service_token(oidc_provider.JWT)).header["kid"]
    assert published == [key["kid"] for key in oidc_provider.client.get(oidc_provider.JWKS).json()["keys"]]
    assert old != new
    assert (keep, True) == (old in published, new in published)
    assert introspected(oidc_provider, opaque)["active"] is True


def test_the_hostile_issuer_signs_what_it_is_told(hostile_issuer: HostileIssuer) -> None:
    kid = hostile_issuer.new_key("ES256")
    token = hostile_issuer.token({"exp": "never", "sub": None}, without=("iat",), header={"typ": "at+jwt"}, kid=kid)
    signed = verified(hostile_issuer, token)
    assert {"typ": "at+jwt", "alg": "ES256", "kid": kid} == signed.header
    assert (hostile_issuer.url, "never", None) == (signed.claims["iss"], signed.claims["exp"], signed.claims["sub"])
    assert {"iss", "exp", "sub", "nbf"} == signed.claims.keys()


def test_the_hostile_issuer_lies_until_it_is_reset(hostile_issuer: HostileIssuer) -> None:
    def answers() -> list[Any]:
        return [
            hostile_issuer.client.post(hostile_issuer.INTROSPECTION, data={"token": "x"}).json(),
            hostile_issuer.client.get(hostile_issuer.USERINFO).json(),
            hostile_issuer.client.post(hostile_issuer.TOKEN, data={"grant_type": "client_credentials"}).json().get("expires_in"),
        ]

    hostile_issuer.lie_at_introspection({"active": "true"})
    hostile_issuer.lie_at_userinfo([], status=201)
    hostile_issuer.lie_at_token({"expires_in": "60"})
    assert [{"active": "true"}, [], "60"] == answers()
    hostile_issuer.reset()
    assert [{"active": True}, {"sub": "johndoe"}, 3600] == answers()


# What both issuers have beside their protocol


@pytest.fixture(params=["oidc_provider", "hostile_issuer"])
def issuer(request: pytest.FixtureRequest) -> Issuer:
    running: Issuer = request.getfixturevalue(request.param)
    return running


def test_hits_are_counted_by_path_and_can_be_waited_for(issuer: Issuer, at_once: ThreadPoolExecutor) -> None:
    before = issuer.hits("/jwks")
    waiting = at_once.submit(issuer.wait_for_hits, "/jwks", before + 2)
    issuer.client.get("/jwks?a")
    issuer.client.get(issuers.DISCOVERY)
    assert not waiting.done()
    issuer.client.get("/jwks?b")
    waiting.result(issuers.LIMIT)
    assert before + 2 == issuer.hits("/jwks")


def test_a_path_is_down_and_the_others_are_not_until_it_is_well(issuer: Issuer) -> None:
    issuer.trouble("503", path="/jwks")
    assert [503, 200] == [issuer.client.get(path).status_code for path in ("/jwks", issuers.DISCOVERY)]
    issuer.trouble("reset")
    with pytest.raises(httpx.TransportError):
        issuer.client.get(issuers.DISCOVERY)
    issuer.well()
    assert [200, 200] == [issuer.client.get(path).status_code for path in ("/jwks", issuers.DISCOVERY)]


def test_requests_hang_until_the_path_is_well_and_are_answered_then(issuer: Issuer, at_once: ThreadPoolExecutor) -> None:
    before = issuer.hits("/jwks")
    issuer.trouble("hang", path="/jwks")
    hanging: list[Future[httpx.Response]] = [at_once.submit(issuer.client.get, "/jwks") for _ in range(3)]
    issuer.wait_for_hits("/jwks", before + 3)
    assert [False, False, False] == [request.done() for request in hanging]
    issuer.well(path="/jwks")
    assert [200, 200, 200] == [request.result(issuers.LIMIT).status_code for request in hanging]


def test_a_path_gives_the_answer_that_it_is_told_to(issuer: Issuer) -> None:
    issuer.answer("/jwks", "<html>", content_type="text/html")
    answer = issuer.client.get("/jwks")
    assert (200, "text/html", "<html>") == (answer.status_code, answer.headers["content-type"], answer.text)
    issuer.reset()
    assert "keys" in issuer.client.get("/jwks").json()


@pytest.mark.parametrize("start", [issuers.oidc_provider, issuers.hostile_issuer])
def test_an_issuer_is_gone_when_the_block_fails_and_ends_by_its_process_id(start: Callable[[], AbstractContextManager[Issuer]]) -> None:
    with pytest.raises(ZeroDivisionError), start() as running:
        raise ZeroDivisionError
    assert -signal.SIGTERM == running.server.process.returncode


# The front proxy


@pytest.fixture(scope="module")
def echo(start_server: StartServer) -> RunningServer:
    return start_server("echo:app", directory=PEER_APPS, options=["--no-proxy-headers"])


def seen(answer: httpx.Response, name: str) -> list[str]:
    assert 200 == answer.status_code, answer.text
    headers: list[list[str]] = answer.json()["headers"]
    return [value for header, value in headers if header == name]


def test_nginx_replaces_the_headers_that_it_sets_and_passes_the_others_on(
    start_nginx: StartNginx, echo: RunningServer, make_client: MakeClient
) -> None:
    proxy = start_nginx(echo.url, sets={"X-Proxy-Proof": "s3cret"})
    sent = [("x-proxy-proof", "mine"), ("X-Proxy-Proof", "mine"), ("X_Proxy_Proof", "mine"), ("x-forwarded-user", "mallory")]
    with make_client(base_url=proxy.url) as client:
        answer = client.get("/v1", headers=sent)
    assert ["s3cret"] == seen(answer, "x-proxy-proof")
    assert [] == seen(answer, "x_proxy_proof")
    assert ["mallory"] == seen(answer, "x-forwarded-user")


def test_nginx_lets_nobody_through_whom_the_login_service_does_not_know(
    start_nginx: StartNginx, echo: RunningServer, login_service: RunningServer, make_client: MakeClient
) -> None:
    proxy = start_nginx(echo.url, login=login_service.url, sets=LOGIN_HEADERS)
    with make_client(base_url=proxy.url, headers={"x-forwarded-user": "root"}) as client:
        assert [401, 401] == [client.get("/", headers=headers).status_code for headers in ({}, {"cookie": "session=eve"})]
        ada = client.get("/", headers={"cookie": "session=ada"})
        bob = client.get("/", headers={"cookie": "session=bob", "x-forwarded-groups": "admins"})
    names = ("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups")
    assert [["ada"], ["ada@example.com"], ["ml-platform,research"]] == [seen(ada, name) for name in names]
    assert [["bob"], ["bob@example.com"], []] == [seen(bob, name) for name in names]


def test_nginx_reaches_an_app_on_a_socket_that_sees_no_peer(
    start_nginx: StartNginx, start_on_socket: Callable[..., SocketServer], make_client: MakeClient
) -> None:
    app = start_on_socket("echo:app", directory=PEER_APPS)
    proxy = start_nginx(app.upstream, sets={"X-Forwarded-User": "ada"})
    with make_client(base_url=proxy.url) as client:
        answer = client.get("/v1/models?a=b")
    assert (None, "/v1/models") == (answer.json()["client"], answer.json()["path"])
    assert ["ada"] == seen(answer, "x-forwarded-user")


def test_nginx_hands_over_the_certificate_of_a_client_in_both_forms(
    start_nginx: StartNginx, echo: RunningServer, certificates: Certificates, make_client: MakeClient
) -> None:
    shown = certificates.client("ada")
    proxy = start_nginx(echo.url, certificates=certificates, client_certificates="on", sets=CERTIFICATE_HEADERS)
    with make_client(base_url=proxy.url, verify=certificates.context(shown)) as client:
        answer = client.get("/")
    certificate = x509.load_pem_x509_certificate(shown.cert_chain_pems[0].bytes())
    (pem,), (joined,) = seen(answer, "x-ssl-client-cert"), seen(answer, "client-cert")
    assert certificate == x509.load_pem_x509_certificate(unquote(pem).encode())
    assert (":", ":") == (joined[0], joined[-1])
    assert certificate.public_bytes(Encoding.DER) == b64decode(joined[1:-1], validate=True)
    assert ["SUCCESS"] == seen(answer, "x-ssl-client-verify")
    assert "CN=ada" in seen(answer, "x-ssl-client-s-dn")[0]


def test_nginx_refuses_clients_without_a_certificate_that_it_trusts(
    start_nginx: StartNginx, echo: RunningServer, certificates: Certificates, make_client: MakeClient
) -> None:
    proxy = start_nginx(echo.url, certificates=certificates, client_certificates="on", sets=CERTIFICATE_HEADERS)
    rogue = certificates.client("ada", authority=certificates.stranger)
    for shown in (None, rogue, certificates.client("ada", expired=True)):
        with make_client(base_url=proxy.url, verify=certificates.context(shown)) as client:
            assert 400 == client.get("/").status_code


def test_nginx_says_that_there_is_no_certificate_and_drops_what_the_client_says(
    start_nginx: StartNginx, echo: RunningServer, certificates: Certificates, make_client: MakeClient
) -> None:
    proxy = start_nginx(echo.url, certificates=certificates, client_certificates="optional", sets=CERTIFICATE_HEADERS)
    forged = dict.fromkeys(CERTIFICATE_HEADERS, "forged")
    with make_client(base_url=proxy.url, verify=certificates.context()) as client:
        answer = client.get("/", headers=forged)
    assert {"x-ssl-client-verify": ["NONE"], "x-ssl-client-cert": [], "client-cert": []} == {
        name: seen(answer, name) for name in ("x-ssl-client-verify", "x-ssl-client-cert", "client-cert")
    }


def test_nginx_and_an_app_on_a_socket_are_gone_when_the_block_fails(certificates: Certificates) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        serve_on_socket("echo:app", directory=PEER_APPS) as app,
        nginx(app.upstream, certificates=certificates) as proxy,
    ):
        raise ZeroDivisionError
    assert (-signal.SIGTERM, 0) == (app.process.returncode, proxy.server.process.returncode)
    assert not app.path.exists()
