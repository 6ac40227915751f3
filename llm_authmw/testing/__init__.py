"""For tests of your own, and of ours: a clock that stands still, a raw ASGI driver, a mock provider, principals."""

from llm_authmw.testing.asgi import (
    Exchange,
    Lifespan,
    LifespanFailed,
    ProtocolError,
    Response,
    WebSocket,
    WebSocketClosed,
    lifespan,
    request,
    stream,
    websocket,
)
from llm_authmw.testing.clock import ManualClock
from llm_authmw.testing.principals import fake_principal
from llm_authmw.testing.provider import MockProvider, SeenRequest, StreamDropped

__all__ = [
    "Exchange",
    "Lifespan",
    "LifespanFailed",
    "ManualClock",
    "MockProvider",
    "ProtocolError",
    "Response",
    "SeenRequest",
    "StreamDropped",
    "WebSocket",
    "WebSocketClosed",
    "fake_principal",
    "lifespan",
    "request",
    "stream",
    "websocket",
]
