"""The seam to servers and frameworks: types that every framework accepts, and the little that layers do to messages."""

from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NoReturn, TypeAlias

from starlette.routing import BaseRoute, Router

from llm_authmw.context import RequestContext
from llm_authmw.dialects import render
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import Recording

# Starlette, Litestar and asgiref each type a scope and a message in a way that the others do not accept. With these
# aliases our layers fit all of them under mypy strict and pyright.
Scope: TypeAlias = Any
Message: TypeAlias = Any
Receive: TypeAlias = Callable[[], Awaitable[Any]]
Send: TypeAlias = Callable[[Any], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class Composed:
    """An app that is one of our layers with something around it. Whoever looks at its neighbour looks at `entry`."""

    entry: ASGIApp


def unwrap(app: Any) -> Any:
    """Return the layer or app that a request meets first."""
    while isinstance(app, Composed):
        app = app.entry
    return app


class Branching:
    """An app that is one of ours, and hands a request on to one of several others."""

    @property
    def branches(self) -> tuple[ASGIApp, ...]:
        """The apps."""
        raise NotImplementedError


async def no_app(scope: Scope, receive: Receive, send: Send) -> NoReturn:
    """Stand in for an app, where layers are built only to be looked at: what will stand inside of them is not known."""
    del scope, receive, send
    raise RuntimeError("a stack that was not put around an app was called")


_MAX_LAYERS: Final = 64
"""How far in a constructor looks for a misplaced layer."""


def layers_inside(app: Any) -> Iterator[Any]:
    """Yield an app, and what stands inside of it as far as each layer shows its `app`.

    A mount or a router of a framework is the end: it is an app of its own, and what stands behind it decides anew, on purpose.
    """
    inner = unwrap(app)
    for _ in range(_MAX_LAYERS):
        if inner is None or isinstance(inner, BaseRoute | Router):
            return
        yield inner
        if isinstance(inner, Branching):
            for branch in inner.branches:
                yield from layers_inside(branch)
            return
        inner = unwrap(getattr(inner, "app", None))


def refuse_recording_inside(layer: str, app: Any) -> None:
    """Refuse a layer that records requests where one stands outside of it that decides.

    Args:
        layer: The name of that one.
        app: What stands inside of it.

    Raises:
        ConfigurationError: there is such a layer, and what is denied here would have no record.
    """
    for inner in layers_inside(app):
        if isinstance(inner, Recording):
            name = type(inner).__name__
            raise ConfigurationError(layer, f"{name} stands inside, so what is denied here would have no record: put {name} outside of it")


POLICY_VIOLATION: Final = 1008
"""The WebSocket close code for a refusal (RFC 6455 §7.4.1)."""


async def send_denial(scope: Scope, send: Send, denial: Denial, context: RequestContext) -> None:
    """Answer a request with a denial, before anything else was sent on it.

    A WebSocket that was not accepted yet is answered with a whole HTTP response where the server can, else with a close
    that servers turn into a bare 403.
    """
    if scope["type"] == "websocket" and "websocket.http.response" not in (scope.get("extensions") or {}):
        # A reason given before the socket is accepted is lost, and some servers mind it.
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
        return
    kind = "websocket.http.response" if scope["type"] == "websocket" else "http.response"
    status, headers, body = render(denial, scope, context.request_id)
    await send({"type": f"{kind}.start", "status": status, "headers": headers})
    # Not every server takes away what an answer to HEAD must not have (RFC 9110 §9.3.2).
    await send({"type": f"{kind}.body", "body": b"" if scope.get("method") == "HEAD" else body, "more_body": False})
