"""How OAuth clients find their way: the metadata of a protected resource (RFC 9728), and the challenge that leads there."""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from llm_authmw.asgi import POLICY_VIOLATION, ASGIApp, Receive, Scope, Send, refuse_recording_inside
from llm_authmw.challenges import Challenge
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.fields import text_or_none
from llm_authmw.identity import Deciding
from llm_authmw.names import Names, names
from llm_authmw.patterns import canonical_route, is_canonical
from llm_authmw.tokens.discovery import check_issuer
from llm_authmw.tokens.http import check_url

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"
MAX_AGE: Final = 3600
"""Seconds for which anybody may keep the metadata."""

_Answer: TypeAlias = tuple[int, list[tuple[bytes, bytes]], bytes]

_BEARER_METHODS: Final = frozenset({"header", "body", "query"})
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
_METHODS: Final = b"GET, HEAD"
# The metadata are public, and clients that run in browsers read them before they have any credential.
_ANYBODY: Final = (b"access-control-allow-origin", b"*")


class ProtectedResource:
    """What OAuth clients are told about this resource: who issues tokens for it, and for which scopes.

    It is an ASGI app that serves this as JSON, for a `Route` or a `Mount` at `/.well-known/oauth-protected-resource`; behind
    layers that guard an app as a whole, `ProtectedResourceMiddleware` serves it. Browsers may read it from any origin.

    Args:
        resource: The resource's own URL, as clients know it and tokens name it as their audience: https, or http on loopback. A
            path is part of it, a query is not.
        authorization_servers: The issuers whose tokens are accepted.
        required_scopes: The scopes without which a token is good for nothing here; the challenge names them. Not `offline_access`,
            which is between the client and its issuer.
        scopes_supported: The scopes that mean something here. Left out: those that are required.
        bearer_methods_supported: Where a token may be put: `header`, `body`, `query` (RFC 6750 §2).
        resource_name: A name for people to read.
        resource_documentation: The URL of a page for developers.

    Attributes:
        resource: The resource's own URL.
        metadata_url: Where the metadata are, as clients see it (RFC 9728 §3.1).
        challenge: The value for `WWW-Authenticate` that leads there (RFC 9728 §5.1).
        paths: The paths that the metadata are asked for at: with the path of the resource behind, and without.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self,
        resource: str,
        *,
        authorization_servers: Names,
        required_scopes: Names = (),
        scopes_supported: Names | None = None,
        bearer_methods_supported: Names = ("header",),
        resource_name: str | None = None,
        resource_documentation: str | None = None,
    ) -> None:
        parts = urlsplit(check_url("resource", resource))
        suffix = "" if parts.path == "/" else parts.path
        if not resource.startswith(f"{parts.scheme}://{parts.netloc.lower()}"):
            raise ConfigurationError("resource", "is a URL with scheme and host in lower case: clients compare it as it is written")
        if "?" in resource or not is_canonical(parts.path or "/"):
            raise ConfigurationError("resource", "is a URL without a query, and with a path that can be read in one way only")
        servers = [check_issuer("authorization_servers", server) for server in names("authorization_servers", authorization_servers)]
        if not servers:
            raise ConfigurationError("authorization_servers", "names none, so no client could get a token")
        required = _scopes("required_scopes", required_scopes)
        supported = required if scopes_supported is None else _scopes("scopes_supported", scopes_supported)
        if not set(required) <= set(supported):
            raise ConfigurationError("required_scopes", "names a scope that scopes_supported does not")
        methods = names("bearer_methods_supported", bearer_methods_supported)
        if not _BEARER_METHODS.issuperset(methods):
            raise ConfigurationError("bearer_methods_supported", "takes 'header', 'body' and 'query' (RFC 6750 §2)")
        try:
            name = text_or_none("resource_name", resource_name)
        except InvalidValueError as error:
            raise ConfigurationError("resource_name", str(error)) from None
        page = None if resource_documentation is None else check_url("resource_documentation", resource_documentation)

        self.resource: Final[str] = resource
        self.metadata_url: Final[str] = f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{suffix}"
        self.paths: Final[frozenset[str]] = frozenset({WELL_KNOWN, WELL_KNOWN + suffix})
        told = {"resource_metadata": self.metadata_url} | ({"scope": " ".join(required)} if required else {})
        self.challenge: Final[str] = str(Challenge("Bearer", told))
        # In a mount, only what comes behind the mount's own path is left.
        self._served: Final = self.paths | {"/", suffix or "/"}
        self._answers: Final = _answers(
            {
                "resource": resource,
                "authorization_servers": servers,
                "scopes_supported": supported or None,
                "bearer_methods_supported": methods,
                "resource_name": name,
                "resource_documentation": page,
            }
        )

    def __repr__(self) -> str:
        return f"ProtectedResource({self.resource!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the metadata.

        Raises:
            NotImplementedError: it is a lifespan, which there is none of.
        """
        del receive
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        if scope["type"] != "http":
            raise NotImplementedError("the metadata of a resource have no lifespan")
        route = canonical_route(scope)
        if route is None or route[1] not in self._served:
            answer = "nothing"
        elif route[0] == "OPTIONS" and any(name.lower() == b"access-control-request-method" for name, _ in scope["headers"]):
            answer = "preflight"
        else:
            answer = route[0] if route[0] in ("GET", "HEAD") else "another method"
        status, headers, body = self._answers[answer]
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body, "more_body": False})


class ProtectedResourceMiddleware(Deciding):
    """Serve the metadata of a protected resource at its own paths, and pass everything else on.

    It stands outside of authentication, since whoever reads the metadata has no credential yet.

    Args:
        app: The next layer.
        resource: What is served.

    Raises:
        ConfigurationError: `resource` is no `ProtectedResource`, or a layer that records requests stands inside.
    """

    def __init__(self, app: ASGIApp, *, resource: ProtectedResource) -> None:
        given: Any = resource
        if not isinstance(given, ProtectedResource):
            raise ConfigurationError("resource", "takes a ProtectedResource")
        self.app: Final = app
        self.resource: Final[ProtectedResource] = resource
        refuse_recording_inside(type(self).__name__, app)

    def __repr__(self) -> str:
        return f"ProtectedResourceMiddleware(resource={self.resource!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer where the metadata are asked for; else pass on."""
        route = canonical_route(scope) if scope["type"] == "http" else None
        app = self.app if route is None or route[1] not in self.resource.paths else self.resource
        await app(scope, receive, send)


def _scopes(option: str, given: Names) -> tuple[str, ...]:
    scopes = names(option, given)
    for scope in scopes:
        if _SCOPE.fullmatch(scope) is None:
            raise ConfigurationError(option, f"{scope!r} is not a scope (RFC 6749 §3.3)")
        if scope == "offline_access":
            raise ConfigurationError(option, "names offline_access, which no resource needs: it is between a client and its issuer")
    return scopes


def _answers(metadata: Mapping[str, Any]) -> dict[str, _Answer]:
    """Return what is answered, whole, by what is asked: it is the same for everybody."""
    document = msgspec.json.encode({name: value for name, value in metadata.items() if value is not None})
    found = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(document)),
        (b"cache-control", b"public, max-age=%d" % MAX_AGE),
        _ANYBODY,
    ]
    allowed = [
        (b"access-control-allow-methods", _METHODS),
        # MCP clients send the version of their protocol along, which makes browsers ask first.
        (b"access-control-allow-headers", b"*"),
        (b"access-control-max-age", b"%d" % MAX_AGE),
        _ANYBODY,
    ]
    empty = [(b"content-length", b"0"), _ANYBODY]
    return {
        "GET": (200, found, document),
        "HEAD": (200, found, b""),
        "preflight": (204, allowed, b""),
        "another method": (405, [(b"allow", _METHODS), *empty], b""),
        "nothing": (404, empty, b""),
    }
