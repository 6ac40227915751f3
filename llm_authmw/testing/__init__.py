"""For tests of your own, and of ours: a clock that stands still, a raw ASGI driver, an issuer, a mock provider, principals, policies."""

from llm_authmw.testing.answers import Answer
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
from llm_authmw.testing.faults import FaultyLedger
from llm_authmw.testing.issuer import SigningKey, TestIssuer, make_signing_key, sign
from llm_authmw.testing.matrix import Matrix, matrix
from llm_authmw.testing.policies import call
from llm_authmw.testing.principals import fake_principal
from llm_authmw.testing.provider import MockProvider, SeenRequest, StreamDropped
from llm_authmw.testing.simulation import SimulatedClock, simulate

__all__ = [
    "Answer",
    "Exchange",
    "FaultyLedger",
    "Lifespan",
    "LifespanFailed",
    "ManualClock",
    "Matrix",
    "MockProvider",
    "ProtocolError",
    "Response",
    "SeenRequest",
    "SigningKey",
    "SimulatedClock",
    "StreamDropped",
    "TestIssuer",
    "WebSocket",
    "WebSocketClosed",
    "call",
    "fake_principal",
    "lifespan",
    "make_signing_key",
    "matrix",
    "request",
    "sign",
    "simulate",
    "stream",
    "websocket",
]
