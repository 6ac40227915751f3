"""A proxy's word, from the proxy and from others; the attacks are in tests/attacks/test_trusted_headers.py."""

import logging
from typing import Any
from urllib.parse import quote

import pytest
from starlette.middleware import Middleware
from starlette.routing import Mount, Router

from llm_authmw import ConfigurationError, Decision, KeyAuthMiddleware, Stack, StaticKeys, TrustedProxies
from llm_authmw.authn.client_cert import ClientCertMiddleware
from llm_authmw.authn.header_map import HeaderMap
from llm_authmw.authn.proof import Proof, SharedSecret, UnixSocket
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.certificates.rules import CertRule
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.principal import Assurance
from llm_authmw.testing import Response, stream, websocket
from llm_authmw.testing.certificates import CertificateAuthority
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})
SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
SHARED = SharedSecret(header="x-proxy-proof", secret=SECRET)
PROOF = (b"X-Proxy-Proof", SECRET.encode())
USER = (b"X-Forwarded-User", b"ada")
EMAIL = (b"x-forwarded-email", b"ada@example.com")
GROUPS = (b"x-forwarded-groups", b"ml, admins")
OTHER = (b"x-request-id", b"7")
MAP = HeaderMap.preset("oauth2-proxy")
SOCKET: dict[str, Any] = {"client": None, "server": ("/run/app.sock", None)}


def trusting(app: Any, proof: Proof | None = SHARED, **options: Any) -> HeaderTrustMiddleware:
    given: dict[str, Any] = {"realm": "corp", "headers": MAP, "proof": proof, **options}
    return HeaderTrustMiddleware(app, **given)


async def ask(app: Any, *lines: tuple[bytes, bytes], **members: Any) -> tuple[Response, list[Decision]]:
    async with stream(app, "GET /v1/models", headers=lines, scope=members) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY].decisions


def sent_on(app: Witness) -> list[tuple[bytes, bytes]]:
    return [(bytes(name), bytes(value)) for name, value in app.scopes[-1]["headers"]]


async def test_a_stranger_is_nobody_whatever_he_writes() -> None:
    app = Witness()
    response, decisions = await ask(trusting(app), USER, EMAIL, GROUPS)
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert ["TrustedHeader"] == response.header_lines("www-authenticate")
    assert ["passed", "denied"] == [decision.outcome for decision in decisions]
    assert [] == app.scopes


async def test_where_nobody_is_required_a_strangers_headers_do_not_reach_the_app() -> None:
    app = Witness()
    response, _ = await ask(trusting(app, required=False), OTHER, USER, EMAIL, GROUPS, (b"X-FORWARDED-PREFERRED-USERNAME", b"ada"))
    assert 200 == response.status
    assert ["anonymous"] == app.subjects
    assert [OTHER] == sent_on(app)


async def test_a_strangers_headers_are_removed_beside_his_own_credential_too() -> None:
    app = Witness()
    key = (b"x-api-key", KEY.encode())
    for guarded in (trusting(KeyAuthMiddleware(app, keys=KEYS)), KeyAuthMiddleware(trusting(app), keys=KEYS)):
        assert 200 == (await ask(guarded, key, USER, GROUPS))[0].status
        assert [key] == sent_on(app)
    assert ["key:ci", "key:ci"] == app.subjects


async def test_the_list_of_the_server_is_not_written_into() -> None:
    lines = [USER, PROOF, OTHER]
    async with stream(trusting(Witness()), "GET /", scope={"headers": lines}) as exchange:
        async for _ in exchange:
            pass
    assert 200 == exchange.response.status
    assert [USER, PROOF, OTHER] == lines


async def test_the_proxys_word_makes_a_principal() -> None:
    app = Witness()
    response, decisions = await ask(trusting(app, tenant="acme"), OTHER, USER, EMAIL, GROUPS, PROOF)
    assert 200 == response.status
    caller = app.scopes[0]["user"]
    assert ("acme/corp/ada", "ada@example.com", ("admins", "ml")) == (caller.identity, caller.email, caller.groups)
    assert ("header", Assurance.PEER_TRUSTED, None, None) == (caller.method, caller.assurance, caller.credential_id, caller.issuer)
    assert [("HeaderTrustMiddleware", "allowed")] == [(decision.layer, decision.outcome) for decision in decisions]


async def test_what_was_judged_is_sent_on_as_it_came_but_the_proof_is_not() -> None:
    app = Witness()
    padded = (b"X-Forwarded-Groups", b" b , a\t")
    await ask(trusting(app), OTHER, USER, PROOF, padded)
    assert [OTHER, USER, padded] == sent_on(app)


async def test_a_principal_is_made_once_for_equal_values() -> None:
    app = Witness()
    guarded = trusting(app)
    beside = [OTHER, (b"x-forwarded-access-token", b"eyJ"), (b"x-forwarded-preferred-username", b"countess")]
    for lines in ([USER, GROUPS, PROOF], [*beside, USER, GROUPS, PROOF], [USER, PROOF], [(b"x-forwarded-user", b"bob"), GROUPS, PROOF]):
        await ask(guarded, *lines)
    first, same, without_groups, other = (scope["user"] for scope in app.scopes)
    assert first is same
    assert [("ada", ()), ("bob", ("admins", "ml"))] == [(caller.user, caller.groups) for caller in (without_groups, other)]


async def test_a_proxy_that_names_nobody_lets_nobody_in_by_another_way() -> None:
    app = Witness()
    for lines in ([PROOF], [PROOF, EMAIL, GROUPS], [PROOF, (b"x-forwarded-user", b"")]):
        response, _ = await ask(trusting(app), *lines)
        assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
    assert 200 == (await ask(trusting(app, required=False), PROOF, GROUPS))[0].status
    assert ["anonymous"] == app.subjects
    assert [GROUPS] == sent_on(app)


@pytest.mark.parametrize("beside", [[], [(b"x-api-key", KEY.encode())]])
async def test_a_proof_that_is_wrong_is_denied_even_beside_a_good_key(beside: list[tuple[bytes, bytes]]) -> None:
    app = Witness()
    guarded = trusting(KeyAuthMiddleware(app, keys=KEYS, required=False), required=False)
    for lines in ([(b"x-proxy-proof", b"guess")], [PROOF, PROOF], [(b"x-proxy-proof", b"")]):
        response, decisions = await ask(guarded, USER, *lines, *beside)
        assert (401, "credential_not_accepted") == (response.status, response.header("x-authmw-reason"))
        assert "TrustedHeader" in response.header_lines("www-authenticate")
        assert ("proxy_proof_invalid", None) == (decisions[-1].reason, decisions[-1].credential_id)
    assert [] == app.scopes


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([USER, USER], "identity_header_repeated"),
        ([(b"x-forwarded-user", b"ada, admin")], "identity_header_repeated"),
        ([(b"x-forwarded-user", b"ada\xff")], "identity_header_malformed"),
        ([USER, (b"x-forwarded-email", b"a@b@c")], "identity_header_malformed"),
        ([USER, (b"X_Forwarded_Groups", b"admins")], "identity_header_alias"),
    ],
)
async def test_what_the_proxy_says_in_two_ways_is_refused(lines: list[tuple[bytes, bytes]], reason: str) -> None:
    app = Witness()
    response, decisions = await ask(trusting(app), PROOF, *lines)
    assert (400, reason) == (response.status, response.header("x-authmw-reason"))
    assert reason == decisions[-1].reason
    assert [] == app.scopes


async def test_a_restriction_that_the_proxy_should_have_named_is_missed() -> None:
    app = Witness()
    guarded = trusting(app, headers=HeaderMap(user="x-user", models="x-models"))
    response, _ = await ask(guarded, PROOF, (b"x-user", b"ada"))
    assert (400, "identity_header_missing") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
    assert 200 == (await ask(guarded, PROOF, (b"x-user", b"ada"), (b"x-models", b"gpt-4o*")))[0].status
    assert ("gpt-4o*",) == app.scopes[0]["user"].models


async def test_a_callers_own_credential_is_the_principal() -> None:
    app = Witness()
    key = (b"x-api-key", KEY.encode())
    for guarded in (trusting(KeyAuthMiddleware(app, keys=KEYS)), KeyAuthMiddleware(trusting(app), keys=KEYS)):
        response, decisions = await ask(guarded, key, USER, PROOF)
        assert 200 == response.status
        assert {"HeaderTrustMiddleware", "KeyAuthMiddleware"} == {decision.layer for decision in decisions if decision.outcome == "allowed"}
        assert 200 == (await ask(guarded, USER, PROOF))[0].status
    assert ["key:ci", "ada", "key:ci", "ada"] == app.subjects


async def test_a_bad_credential_is_not_made_good_by_the_proxy() -> None:
    app = Witness()
    for guarded in (trusting(KeyAuthMiddleware(app, keys=KEYS)), KeyAuthMiddleware(trusting(app), keys=KEYS), trusting(app)):
        for own in ((b"x-api-key", b"sk-garbage"), (b"authorization", b"Basic YTpi"), (b"authorization", b"Bearer x.y.z")):
            assert 401 == (await ask(guarded, own, USER, PROOF))[0].status
    assert [] == app.scopes


async def test_a_socket_is_judged_like_a_request() -> None:
    app = Witness()
    async with websocket(trusting(app), "/v1/realtime", headers=[USER, PROOF]) as socket:
        assert socket.accepted
    assert [USER] == sent_on(app)
    for lines in ([USER], [USER, (b"x-proxy-proof", b"guess")], [USER, USER, PROOF]):
        async with websocket(trusting(app), "/v1/realtime", headers=lines) as socket:
            assert not socket.accepted
    async with websocket(trusting(app, required=False), "/v1/realtime", headers=[USER, OTHER]) as socket:
        assert socket.accepted
    assert [OTHER] == sent_on(app)
    assert ["ada", "anonymous"] == app.subjects


async def test_a_unix_socket_or_a_peer_on_the_operators_word_is_proof_too() -> None:
    app = Witness()
    by_socket = trusting(app, UnixSocket())
    by_address = trusting(app, None, peers=["10.0.0.0/24"], server_does_not_rewrite=True)
    assert 200 == (await ask(by_socket, USER, **SOCKET))[0].status
    assert 200 == (await ask(by_address, USER, client=("10.0.0.7", 4711)))[0].status
    assert ["ada", "ada"] == app.subjects
    assert 401 == (await ask(by_socket, USER, client=("10.0.0.7", 4711)))[0].status
    assert 401 == (await ask(by_address, USER, **SOCKET))[0].status


async def test_the_setting_for_addresses_makes_nobody_a_proxy() -> None:
    app = Witness()
    proxies = TrustedProxies(["10.0.0.0/24"], unix_socket=True)
    guarded = trusting(app, None, peers=["10.9.9.9"], server_does_not_rewrite=True, trusted_proxies=proxies)
    for client in (("10.0.0.1", 4711), None):
        response, _ = await ask(guarded, USER, (b"x-forwarded-for", b"10.9.9.9"), client=client)
        assert 401 == response.status
    assert [] == app.scopes


async def test_a_layer_behind_a_mount_decides_anew_and_sees_no_proof_that_was_spent() -> None:
    app = Witness()
    inner = trusting(app, required=False)
    await ask(trusting(Router([Mount("/v1", inner)])), USER, PROOF)
    assert ["anonymous"] == app.subjects
    assert [] == sent_on(app)


async def test_layers_that_share_a_proof_both_see_it_and_the_app_does_not() -> None:
    app = Witness()
    issued = CertificateAuthority().issue(uri=["spiffe://example.com/batch"])
    rules = [CertRule(spiffe="spiffe://example.com/batch", client="batch")]
    certificate = (b"x-ssl-client-cert", quote(issued.pem, safe="").encode())
    options: dict[str, Any] = {"rules": rules, "source": "nginx", "header": "x-ssl-client-cert", "proof": SHARED}
    for guarded in (trusting(ClientCertMiddleware(app, **options)), ClientCertMiddleware(trusting(app), **options)):
        response, decisions = await ask(guarded, USER, certificate, PROOF)
        assert (200, ["allowed", "allowed"]) == (response.status, [decision.outcome for decision in decisions])
        assert [USER, certificate] == sent_on(app)
        assert 401 == (await ask(guarded, USER, certificate))[0].status
    assert ["ada", "client:batch"] == app.subjects


async def test_two_proxies_with_headers_of_their_own_may_stand_in_front() -> None:
    app = Witness()
    second = SharedSecret(header="x-tailnet-proof", secret=SECRET[::-1])
    guarded = trusting(trusting(app, second, headers=HeaderMap.preset("tailscale")))
    login = (b"tailscale-user-login", b"bob@github")
    assert 200 == (await ask(guarded, USER, login, PROOF))[0].status
    assert [USER] == sent_on(app)
    assert 200 == (await ask(guarded, USER, login, (b"x-tailnet-proof", SECRET[::-1].encode())))[0].status
    assert [login] == sent_on(app)
    assert ["ada", "bob@github"] == app.subjects


async def test_the_secret_is_in_no_record_log_answer_or_repr(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app = Witness()
    guarded = trusting(app)
    seen: list[str] = [repr(guarded), repr(Stack(Middleware(HeaderTrustMiddleware, realm="corp", headers=MAP, proof=SHARED)))]
    for lines in ([USER, PROOF], [USER, USER, PROOF], [USER, PROOF, PROOF], [(b"x_proxy_proof", SECRET.encode())], [PROOF]):
        response, decisions = await ask(guarded, *lines)
        seen += [response.text, repr(response.headers), repr(decisions)]
    assert all(SECRET not in text for text in [*seen, caplog.text, *map(repr, app.scopes)])


WRONG: list[tuple[str, dict[str, Any]]] = [
    ("proof", {"proof": None}),
    ("proof", {"proof": SECRET}),
    ("proof", {"proof": UnixSocket}),
    ("proof", {"proof": SharedSecret(header="x-forwarded-user", secret=SECRET)}),
    ("proof", {"proof": SharedSecret(header="x-forwarded-access-token", secret=SECRET)}),
    ("headers", {"proof": SharedSecret(header="x.forwarded.user", secret=SECRET)}),
    ("peers", {"peers": ["10.0.0.1"], "server_does_not_rewrite": True}),
    ("server_does_not_rewrite", {"server_does_not_rewrite": True}),
    ("server_does_not_rewrite", {"proof": None, "peers": ["10.0.0.1"]}),
    ("peers", {"proof": None, "peers": ["0.0.0.0/0"], "server_does_not_rewrite": True}),
    ("peers", {"proof": None, "peers": ["*"], "server_does_not_rewrite": True}),
    ("headers", {"headers": None}),
    ("headers", {"headers": {"user": "x-user"}}),
    ("headers", {"headers": "oauth2-proxy"}),
    ("realm", {"realm": ""}),
    ("realm", {"realm": "a\nb"}),
    ("realm", {"realm": None}),
    ("tenant", {"tenant": ""}),
    ("tenant", {"tenant": 7}),
    ("required", {"required": "yes"}),
    ("trusted_proxies", {"trusted_proxies": ["10.0.0.1"]}),
    *(
        ("peers", {"headers": HeaderMap.preset(name), "proof": None, "peers": ["10.0.0.1"], "server_does_not_rewrite": True})
        for name in ("google-iap", "azure-easy-auth")
    ),
]


@pytest.mark.parametrize(("option", "options"), WRONG)
def test_a_wrong_option_is_refused_by_name(option: str, options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"realm": "corp", "headers": MAP, "proof": SHARED, **options}
    with pytest.raises(ConfigurationError) as raised:
        HeaderTrustMiddleware(Witness(), **given)
    assert option == raised.value.option
    assert SECRET not in str(raised.value)


def test_the_headers_of_clouds_are_trusted_on_a_strong_proof() -> None:
    for name in ("google-iap", "azure-easy-auth"):
        assert trusting(Witness(), UnixSocket(), headers=HeaderMap.preset(name)).trusted_headers


def test_two_layers_that_read_the_same_headers_do_not_stand_side_by_side() -> None:
    with pytest.raises(ConfigurationError, match="which the outer one removes"):
        trusting(trusting(Witness(), UnixSocket()))
    with pytest.raises(ConfigurationError, match="x-ticket"):
        trusting(TicketLayer(Witness()), headers=HeaderMap(user="x-ticket"))
