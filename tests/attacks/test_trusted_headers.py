"""Being named by a header that no proxy wrote."""

import base64
import json
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llm_authmw import KeyAuthMiddleware, StaticKeys
from llm_authmw.authn.header_map import FIELDS, HeaderMap
from llm_authmw.authn.proof import Proof, SharedSecret, UnixSocket
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.header_names import fold
from llm_authmw.testing import Response, request, stream, websocket
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
PROOF = (b"x-proxy-proof", SECRET.encode())
USER = (b"x-forwarded-user", b"ada")
SHARED = SharedSecret(header="x-proxy-proof", secret=SECRET)
SOCKET: dict[str, Any] = {"client": None, "server": ("/run/app.sock", None)}
STRANGER: dict[str, Any] = {"client": ("203.0.113.9", 4711)}
NAMED: dict[str, Any] = {field: f"x-{field}" for field in FIELDS}
EVERYTHING = HeaderMap(**NAMED)


def trusting(app: Any, proof: Proof | None = SHARED, *, headers: HeaderMap | None = None, **options: Any) -> HeaderTrustMiddleware:
    return HeaderTrustMiddleware(app, realm="corp", headers=headers or HeaderMap.preset("oauth2-proxy"), proof=proof, **options)


async def ask(layer: Any, *lines: tuple[bytes, bytes], target: str = "GET /v1/models", **members: Any) -> Response:
    return await request(layer, target, headers=lines, scope=members)


@pytest.mark.anyio
@pytest.mark.parametrize("preset", ["oauth2-proxy", "authelia", "pomerium", "google-iap", "azure-easy-auth", "istio", "tailscale"])
async def test_the_default_is_to_trust_nobody(preset: Any) -> None:
    """CVE-2026-40575, CVE-2026-44087, CVE-2026-31908, CVE-2023-27487: headers of a proxy, from somebody who is none."""
    app = Witness()
    headers = HeaderMap.preset(preset)
    lines = [(name, b"accounts.google.com:admin") for name in sorted(trusting(app, headers=headers).trusted_headers)]
    assert 401 == (await ask(trusting(app, headers=headers), *lines)).status
    for proof in (SHARED, UnixSocket()):
        assert 200 == (await ask(trusting(app, proof, headers=headers, required=False), *lines, **STRANGER)).status
        assert "anonymous" == app.subjects[-1]
        assert [] == app.scopes[-1]["headers"]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "name",
    [b"X_Forwarded_User", b"x-forwarded_user", b"X.Forwarded.User", b"x forwarded user", b"x-forwarded-user ", b"x~forwarded~user"],
)
@pytest.mark.parametrize("proven", [True, False])
async def test_an_alias_is_refused_whoever_sends_it_and_wherever(name: bytes, proven: bool) -> None:
    """CVE-2025-64484, CVE-2026-33433, CVE-2026-54763, CVE-2026-39858: the same name in another spelling."""
    app = Witness()
    own = (b"x-api-key", KEY.encode())
    guarded = trusting(KeyAuthMiddleware(app, keys=StaticKeys({"ci": KEY}), required=False), required=False)
    for beside in ([], [own], [USER], [own, USER]):
        lines = [*beside, *([PROOF] if proven else []), (name, b"admin")]
        response = await ask(guarded, *lines)
        assert (400, "identity_header_alias") == (response.status, response.header("x-authmw-reason"))
        async with websocket(guarded, "/v1/realtime", headers=lines) as socket:
            assert not socket.accepted
    assert [] == app.scopes


@pytest.mark.anyio
async def test_an_alias_of_the_proof_is_refused_too() -> None:
    app = Witness()
    assert 400 == (await ask(trusting(app), USER, (b"X_Proxy_Proof", SECRET.encode()))).status
    assert 400 == (await ask(trusting(app, required=False), (b"x.proxy.proof", b"guess"))).status
    assert [] == app.scopes


@pytest.mark.anyio
@pytest.mark.parametrize(
    "lines",
    [
        [USER, (b"x-forwarded-user", b"admin")],
        [(b"X-Forwarded-User", b"admin"), USER],
        [(b"x-forwarded-user", b"ada, admin")],
        [(b"x-forwarded-user", b"ada,admin")],
        [(b"x-forwarded-user", b",")],
        [USER, (b"x-forwarded-groups", b"ml"), (b"x-forwarded-groups", b"admins")],
        [USER, (b"x-forwarded-email", b"ada@example.com,root@example.com")],
    ],
)
async def test_two_values_where_one_is_due_are_refused(lines: list[tuple[bytes, bytes]]) -> None:
    """CVE-2026-26308: a proxy that appends to what the client sent, and an app that takes the first or the last."""
    app = Witness()
    response = await ask(trusting(app), *lines, PROOF)
    assert (400, "identity_header_repeated") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.anyio
@pytest.mark.parametrize(
    "value", [b"\xff\xfe", b"ada\x00", b"ada\r\nx-forwarded-user: root", b"\x1b]0;x\x07", "a\u200bda".encode(), b"\xc0\xaf"]
)
async def test_bytes_that_are_no_text_are_refused_and_not_sent_back(value: bytes) -> None:
    """CVE-2026-73552: what cannot be read must fail closed."""
    app = Witness()
    for name in (b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded-groups"):
        lines = [line for line in (USER, (name, value)) if line[0] != name or line[1] == value]
        response = await ask(trusting(app), *lines, PROOF)
        assert (400, "identity_header_malformed") == (response.status, response.header("x-authmw-reason"))
        assert value not in response.body
        assert value not in b"".join(part for line in response.headers for part in line)
    assert [] == app.scopes


@pytest.mark.anyio
@pytest.mark.parametrize("forged", [b"10.0.0.7", b"127.0.0.1", b"10.0.0.7:443", b"10.0.0.7, 203.0.113.9"])
async def test_an_address_in_a_header_makes_nobody_a_proxy(forged: bytes) -> None:
    """Neither a header that we could read, nor one that uvicorn has taken the client's address from already."""
    app = Witness()
    guarded = trusting(app, None, peers=["10.0.0.0/24", "127.0.0.1"], server_does_not_rewrite=True)
    for name in (b"x-forwarded-for", b"forwarded", b"x-real-ip", b"true-client-ip"):
        assert 401 == (await ask(guarded, USER, (name, forged), **STRANGER)).status
    assert 401 == (await ask(guarded, USER, (b"x-forwarded-for", forged), client=("10.0.0.7", 0))).status
    assert [] == app.scopes


@pytest.mark.anyio
async def test_nothing_that_a_client_says_about_the_connection_is_proof() -> None:
    """GHSA-vhr5-ggp3-qq85, CVE-2026-35051: scheme, host, prefix and port are what the client or a header says."""
    app = Witness()
    lines = [
        (b"x-forwarded-proto", b"unix"),
        (b"x-forwarded-host", b"/run/app.sock"),
        (b"x-forwarded-port", b"0"),
        (b"x-forwarded-prefix", b"/run/app.sock"),
        (b"host", b"/run/app.sock"),
        (b"via", b"1.1 proxy"),
        (b"user-agent", b"kube-probe/1.31"),
        (b"x-proxy-proofs", SECRET.encode()),
    ]
    for proof in (UnixSocket(), SHARED):
        for target in ("GET /healthz", "GET /ping", "OPTIONS /v1/models", f"GET /?x-proxy-proof={SECRET}"):
            assert 401 == (await ask(trusting(app, proof), USER, *lines, target=target, **STRANGER)).status
    assert [] == app.scopes


@pytest.mark.anyio
async def test_a_connection_that_was_reset_at_once_is_no_unix_socket() -> None:
    """Without a client's address: uvicorn cannot ask for one any more once the peer has gone."""
    app = Witness()
    assert 401 == (await ask(trusting(app, UnixSocket()), USER, client=None, server=("0.0.0.0", 8000))).status
    assert [] == app.scopes
    assert 200 == (await ask(trusting(app, UnixSocket()), USER, **SOCKET)).status


@pytest.mark.anyio
@pytest.mark.parametrize("dropped", [b"x-tenant", b"x-tier", b"x-models", b"x-limits", b"x-budgets"])
async def test_a_limit_is_not_shed_by_having_a_proxy_drop_its_header(dropped: bytes) -> None:
    """CVE-2022-31813: `Connection: x-limits`, and the header that the proxy had set is gone."""
    app = Witness()
    values = {
        b"x-user": b"ada",
        b"x-tenant": b"acme",
        b"x-tier": b"free",
        b"x-models": b"small",
        b"x-limits": b"1 requests/day",
        b"x-budgets": b"1 usd/month",
    }
    lines = list(values.items())
    assert 200 == (await ask(trusting(app, headers=EVERYTHING), *lines, PROOF)).status
    response = await ask(trusting(app, headers=EVERYTHING), *[line for line in lines if line[0] != dropped], PROOF)
    assert (400, "identity_header_missing") == (response.status, response.header("x-authmw-reason"))
    assert 1 == len(app.scopes)


@pytest.mark.anyio
@pytest.mark.parametrize(("name", "value"), [("user", b"client:batch"), ("user", b"key:k-1"), ("email", b"ada@evil.example@corp.example")])
async def test_nobody_is_named_like_somebody_of_another_kind(name: str, value: bytes) -> None:
    """GHSA-c5c4-8r6x-56w3 for the address; the other two would be subjects of a client and of a key."""
    app = Witness()
    guarded = trusting(app, headers=HeaderMap(user="x-user", email="x-email"))
    lines = {b"x-user": b"ada", f"x-{name}".encode(): value}
    assert 400 == (await ask(guarded, *lines.items(), PROOF)).status
    assert [] == app.scopes


@pytest.mark.anyio
async def test_a_guess_costs_one_look_and_tells_nothing_of_the_secret() -> None:
    app = Witness()
    answers: set[tuple[int, bytes, tuple[tuple[bytes, bytes], ...]]] = set()
    for guess in (b"", b"x", SECRET.encode()[:-1], SECRET.encode() + b"x", b"a" * 1_000_000):
        response = await ask(trusting(app), USER, (b"x-proxy-proof", guess))
        kept = tuple(line for line in response.headers if line[0] != b"x-request-id")
        request_id = response.header("x-request-id")
        assert request_id is not None
        answers.add((response.status, response.body.replace(request_id.encode(), b""), kept))
    assert 1 == len(answers)
    assert [] == app.scopes


spelt = st.sampled_from(
    [b"x-forwarded-user", b"x-forwarded-email", b"x-forwarded-groups", b"x-forwarded-preferred-username", b"x-proxy-proof"]
).flatmap(
    lambda name: st.tuples(
        *(
            st.sampled_from([b"-", b"_", b".", b" ", b"\xa0"] if letter == ord("-") else [bytes([letter]), bytes([letter]).upper()])
            for letter in name
        )
    ).map(b"".join)
)
plain = st.sampled_from([b"x-forwarded-user", b"X-Forwarded-Groups", b"x-proxy-proof", b"x-api-key", b"authorization", b"x-forwarded-for"])
values = st.binary(max_size=12) | st.sampled_from(
    [b"ada", b"a,b", b"ada@example.com", SECRET.encode(), KEY.encode(), b" ", b"\xff", b"key:x"]
)
lines_of_headers = st.lists(st.tuples(spelt | plain | st.binary(max_size=20), values), max_size=5)
connections = st.sampled_from([STRANGER, SOCKET, {"client": None}, {"client": ("", "0"), "server": None}, {"client": ("10.0.0.1", "x")}])


def layers(app: Witness) -> list[Any]:
    """Return the layer with each proof, alone and beside keys."""
    keys = StaticKeys({"ci": KEY})
    return [
        trusting(app, required=False),
        trusting(KeyAuthMiddleware(app, keys=keys, required=False), required=False),
        KeyAuthMiddleware(trusting(app, UnixSocket(), required=False), keys=keys, required=False),
        trusting(app, None, peers=["10.0.0.0/8"], server_does_not_rewrite=True, required=False),
    ]


@settings(max_examples=300)
@given(lines=lines_of_headers, which=st.integers(0, 3), connection=connections, socket=st.booleans())
@example(lines=[(b"x_forwarded_user", b"admin")], which=0, connection=STRANGER, socket=False)
@example(lines=[(b"X-FORWARDED-USER", b"admin")], which=2, connection=STRANGER, socket=True)
@example(lines=[USER, PROOF], which=0, connection=STRANGER, socket=False)
def test_no_bytes_of_a_stranger_reach_the_app_as_an_identity(
    lines: list[tuple[bytes, bytes]], which: int, connection: dict[str, Any], socket: bool
) -> None:
    app = Witness()
    layer = layers(app)[which]
    trusted = trusting(app).trusted_headers

    async def converse() -> None:
        conversation: Any = (
            websocket(layer, "/", headers=lines, scope=connection) if socket else stream(layer, "GET /", headers=lines, scope=connection)
        )
        async with conversation:
            if not socket:
                async for _ in conversation:
                    pass
        assert conversation.scope[CONTEXT_KEY].decisions
        if not app.scopes:
            assert conversation.response.status in (400, 401, 503)
            return
        reached = [name for name, _ in app.scopes[0]["headers"]]
        caller = app.scopes[0]["user"]
        assert all(name.lower() == fold(name) for name in reached if fold(name) in trusted)
        assert b"x-proxy-proof" not in {fold(name) for name in reached} or which >= 2
        proven = [
            [value.strip(b" \t") for name, value in lines if name.lower() == b"x-proxy-proof"] == [SECRET.encode()],
            connection is SOCKET,
            connection.get("client") == ("10.0.0.1", "x"),
        ][max(0, which - 1)]
        if not proven:
            assert trusted.isdisjoint(fold(name) for name in reached)
            assert caller.method in ("anonymous", "key")
        if caller.method == "header":
            assert [caller.user.encode()] == [value.strip(b" \t") for name, value in lines if name.lower() == b"x-forwarded-user"]

    anyio.run(converse)


texts = st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
client_principals = st.fixed_dictionaries(
    {"auth_typ": st.sampled_from(["aad", "google", None])},
    optional={
        "role_typ": json_values,
        "claims": st.lists(
            st.fixed_dictionaries({}, optional={"typ": st.sampled_from(["oid", "groups", "roles", 7]), "val": json_values}), max_size=4
        ),
    },
).map(lambda value: base64.b64encode(json.dumps(value).encode()))
elements = st.lists(
    st.sampled_from(
        [b"Hash=" + b"ab" * 32, b"URI=spiffe://a/b", b"URI=", b'Subject="CN=a\\"b"', b'Cert="x"', b"By=x", b";", b",", b'"', b"="]
    ),
    max_size=6,
).map(b";".join)
ENCODED = ["google-iap", "azure-easy-auth", "istio", "tailscale"]


@settings(max_examples=300)
@given(preset=st.sampled_from(ENCODED), data=st.data())
def test_any_value_of_a_proven_proxy_is_a_principal_or_a_refusal(preset: Any, data: st.DataObject) -> None:
    """A proxy that is trusted may still hand on what a client has chosen, such as his name."""
    app = Witness()
    headers = HeaderMap.preset(preset)
    generated = texts | client_principals | elements | texts.map(lambda text: b"accounts.google.com:" + text) | texts.map(base64.b64encode)
    lines = [(name, data.draw(generated)) for name in sorted(set(headers.named.values()))]

    async def converse() -> None:
        response = await ask(trusting(app, headers=headers), *lines, PROOF)
        assert response.status in (200, 400, 401)
        assert (response.status == 200) == bool(app.scopes)
        if app.scopes:
            caller = app.scopes[0]["user"]
            assert ("header", True) == (caller.method, caller.subject.isprintable())

    anyio.run(converse)


@settings(max_examples=200)
@given(field=st.sampled_from(FIELDS), value=texts)
def test_any_value_of_any_field_is_a_principal_or_a_refusal(field: str, value: bytes) -> None:
    app = Witness()
    lines = {f"x-{name}".encode(): b"" for name in FIELDS} | {
        b"x-user": b"ada",
        b"x-tenant": b"t",
        b"x-tier": b"t",
        f"x-{field}".encode(): value,
    }

    async def converse() -> None:
        response = await ask(trusting(app, headers=EVERYTHING), *lines.items(), PROOF)
        assert response.status in (200, 400, 401)
        assert (response.status == 200) == bool(app.scopes)

    anyio.run(converse)
