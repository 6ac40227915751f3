"""What stands there is told once, observers listen while the app runs, and sinks close last."""

import logging
import os
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware

from llm_authmw import (
    AuditMiddleware,
    KeyAuthMiddleware,
    Policy,
    PolicyRouter,
    RBACMiddleware,
    Record,
    Role,
    Stack,
    StaticKeys,
    UpstreamCredentialMiddleware,
    open_store,
    telemetry,
)
from llm_authmw.testing import lifespan, request, websocket
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS = StaticKeys({"ci": KEY})


class Observer:
    """One that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def observe(self, event: object) -> None:
        self.told.append(event)


class Tracer(Observer):
    """One that opens spans, too."""

    def __init__(self, trace: str | None = "ab" * 16) -> None:
        super().__init__()
        self.trace = trace
        self.calls: list[str] = []

    def begin(self, scope: Any, context: Any) -> object:
        self.calls.append(f"begin {scope['type']}")
        return None if self.trace is None else self

    def trace_id(self, token: object) -> str | None:
        assert token is self
        return self.trace

    def end(self, token: object, record: Any) -> None:
        made: Record = record.record()
        self.calls.append(f"end {made.outcome}")


class Broken(Tracer):
    """One whose every method fails, with a secret in the text of the error."""

    def observe(self, event: object) -> None:
        raise RuntimeError("secret-in-its-text")

    def begin(self, scope: Any, context: Any) -> object:
        raise RuntimeError("secret-in-its-text")


class BrokenAtTheEnd(Tracer):
    def end(self, token: object, record: Any) -> None:
        raise RuntimeError("secret-in-its-text")


@pytest.fixture(autouse=True)
def nobody_stays() -> Any:
    yield
    for observer in telemetry._observers:
        telemetry.detach(observer)


def stack(sink: KeptRecords, **options: Any) -> Stack:
    return Stack(
        Middleware(AuditMiddleware, sink=sink, **options),
        Middleware(KeyAuthMiddleware, keys=KEYS),
        Middleware(RBACMiddleware, roles={"member": Role(routes=["*"])}, default_role="member"),
    )


async def test_what_guards_is_told_once_by_each_process_and_without_secrets() -> None:
    sink = KeptRecords()
    secret = "upstream-credential-0123456789"
    guard = Stack(
        Middleware(AuditMiddleware, sink=sink),
        Middleware(KeyAuthMiddleware, keys=KEYS),
        Middleware(UpstreamCredentialMiddleware, bearer=secret),
    )
    for app in (guard(Witness()), guard(Witness())):
        for _ in range(2):
            await request(app, "GET /x")
    (record,) = sink.of("policy")
    assert [name.partition("(")[0] for name in record.stands[:-2]] == [
        "AuditMiddleware",
        "KeyAuthMiddleware",
        "UpstreamCredentialMiddleware",
    ]
    assert "Witness" == record.stands[-2]
    assert record.stands[-1].startswith("sha256 ")
    assert KEY not in repr(record)
    assert secret not in repr(record)


async def test_a_stack_that_has_changed_is_told_anew() -> None:
    sink = KeptRecords()
    await request(stack(sink)(Witness()), "GET /x")
    await request(Stack(Middleware(AuditMiddleware, sink=sink), Middleware(KeyAuthMiddleware, keys=KEYS))(Witness()), "GET /x")
    one, other = sink.of("policy")
    assert one.stands[-1] != other.stands[-1]


async def test_a_router_tells_its_policies() -> None:
    sink = KeptRecords()
    router = PolicyRouter(Witness(), policies=[Policy("/v1/**", Stack(Middleware(KeyAuthMiddleware, keys=KEYS)), name="models")])
    await request(AuditMiddleware(router, sink=sink), "GET /x")
    assert "models" in sink.of("policy")[0].stands[1]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_the_child_of_a_fork_tells_it_as_well() -> None:
    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        pass

    sink = KeptRecords()
    app: Any = stack(sink)(nothing)
    anyio.run(app, {"type": "other"}, None, None)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            app({"type": "other"}, None, None).send(None)
        except StopIteration:
            os.write(writing, b"%d" % len(sink.of("policy")))
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    assert b"2" == os.read(reading, 10)
    os.close(reading)
    assert 1 == len(sink.of("policy"))


async def test_a_foreign_layer_is_named_and_does_not_print_itself() -> None:
    class Foreign:
        def __init__(self, app: Any) -> None:
            self.app = app

        def __repr__(self) -> str:
            return KEY

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    sink = KeptRecords()
    await request(AuditMiddleware(Foreign(Witness()), sink=sink), "GET /x")
    assert ("Foreign", "Witness") == sink.of("policy")[0].stands[1:3]


async def test_observers_listen_from_the_first_request_or_the_start_until_the_end() -> None:
    sink, observer = KeptRecords(), Observer()
    app = stack(sink, observers=[observer])(Witness())
    async with lifespan(app):
        assert [observer] == list(telemetry._observers)
        await request(app, "GET /x")
        assert [sink.request] == observer.told
    assert not telemetry.observed()
    await request(app, "GET /x")
    assert 2 == len(observer.told)


async def test_without_a_sampling_sink_every_observer_is_told_of_every_request_once() -> None:
    observer = Observer()
    router = PolicyRouter(
        Witness(),
        policies=[
            Policy(
                "/v1/**",
                Stack(Middleware(AuditMiddleware, sink=KeptRecords(), observers=[observer]), Middleware(KeyAuthMiddleware, keys=KEYS)),
            )
        ],
    )
    await request(AuditMiddleware(router, sink=KeptRecords(), observers=[observer]), "GET /v1/x")
    assert ["denied"] == [record.outcome for record in observer.told if isinstance(record, Record)]


async def test_a_trace_that_an_observer_began_is_the_one_of_the_record() -> None:
    sink, tracer = KeptRecords(), Tracer()
    headers = [(b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]
    app = AuditMiddleware(Witness(), sink=sink, observers=[Tracer(None), tracer, Tracer("cd" * 16)])
    await request(app, "GET /x", headers=headers)
    assert "ab" * 16 == sink.request.trace_id
    assert ["begin http", "end allowed"] == tracer.calls


async def test_a_span_ends_with_a_request_that_fails_or_is_a_socket() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    tracer = Tracer()
    with pytest.raises(RuntimeError):
        await request(AuditMiddleware(fails, sink=KeptRecords(), observers=[tracer]), "GET /x")
    async with websocket(AuditMiddleware(Witness(), sink=KeptRecords(), observers=[tracer]), "/x"):
        pass
    assert ["begin http", "end failed", "begin websocket", "end allowed"] == tracer.calls


async def test_an_observer_that_breaks_reaches_no_request(caplog: pytest.LogCaptureFixture) -> None:
    sink = KeptRecords()
    with caplog.at_level(logging.ERROR):
        answer = await request(AuditMiddleware(Witness(), sink=sink, observers=[Broken(), BrokenAtTheEnd()]), "GET /x")
    assert (200, "allowed") == (answer.status, sink.request.outcome)
    assert 3 == caplog.text.count("RuntimeError")
    assert "secret-in-its-text" not in caplog.text


async def test_sinks_start_first_and_close_last() -> None:
    order: list[str] = []

    class Sink(KeptRecords):
        async def start(self) -> None:
            order.append("sink starts")

        async def aclose(self) -> None:
            order.append("sink closes")

    class Store:
        async def start(self) -> None:
            order.append("store starts")

        async def aclose(self) -> None:
            order.append("store closes")

    class Layer(TicketLayer):
        @property
        def resources(self) -> tuple[Any, ...]:
            return (store,)

    store = Store()
    app = Stack(Middleware(AuditMiddleware, sink=Sink()), Middleware(Layer))(Witness())
    async with lifespan(app):
        pass
    assert ["sink starts", "store starts", "store closes", "sink closes"] == order


async def test_a_lifespan_passes_and_begins_what_guards() -> None:
    sink = KeptRecords()
    async with lifespan(AuditMiddleware(Starlette(), sink=sink)):
        assert ["policy"] == [record.kind for record in sink.records]
    assert [] == sink.of("request")


async def test_what_a_role_allows_is_part_of_what_is_told() -> None:
    sink = KeptRecords()
    for models in (["gpt-4o"], ["gpt-4o", "o3"]):
        guard = Stack(
            Middleware(AuditMiddleware, sink=sink),
            Middleware(KeyAuthMiddleware, keys=KEYS),
            Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=models)}, default_role="member"),
        )
        await request(guard(Witness()), "GET /x")
    one, other = sink.of("policy")
    assert "o3" not in one.stands[2]
    assert "o3" in other.stands[2]
    assert one.stands[-1] != other.stands[-1]


async def test_the_same_stack_over_a_store_is_told_in_the_same_words_by_every_process() -> None:
    told = [KeptRecords(), KeptRecords()]
    for sink in told:
        guard = Stack(Middleware(AuditMiddleware, sink=sink), Middleware(KeyAuthMiddleware, keys=open_store("memory://").keys))
        await request(guard(Witness()), "GET /x")
    (one,), (other,) = (sink.of("policy") for sink in told)
    assert one.stands == other.stands


async def test_an_observer_that_two_apps_share_listens_until_the_last_of_them_is_closed() -> None:
    shared = Tracer()
    first, second = (stack(KeptRecords(), observers=[shared])(Witness()) for _ in range(2))
    async with lifespan(second):
        async with lifespan(first):
            pass
        assert any(one is shared for one in telemetry._observers)
    assert not any(one is shared for one in telemetry._observers)


async def test_an_observer_with_a_lifespan_of_its_own_is_started_and_closed_with_the_app() -> None:
    class Resourceful(Tracer):
        async def start(self) -> None:
            self.calls.append("start")

        async def aclose(self) -> None:
            self.calls.append("close")

    observer = Resourceful()
    async with lifespan(stack(KeptRecords(), observers=[observer])(Witness())):
        assert ["start"] == observer.calls
    assert ["start", "close"] == observer.calls
