"""Smuggling a credential or a name past us to an app that prefers it to ours: every channel, in every spelling."""

from random import Random
from typing import Any

import anyio
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.authn.channels import COOKIE_HEADERS, CREDENTIAL_HEADERS, CREDENTIAL_PARAMETERS
from llm_authmw.authn.identity_headers import WELL_KNOWN
from llm_authmw.overrides import OVERRIDES
from llm_authmw.testing import request, websocket
from llm_authmw.testing.witness import Witness
from llm_authmw.upstream import UpstreamCredentialMiddleware

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
SMUGGLED = b"sk-smuggled"
OURS = (b"authorization", b"Bearer sk-upstream")
OWN_HEADER, OWN_PARAMETER = b"x-corp-secret", b"corp-key"

# Spelt out here, so that a name that is dropped from a table of ours is missed.
NAMES = [
    *("authorization", "proxy-authorization", "x-forwarded-authorization", "x-serverless-authorization"),
    *("x-api-key", "api-key", "apikey", "x-goog-api-key", "x-litellm-api-key", "ocp-apim-subscription-key"),
    *("x-auth-token", "x-access-token", "x-amz-security-token", "cookie", "dpop"),
    *("x-forwarded-user", "x-forwarded-email", "x-forwarded-groups", "remote-user", "x-remote-user", "x-forwarded-access-token"),
    *("x-auth-request-user", "x-goog-authenticated-user-email", "x-goog-iap-jwt-assertion", "x-amzn-oidc-data", "x-ms-client-principal"),
    *("cf-access-jwt-assertion", "x-pomerium-jwt-assertion", "tailscale-user-login", "x-forwarded-client-cert", "client-cert"),
    *("x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"),
]
PARAMETERS = ["key", "api_key", "api-key", "apikey", "access_token", "subscription-key", "token", "x-api-key"]
HARMLESS = [b"accept", b"Content-Type", b"user-agent", b"x-request-id", b"openai-organization", b"anthropic-version", b"x-stainless-lang"]

KNOWN_HEADERS = sorted(CREDENTIAL_HEADERS | COOKIE_HEADERS | OVERRIDES | WELL_KNOWN | {name.encode() for name in NAMES})
KNOWN_PARAMETERS = sorted(CREDENTIAL_PARAMETERS | {name.encode() for name in PARAMETERS})


def guarded(app: Any) -> Any:
    return Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}), header=OWN_HEADER.decode(), query_parameter=OWN_PARAMETER.decode()),
        Middleware(UpstreamCredentialMiddleware, bearer="sk-upstream"),
    )(app)


def alone(app: Any) -> Any:
    return UpstreamCredentialMiddleware(app, bearer="sk-upstream")


@st.composite
def spelt(draw: st.DrawFn, names: list[bytes]) -> bytes:
    """Return a name in some spelling that a server, a gateway or an app may read as that name."""
    letters = draw(st.sampled_from(names)).decode()
    folded = [draw(st.sampled_from("-_.")) if letter == "-" else draw(st.sampled_from([letter, letter.upper()])) for letter in letters]
    return "".join(folded).encode()


def smuggled_lines(names: list[bytes]) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    return st.lists(st.tuples(spelt(names), st.binary(max_size=8).map(lambda noise: SMUGGLED + noise)), max_size=5)


@st.composite
def smuggled_pairs(draw: st.DrawFn, names: list[bytes]) -> bytes:
    encoded = [draw(st.sampled_from([bytes([byte]), b"%%%02x" % byte, b"%%%02X" % byte])) for byte in draw(spelt(names))]
    before, after = draw(st.sampled_from([b"", b"$", b"%24"])), draw(st.sampled_from([b"", b"[]", b"%5B%5D", b"+", b"%00"]))
    return before + b"".join(encoded) + after + b"=" + SMUGGLED


harmless_lines = st.lists(st.tuples(st.sampled_from(HARMLESS), st.binary(max_size=8)), max_size=5)
harmless_pairs = st.sampled_from([b"model=gpt-4o", b"q=a%20b+c", b"page_token=3", b"a", b"a=", b"keys=1", b"=x", b"%ff=%zz", b""])


def seen_by_the_app(layer: Any, app: Witness, *, headers: Any = (), socket: bool = False, **scope: Any) -> Any:
    async def ask() -> None:
        if socket:
            async with websocket(layer(app), "/v1/realtime", headers=headers, scope=scope) as opened:
                assert opened.accepted
        else:
            assert 200 == (await request(layer(app), "GET /v1/models", headers=headers, scope=scope)).status

    anyio.run(ask)
    return app.scopes[-1]


@settings(max_examples=200)
@given(smuggled=smuggled_lines(KNOWN_HEADERS), harmless=harmless_lines, order=st.randoms(use_true_random=False), socket=st.booleans())
def test_no_header_that_may_carry_a_credential_or_a_name_reaches_the_app_and_every_other_does_as_it_is(
    smuggled: list[tuple[bytes, bytes]], harmless: list[tuple[bytes, bytes]], order: Random, socket: bool
) -> None:
    lines = [*smuggled, *harmless]
    order.shuffle(lines)
    expected = [*(line for line in lines if line[0] in HARMLESS), OURS]
    assert expected == seen_by_the_app(alone, Witness(), headers=lines, socket=socket)["headers"]


@settings(max_examples=200)
@given(
    pairs=st.lists(
        smuggled_pairs(KNOWN_PARAMETERS).map(lambda pair: (True, pair)) | harmless_pairs.map(lambda pair: (False, pair)), max_size=6
    ),
    separator=st.sampled_from([b"&", b";"]),
    socket=st.booleans(),
)
def test_no_query_parameter_that_may_carry_a_credential_reaches_the_app_and_every_other_does_as_it_is(
    pairs: list[tuple[bool, bytes]], separator: bytes, socket: bool
) -> None:
    sent = separator.join(pair for _, pair in pairs)
    expected = separator.join(pair for is_smuggled, pair in pairs if not is_smuggled)
    assert expected == seen_by_the_app(alone, Witness(), socket=socket, query_string=sent)["query_string"]


offers = st.lists(
    st.sampled_from([b"realtime", b"openai-beta.realtime-v1", b"openai-organization.org1", b"graphql-ws"])
    | st.sampled_from([b"openai-insecure-api-key.", b"OpenAI-Insecure-API-Key.", b"openai_insecure_api_key."]).map(
        lambda name: name + SMUGGLED
    ),
    max_size=4,
)


@settings(max_examples=200)
@given(lines=st.lists(st.tuples(spelt([b"sec-websocket-protocol"]), offers), max_size=3), blank=st.sampled_from([b"", b" ", b"\t"]))
def test_no_subprotocol_that_carries_a_key_reaches_the_app_and_every_other_does(
    lines: list[tuple[bytes, list[bytes]]], blank: bytes
) -> None:
    sent = [(name, (b"," + blank).join(offered)) for name, offered in lines]
    shown = [name.decode() for _, offered in lines for name in offered]
    scope = seen_by_the_app(alone, Witness(), headers=sent, socket=True, subprotocols=shown)
    kept = [[name for name in offered if SMUGGLED not in name] for _, offered in lines]
    assert [name.decode() for names in kept for name in names] == scope["subprotocols"]
    # A line that held nothing else goes; one that held no key stays as it was.
    left = [names for names, (_, offered) in zip(kept, lines, strict=True) if names or not offered]
    *found, ours = scope["headers"]
    assert OURS == ours
    assert left == [[name.strip() for name in value.split(b",") if name] for _, value in found]
    assert SMUGGLED not in b"".join(value for _, value in found)


@settings(max_examples=300)
@given(
    smuggled=smuggled_lines([*KNOWN_HEADERS, OWN_HEADER]),
    pairs=st.lists(smuggled_pairs([*KNOWN_PARAMETERS, OWN_PARAMETER]) | harmless_pairs, max_size=4),
)
@example(smuggled=[(b"X_Corp.Secret", SMUGGLED)], pairs=[b"Corp_Key=" + SMUGGLED])
def test_what_a_caller_with_a_good_key_adds_is_refused_or_does_not_reach_the_app(
    smuggled: list[tuple[bytes, bytes]], pairs: list[bytes]
) -> None:
    async def ask() -> None:
        app = Witness()
        headers = [(b"x-api-key", KEY.encode()), *smuggled]
        response = await request(guarded(app), "GET /v1/models", headers=headers, scope={"query_string": b"&".join(pairs)})
        assert response.status in (200, 400)
        assert (200 == response.status) == bool(app.scopes)
        for scope in app.scopes:
            assert [OURS] == scope["headers"]
            assert SMUGGLED not in scope["query_string"]

    anyio.run(ask)


@pytest.mark.parametrize("name", NAMES)
def test_each_header_that_an_app_may_prefer_is_removed(name: str) -> None:
    spellings = [name, name.upper(), name.title(), name.replace("-", "_"), name.replace("-", "."), name.replace("-", "_").upper()]
    headers = [(spelling.encode(), SMUGGLED) for spelling in spellings] * 2
    assert [OURS] == seen_by_the_app(alone, Witness(), headers=headers)["headers"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_each_query_parameter_that_an_app_may_prefer_is_removed(name: str) -> None:
    query = f"a=1&{name}=x&{name.upper()}=x&{name.replace('_', '-')}=x&%{ord(name[0]):02x}{name[1:]}=x&{name}&b=2".encode()
    assert b"a=1&b=2" == seen_by_the_app(alone, Witness(), query_string=query)["query_string"]


def test_a_second_authorization_never_survives_beside_ours() -> None:
    headers = [(b"authorization", b"Bearer sk-one"), (b"Authorization", b"Bearer sk-two"), (b"AUTHORIZATION", b"Basic YTpi")]
    assert [OURS] == seen_by_the_app(alone, Witness(), headers=headers)["headers"]


@pytest.mark.anyio
async def test_a_copy_of_a_request_that_is_left_running_shows_the_app_no_credential_either() -> None:
    witness, other_is_over = Witness(), anyio.Event()

    class Hedges:
        """Sends a request on twice, takes the first answer, and lets the other go on."""

        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            async def late() -> None:
                await other_is_over.wait()
                await self.app(dict(scope), receive, nowhere)

            tasks.start_soon(late)
            await self.app(dict(scope), receive, send)

    async def nowhere(_: Any) -> None:
        pass

    app = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY}), header=OWN_HEADER.decode()),
        Middleware(Hedges),
        Middleware(UpstreamCredentialMiddleware, bearer="sk-upstream"),
    )(witness)
    async with anyio.create_task_group() as tasks:
        answer = await request(app, "GET /v1/models", headers=[(OWN_HEADER, KEY.encode())])
        assert 200 == answer.status
        other_is_over.set()
    assert 2 == len(witness.scopes)
    assert not any(KEY.encode() in value for scope in witness.scopes for _, value in scope["headers"])
