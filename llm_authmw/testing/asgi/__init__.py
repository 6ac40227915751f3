"""A raw ASGI driver on anyio: the server's side of one call of an app, with nothing between the test and the app.

It passes header and path bytes on exactly as they are given, hands over each chunk when the app sends it, and fails the
test when the app breaks the protocol. In-process HTTP clients do none of this: they buffer the answer, tidy the request
and run no lifespan.
"""

from llm_authmw.testing.asgi.conversation import Activity
from llm_authmw.testing.asgi.http import Exchange, request, stream
from llm_authmw.testing.asgi.lifespans import Lifespan, LifespanFailed, lifespan
from llm_authmw.testing.asgi.response import Response
from llm_authmw.testing.asgi.rules import ProtocolError
from llm_authmw.testing.asgi.scopes import http_scope, websocket_scope
from llm_authmw.testing.asgi.sockets import WebSocket, WebSocketClosed, websocket

__all__ = [
    "Activity",
    "Exchange",
    "Lifespan",
    "LifespanFailed",
    "ProtocolError",
    "Response",
    "WebSocket",
    "WebSocketClosed",
    "http_scope",
    "lifespan",
    "request",
    "stream",
    "websocket",
    "websocket_scope",
]
