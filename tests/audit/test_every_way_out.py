"""Whatever stands around an app, and whatever becomes of a request and of the sinks: each request has one record, or is a counted loss."""

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount

from llm_authmw import (
    AuditGate,
    AuditMiddleware,
    AuditSink,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    RequestContext,
    Stack,
    StaticKeys,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.errors import SinkError
from llm_authmw.testing import ManualClock
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.verification import verify

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
CREDENTIALS = [[(b"x-api-key", KEY.encode())], [(b"x-api-key", KEY[::-1].encode())], []]


class Place:
    """Takes entries, or fails, as a plan says; once that is over, it takes all."""

    durable = True

    def __init__(self, plan: Sequence[str]) -> None:
        self.plan = list(plan)
        self.entries: list[Entry] = []

    def __repr__(self) -> str:
        return "place"

    async def start(self) -> None: ...

    async def aclose(self) -> None: ...

    def forked(self) -> None: ...

    async def write(self, entries: Sequence[Entry]) -> None:
        await anyio.lowlevel.checkpoint()
        match self.plan.pop(0) if self.plan else "takes":
            case "takes":
                self.entries.extend(entries)
            case "fails":
                raise SinkError("down")
            case "fails oddly":
                raise OSError("gone")
            case "takes and fails":  # a connection that breaks before it says so
                self.entries.extend(entries)
                raise SinkError("lost the answer")
            case _:
                raise SinkError("never", permanent=True)


class ImmediatePlace(Place):
    def write_now(self, entries: Sequence[Entry]) -> None:
        outcome = self.plan.pop(0) if self.plan else "takes"
        if outcome != "takes":
            raise SinkError("down")
        self.entries.extend(entries)


class App:
    """Does what the request asks for, and notes that it was called."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.places = places
        self.unknown: list[str] = []
        self.cancel: Callable[[], None] = lambda: None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            return
        identity = RequestContext.of(scope).request_id
        known = {entry.record.id for place in self.places for entry in place.entries if entry.record.kind == "intent"}
        if identity not in known:
            self.unknown.append(identity)
        behaviour = dict(scope["headers"])[b"do"].decode()
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"} if behaviour != "returns" else {"type": "websocket.close", "code": 1008})
        elif behaviour != "returns":
            await send({"type": "http.response.start", "status": 200, "headers": []})
        match behaviour:
            case "raises":
                raise RuntimeError("broken")
            case "hangs":
                self.cancel()
                await anyio.sleep_forever()
            case "answers" if scope["type"] == "http":
                await send({"type": "http.response.body", "body": b"x"})
            case "streams" if scope["type"] == "http":
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                await receive()
                await send({"type": "http.response.body", "body": b"y"})
            case _:
                pass


class Around:
    """A layer of somebody else's."""

    def __init__(self, app: ASGIApp, how: str) -> None:
        self.app, self.how = app, how
        self.runs = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.runs += scope["type"] in ("http", "websocket")
        match self.how:
            case "copies":
                await self.app(dict(scope), receive, send)
            case "swallows":
                with contextlib.suppress(RuntimeError):
                    await self.app(scope, receive, send)
            case "twice":
                with contextlib.suppress(RuntimeError):
                    await self.app(dict(scope), receive, _nowhere)
                await self.app(scope, receive, send)
            case "in a task":

                async def run() -> None:
                    await self.app(scope, receive, send)

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(run)
            case _:
                await self.app(scope, receive, send)


async def _nowhere(message: Any) -> None: ...


async def _dispatch(request: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    return await call_next(request)


FOREIGN = st.lists(st.sampled_from(["copies", "swallows", "twice", "in a task"]), max_size=2)
PLANS = st.lists(st.sampled_from(["takes", "fails", "fails oddly", "takes and fails"]), max_size=8)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["http", "websocket"]),
        st.sampled_from(["answers", "raises", "returns", "hangs", "streams"]),
        st.sampled_from(range(len(CREDENTIALS))),
        st.sampled_from(["never", "at once"]),
        st.sampled_from(["/v1/models", "/health", "/sub/v1/models"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    backend=st.sampled_from(["asyncio", "trio"]),
    required=st.booleans(),
    kinds=st.lists(st.sampled_from([Place, ImmediatePlace]), min_size=1, max_size=2),
    plans=st.tuples(PLANS, PLANS),
    outside=FOREIGN,
    inside=FOREIGN,
    form=st.sampled_from(["stack", "router", "mounted", "nested", "base"]),
    enriched=st.booleans(),
    queue=st.sampled_from([1, 3, 100]),
    requests=REQUESTS,
)
def test_every_request_has_one_record_or_is_a_counted_loss_and_no_app_runs_unknown(backend: str, **drawn: Any) -> None:
    anyio.run(_serve, drawn, backend=backend)


async def _serve(drawn: dict[str, Any]) -> None:
    clock = ManualClock()
    places = [kind(plan) for kind, plan in zip(drawn["kinds"], drawn["plans"], strict=False)]
    options: dict[str, Any] = {"queue": drawn["queue"], "deadline": 0.02, "clock": clock}
    sinks = [AuditSink(place, name=f"place {number}", **options) for number, place in enumerate(places)]
    app = App(places)
    layers = _guarded(app, sinks, drawn)
    counting = Around(layers[0], "as it is")
    guard = _outside(counting, drawn)
    for sink in sinks:
        await sink.start()
    for kind, behaviour, credential, leaves, path in drawn["requests"]:
        await _one(guard, app, kind, [*CREDENTIALS[credential], (b"do", behaviour.encode())], leaves, path)
        clock.advance(5)
    for place in places:
        place.plan.clear()
    clock.advance(60)
    # As a Stack does it: what has the last records of a layer before the sinks.
    for resource in [one for layer in layers for one in reversed(layer.resources) if one not in sinks] + sinks:
        await resource.aclose()
    runs = counting.runs
    for sink, place in zip(sinks, places, strict=True):
        # What a place has taken without saying so it is given again, as the same entry.
        records = {(entry.writer, entry.sequence): entry.record for entry in place.entries}.values()
        outcomes = Counter(record.id for record in records if record.kind == "request")
        assert not [identity for identity, count in outcomes.items() if count > 2 ** drawn["outside"].count("twice")]
        (lost,) = [reading.value for reading in sink.readings() if reading.name == "audit_records_lost"]
        assert sum(record.lost for record in records) == lost
        assert outcomes.total() <= runs <= outcomes.total() + lost
        findings = verify(entry.line for entry in place.entries).findings
        assert not [finding for finding in findings if finding.is_alarm]
    if drawn["required"]:
        assert [] == app.unknown


def _guarded(app: ASGIApp, sinks: list[AuditSink], drawn: dict[str, Any]) -> list[AuditMiddleware]:
    """The audit layers, the outermost first, and behind them all that stands inside."""
    required, form = drawn["required"], drawn["form"]
    inner: ASGIApp = AuditGate(app) if required else app
    for how in drawn["inside"]:
        inner = Around(inner, how)
    keys = StaticKeys({"ci": KEY})
    options: dict[str, Any] = {"sink": sinks, "mode": "required" if required else "best_effort"}
    if drawn["enriched"]:
        options["enrich"] = _country
    if form in {"router", "mounted"}:
        guard = Stack(Middleware(KeyAuthMiddleware, keys=keys))
        policies = [Policy("GET /health", public=True), Policy("WS /health", public=True), Policy("/**", guard)]
        return [AuditMiddleware(PolicyRouter(AuditGate(app) if required else app, policies=policies), **options)]
    within = AuditMiddleware(KeyAuthMiddleware(inner, keys=keys), **options)
    return [AuditMiddleware(Around(within, "as it is"), **options), within] if form == "nested" else [within]


def _country(_: Any) -> dict[str, str]:
    return {"country": "NL"}


def _outside(app: ASGIApp, drawn: dict[str, Any]) -> ASGIApp:
    if drawn["form"] == "mounted":
        app = Starlette(routes=[Mount("/sub", app), Mount("/", app)])
    if drawn["form"] == "base":
        app = BaseHTTPMiddleware(app, dispatch=_dispatch)
    for how in drawn["outside"]:
        app = Around(app, how)
    return app


async def _one(guard: ASGIApp, app: App, kind: str, headers: Any, leaves: str, path: str) -> None:
    scope = {"type": kind, "path": path, "raw_path": path.encode(), "root_path": "", "query_string": b"", "headers": headers}
    scope |= {"client": ("192.0.2.7", 1), "server": ("test", 80), "http_version": "1.1", "scheme": "http"}
    if kind == "http":
        scope["method"] = "GET"
    first = {"type": "http.request", "body": b"", "more_body": False} if kind == "http" else {"type": "websocket.connect"}
    messages = [first]

    async def receive() -> Any:
        if messages:
            return messages.pop(0)
        if leaves == "at once":
            return {"type": "http.disconnect"} if kind == "http" else {"type": "websocket.disconnect", "code": 1006}
        app.cancel()
        return await anyio.sleep_forever()

    with anyio.CancelScope() as cancelling:
        app.cancel = cancelling.cancel
        with contextlib.suppress(RuntimeError, BaseExceptionGroup):
            await guard(scope, receive, _nowhere)
