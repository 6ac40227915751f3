"""An app that says what a server has put into the scope, and the same app behind a layer. `STATIC_KEY` is the key that gets in."""

import os
from typing import Any, cast

import msgspec
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.asgi import Receive, Scope, Send


def told(value: Any) -> Any:
    """Return the names in a mapping, and what it holds under each, as far as that is a mapping too."""
    if not isinstance(value, dict):
        return type(value).__name__
    mapping = cast("dict[str, Any]", value)
    return {name: told(mapping[name]) for name in sorted(mapping)}


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request or a socket with the shape of its scope."""
    if scope["type"] == "lifespan":
        raise NotImplementedError
    shape = msgspec.json.encode(told({**scope}))
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": shape.decode()})
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(shape))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": shape})


guarded = Stack(Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": os.environ["STATIC_KEY"]})))(bare)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Guard what is below `/guarded`, and nothing else."""
    behind = scope["type"] != "lifespan" and scope["path"].startswith("/guarded")
    await (guarded if behind else bare)(scope, receive, send)
