"""The metadata of a protected resource, and the way that an OAuth client finds from a 401 to its issuer."""

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.routing import Mount, Route

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Principal, Stack, StaticKeys
from llm_authmw.authn.custom import CustomAuthMiddleware
from llm_authmw.challenges import parse_challenge
from llm_authmw.protected_resource import WELL_KNOWN, ProtectedResource, ProtectedResourceMiddleware
from llm_authmw.testing import Response, request, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

ISSUER = "https://sso.example.com/realms/corp"
KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"


def resource(url: str = "https://llm.example.com/mcp", **options: Any) -> ProtectedResource:
    given: dict[str, Any] = {"authorization_servers": [ISSUER], **options}
    return ProtectedResource(url, **given)


# Options.

WRONG: list[tuple[str, Any]] = [
    ("resource", "http://llm.example.com"),
    ("resource", "llm.example.com"),
    ("resource", "ftp://llm.example.com"),
    ("resource", "https://"),
    ("resource", "https:///mcp"),
    ("resource", "https://llm.example.com/#mcp"),
    ("resource", "https://llm.example.com/#"),
    ("resource", "https://llm.example.com/mcp?a=b"),
    ("resource", "https://llm.example.com?"),
    ("resource", "https://user:pw@llm.example.com"),
    ("resource", "HTTPS://llm.example.com"),
    ("resource", "https://LLM.example.com"),
    ("resource", "https://llm.example.com:port"),
    ("resource", "https://llm.example.com//mcp"),
    ("resource", "https://llm.example.com/a/../mcp"),
    ("resource", "https://llm.example.com/a%2fmcp"),
    ("resource", "https://llm.example.com/a;b"),
    ("resource", 'https://llm.example.com/"mcp'),
    ("resource", "https://llm.example.com/\r\nx"),
    ("resource", "https://llm.example.com/größe"),
    ("resource", ""),
    ("resource", None),
    ("resource", 1),
    ("authorization_servers", []),
    ("authorization_servers", ISSUER),
    ("authorization_servers", ["http://sso.example.com"]),
    ("authorization_servers", [ISSUER + "?a=b"]),
    ("authorization_servers", [ISSUER + "#a"]),
    ("authorization_servers", [None]),
    ("required_scopes", "llm:use"),
    ("required_scopes", ["llm use"]),
    ("required_scopes", ['llm"use']),
    ("required_scopes", ["llm\\use"]),
    ("required_scopes", ["größe"]),
    ("required_scopes", ["offline_access"]),
    ("scopes_supported", ["offline_access"]),
    ("scopes_supported", "llm:use"),
    ("bearer_methods_supported", "header"),
    ("bearer_methods_supported", ["cookie"]),
    ("resource_name", ""),
    ("resource_name", "a\nb"),
    ("resource_documentation", "docs"),
    ("resource_documentation", "javascript:alert(1)"),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda value: repr(value)[:50])
def test_a_wrong_option_is_refused_by_name(option: str, value: Any) -> None:
    options: dict[str, Any] = {"resource": "https://llm.example.com/mcp", "authorization_servers": [ISSUER], option: value}
    with pytest.raises(ConfigurationError) as caught:
        ProtectedResource(options.pop("resource"), **options)
    assert option == caught.value.option


def test_a_scope_that_is_required_is_supported() -> None:
    with pytest.raises(ConfigurationError) as caught:
        resource(required_scopes=["llm:use"], scopes_supported=["llm:admin"])
    assert "required_scopes" == caught.value.option


@pytest.mark.parametrize("given", [None, "https://llm.example.com", ProtectedResource])
def test_the_layer_takes_a_resource_only(given: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ProtectedResourceMiddleware(Witness(), resource=given)
    assert "resource" == caught.value.option


def test_the_layer_does_not_stand_inside_of_authentication() -> None:
    keys = StaticKeys({"ci": KEY})
    with pytest.raises(ConfigurationError, match="put it outside of authentication"):
        Stack(Middleware(KeyAuthMiddleware, keys=keys), Middleware(ProtectedResourceMiddleware, resource=resource()))


# Addresses and challenges.


@pytest.mark.parametrize(
    ("url", "metadata_url", "paths"),
    [
        ("https://llm.example.com", f"https://llm.example.com{WELL_KNOWN}", frozenset({WELL_KNOWN})),
        ("https://llm.example.com/", f"https://llm.example.com{WELL_KNOWN}", frozenset({WELL_KNOWN})),
        ("https://llm.example.com:8443/mcp", f"https://llm.example.com:8443{WELL_KNOWN}/mcp", frozenset({WELL_KNOWN, f"{WELL_KNOWN}/mcp"})),
        ("https://llm.example.com/a/mcp/", f"https://llm.example.com{WELL_KNOWN}/a/mcp/", frozenset({WELL_KNOWN, f"{WELL_KNOWN}/a/mcp/"})),
        ("http://localhost:8000/mcp", f"http://localhost:8000{WELL_KNOWN}/mcp", frozenset({WELL_KNOWN, f"{WELL_KNOWN}/mcp"})),
        ("http://[::1]:8000", f"http://[::1]:8000{WELL_KNOWN}", frozenset({WELL_KNOWN})),
    ],
)
def test_the_well_known_part_goes_between_host_and_path(url: str, metadata_url: str, paths: frozenset[str]) -> None:
    """RFC 9728 §3.1."""
    found = resource(url)
    assert (url, metadata_url, paths) == (found.resource, found.metadata_url, found.paths)
    assert f'Bearer resource_metadata="{metadata_url}"' == found.challenge
    assert f"ProtectedResource('{url}')" == repr(found)


def test_the_challenge_names_the_scopes_that_everybody_needs_and_no_other() -> None:
    """RFC 6750 §3, RFC 9728 §5.1."""
    found = resource(required_scopes=["llm:use", "mcp"], scopes_supported=["llm:use", "llm:admin", "mcp"])
    assert f'Bearer resource_metadata="https://llm.example.com{WELL_KNOWN}/mcp", scope="llm:use mcp"' == found.challenge


# The document.


async def test_the_document_says_what_was_given_and_nothing_that_was_not() -> None:
    """RFC 9728 §2: a member without a value is left out."""
    answer = await request(ProtectedResourceMiddleware(Witness(), resource=resource()), f"GET {WELL_KNOWN}/mcp")
    least = {"resource": "https://llm.example.com/mcp", "authorization_servers": [ISSUER], "bearer_methods_supported": ["header"]}
    assert least == answer.json()
    most = resource(
        authorization_servers=[ISSUER, "http://127.0.0.1:9000"],
        required_scopes=["llm:use"],
        scopes_supported=["llm:use", "llm:admin"],
        bearer_methods_supported=["header", "query"],
        resource_name="Größe",
        resource_documentation="https://docs.example.com/llm",
    )
    answer = await request(ProtectedResourceMiddleware(Witness(), resource=most), f"GET {WELL_KNOWN}")
    assert {
        "resource": "https://llm.example.com/mcp",
        "authorization_servers": [ISSUER, "http://127.0.0.1:9000"],
        "scopes_supported": ["llm:use", "llm:admin"],
        "bearer_methods_supported": ["header", "query"],
        "resource_name": "Größe",
        "resource_documentation": "https://docs.example.com/llm",
    } == answer.json()


async def test_scopes_that_are_required_are_supported_where_no_others_are_named() -> None:
    answer = await request(resource(required_scopes=["llm:use"]), f"GET {WELL_KNOWN}/mcp")
    assert ["llm:use"] == answer.json()["scopes_supported"]


async def test_anybody_may_keep_the_document_for_a_while_and_read_it_in_a_browser() -> None:
    app = Witness()
    layer = ProtectedResourceMiddleware(app, resource=resource())
    answer = await request(layer, f"GET {WELL_KNOWN}/mcp", headers=[(b"origin", b"https://inspector.example")])
    expected = {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        "cache-control": "public, max-age=3600",
        "access-control-allow-origin": "*",
    }
    assert (200, expected) == (answer.status, {name.decode(): value.decode() for name, value in answer.headers})
    head = await request(layer, f"HEAD {WELL_KNOWN}/mcp")
    assert (200, answer.headers, b"") == (head.status, head.headers, head.body)
    assert [] == app.scopes


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "WS", "preflight"])
async def test_another_method_is_405(method: str) -> None:
    app = Witness()
    answer = await request(ProtectedResourceMiddleware(app, resource=resource()), f"{method} {WELL_KNOWN}")
    assert (405, "GET, HEAD", b"") == (answer.status, answer.header("allow"), answer.body)
    assert [] == app.scopes


async def test_a_browsers_preflight_is_answered_for_the_headers_that_mcp_clients_send() -> None:
    headers = [
        (b"origin", b"https://inspector.example"),
        (b"access-control-request-method", b"GET"),
        (b"access-control-request-headers", b"mcp-protocol-version"),
    ]
    answer = await request(ProtectedResourceMiddleware(Witness(), resource=resource()), f"OPTIONS {WELL_KNOWN}/mcp", headers=headers)
    assert (204, b"") == (answer.status, answer.body)
    assert ("*", "GET, HEAD", "*") == tuple(answer.header(f"access-control-allow-{what}") for what in ("origin", "methods", "headers"))


@pytest.mark.parametrize(
    "target",
    [
        "GET /mcp",
        "GET /",
        "GET /.well-known",
        "GET /.well-known/oauth-protected-resourc",
        f"GET {WELL_KNOWN}x",
        f"GET {WELL_KNOWN}/",
        f"GET {WELL_KNOWN}/mc",
        f"GET {WELL_KNOWN}/mcp/",
        f"GET {WELL_KNOWN}/mcp/x",
        f"GET {WELL_KNOWN}/../mcp",
        f"GET {WELL_KNOWN}%2fmcp",
        f"GET /x/..{WELL_KNOWN}",
        f"GET /{WELL_KNOWN}",
        f"GET {WELL_KNOWN};/mcp",
        f"GET {WELL_KNOWN.upper()}",
        "GET /.well-known/openid-configuration",
    ],
)
async def test_every_other_path_is_passed_on_as_it_is(target: str) -> None:
    app = Witness()
    layer = ProtectedResourceMiddleware(app, resource=resource())
    assert {"subject": None, "method": None} == (await request(layer, target)).json()
    assert 1 == len(app.scopes)
    answer = await request(resource(), target)
    # The app itself is mounted somewhere, which is for its mount to say: there, nothing and the resource's path are its own.
    assert (200 if target in ("GET /", "GET /mcp") else 404) == answer.status
    assert "*" == answer.header("access-control-allow-origin")


async def test_sockets_and_lifespans_are_passed_on() -> None:
    app = Witness()
    layer = ProtectedResourceMiddleware(app, resource=resource())
    async with websocket(layer, WELL_KNOWN) as socket:
        assert socket.accepted
    async with websocket(resource(), WELL_KNOWN) as socket:
        assert not socket.accepted

    async def nothing(message: Any = None) -> Any: ...

    for refusing in (layer, resource()):
        with pytest.raises(NotImplementedError):
            await refusing({"type": "lifespan"}, nothing, nothing)


@pytest.mark.parametrize(
    ("root", "path", "served"),
    [
        ("/api", f"/api{WELL_KNOWN}", True),
        ("/api", f"/api{WELL_KNOWN}/mcp", True),
        ("/api", WELL_KNOWN, True),
        ("/ap", f"/api{WELL_KNOWN}", False),
        ("", f"/api{WELL_KNOWN}", False),
    ],
)
async def test_a_path_is_compared_below_the_root_path(root: str, path: str, served: bool) -> None:
    app = Witness()
    answer = await request(ProtectedResourceMiddleware(app, resource=resource()), f"GET {path}", scope={"root_path": root})
    assert served == ("resource" in answer.json())
    assert served == (not app.scopes)


ROUTED: dict[str, Any] = {
    "a route": lambda: Starlette(routes=[Route(f"{WELL_KNOWN}/mcp", resource())]),
    "a mount": lambda: Starlette(routes=[Mount(WELL_KNOWN, resource())]),
    "a mount of FastAPI": lambda: _mounted(FastAPI(docs_url=None)),
    "a mount in a mount": lambda: Starlette(routes=[Mount("/.well-known", routes=[Mount("/oauth-protected-resource", resource())])]),
}


def _mounted(app: FastAPI) -> FastAPI:
    app.mount(WELL_KNOWN, resource())
    return app


@pytest.mark.parametrize("place", ROUTED)
async def test_the_resource_is_an_app_that_frameworks_route_to(place: str) -> None:
    answer = await request(ROUTED[place](), f"GET {WELL_KNOWN}/mcp")
    assert (200, "https://llm.example.com/mcp") == (answer.status, answer.json()["resource"])
    assert 404 == (await request(ROUTED[place](), f"GET {WELL_KNOWN}/other")).status
    if place != "a route":
        assert 200 == (await request(ROUTED[place](), f"GET {WELL_KNOWN}/")).status


# The way.


class Client:
    """An OAuth client that knows nothing but the URL of a service, as MCP clients do."""

    def __init__(self, hosts: dict[str, Any]) -> None:
        self.hosts = hosts
        self.asked: list[str] = []

    async def get(self, url: str, *headers: tuple[bytes, bytes], method: str = "GET") -> Response:
        self.asked.append(url)
        parts = urlsplit(url)
        lines = [(b"host", parts.netloc.encode()), (b"mcp-protocol-version", b"2026-07-28"), *headers]
        return await request(self.hosts[f"{parts.scheme}://{parts.netloc}"], f"{method} {parts.path}", headers=lines)

    async def find_issuer(self, url: str) -> tuple[dict[str, Any], str | None]:
        """Return the metadata of the issuer, and the scope to ask for."""
        refused = await self.get(url, method="POST")
        assert 401 == refused.status
        challenge = parse_challenge(refused.header("www-authenticate") or "")
        assert challenge is not None
        described: dict[str, Any] = (await self.get(challenge.parameters["resource_metadata"])).json()
        # RFC 9728 §3.3: metadata that name another resource are somebody else's.
        assert url == described["resource"]
        issuer: str = described["authorization_servers"][0]
        parts = urlsplit(issuer)
        found = await self.get(f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path}")
        return found.json(), challenge.parameters.get("scope")


def issuer_app() -> Any:
    async def metadata(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"] == "/.well-known/oauth-authorization-server/realms/corp"
        body = msgspec.json.encode({"issuer": ISSUER, "token_endpoint": f"{ISSUER}/token"})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    return metadata


async def test_a_client_finds_its_way_from_a_401_to_the_issuer_and_back() -> None:
    llm = resource(required_scopes=["llm:use"])
    app = Witness()

    def authenticate(connection: HTTPConnection) -> Principal | None:
        return Principal(user="ada") if connection.headers.get("authorization") == "Bearer tok-of-ada" else None

    guarded = Stack(
        Middleware(ProtectedResourceMiddleware, resource=llm),
        Middleware(CustomAuthMiddleware, authenticate=authenticate, challenge=llm.challenge),
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})),
    )(app)
    client = Client({"https://llm.example.com": guarded, "https://sso.example.com": issuer_app()})
    found, scope = await client.find_issuer("https://llm.example.com/mcp")
    assert (ISSUER, "llm:use") == (found["issuer"], scope)
    assert [
        "https://llm.example.com/mcp",
        "https://llm.example.com/.well-known/oauth-protected-resource/mcp",
        "https://sso.example.com/.well-known/oauth-authorization-server/realms/corp",
    ] == client.asked
    assert [] == app.scopes
    token = (b"authorization", b"Bearer tok-of-ada")
    assert 200 == (await client.get("https://llm.example.com/mcp", token, method="POST")).status
    refused = await client.get("https://llm.example.com/mcp", (b"authorization", b"Bearer tok-stolen"), method="POST")
    assert [f'{llm.challenge}, error="invalid_token"'] == refused.header_lines("www-authenticate")
    assert ["ada"] == app.subjects


async def test_a_browser_reads_the_challenge_where_cors_exposes_it() -> None:
    llm = resource()
    guarded = Stack(
        Middleware(CORSMiddleware, allow_origins=["https://inspector.example"], expose_headers=["WWW-Authenticate"]),
        Middleware(ProtectedResourceMiddleware, resource=llm),
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})),
    )(Witness())
    origin = (b"origin", b"https://inspector.example")
    answer = await request(guarded, f"GET {WELL_KNOWN}/mcp", headers=[origin])
    assert (200, 1) == (answer.status, len(answer.header_lines("access-control-allow-origin")))
    refused = await request(guarded, "POST /mcp", headers=[origin])
    assert (401, "WWW-Authenticate") == (refused.status, refused.header("access-control-expose-headers"))
    assert re.match("Bearer", refused.header("www-authenticate") or "")
