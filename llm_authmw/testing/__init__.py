"""For tests of your own, and of ours: a clock that stands still, a raw ASGI driver, an issuer, a mock provider, principals."""

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
from llm_authmw.testing.issuer import SigningKey, TestIssuer, make_signing_key, sign
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
    "SigningKey",
    "StreamDropped",
    "TestIssuer",
    "WebSocket",
    "WebSocketClosed",
    "fake_principal",
    "lifespan",
    "make_signing_key",
    "request",
    "sign",
    "stream",
    "websocket",
]
