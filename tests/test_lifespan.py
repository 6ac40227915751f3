from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import FastAPI
from litestar import Litestar
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from llm_authmw import KeyAuthMiddleware, Stack, StaticKeys, Store, StoreError, open_store
from llm_authmw import lifespan as lifespan_module
from llm_authmw.lifespan import run_lifespan
from llm_authmw.testing import LifespanFailed, lifespan, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"


class Thing:
    """A resource that says what is done to it."""

    def __init__(self, name: str, log: list[str], *, fails: str = "") -> None:
        self.name, self.log, self.fails = name, log, fails

    async def start(self) -> None:
        await self._do("start")

    async def aclose(self) -> None:
        await self._do("close")

    async def _do(self, what: str) -> None:
        await anyio.lowlevel.checkpoint()
        self.log.append(f"{what} {self.name}")
        if self.fails == what:
            raise StoreError(f"{self.name} is broken")


def around(app: Any, *things: Thing) -> Any:
    """Return an app whose lifespan is that of `app` within that of the things."""

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        await run_lifespan(app, things, scope, receive, send)

    return guarded


def living(log: list[str], **options: Any) -> Starlette:
    @asynccontextmanager
    async def life(app: Any) -> AsyncGenerator[dict[str, int]]:
        log.append("app starts")
        yield {"from the app": 1}
        log.append("app stops")

    return Starlette(lifespan=life, **options)


async def raises_at_once(scope: Any, receive: Any, send: Any) -> None:
    raise RuntimeError("no lifespan here")


async def raises_after_a_look(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    raise KeyError("method")


async def returns_at_once(scope: Any, receive: Any, send: Any) -> None: ...


async def returns_after_a_look(scope: Any, receive: Any, send: Any) -> None:
    await receive()


@pytest.mark.parametrize("app", [raises_at_once, raises_after_a_look, returns_at_once, returns_after_a_look, Witness()])
async def test_an_app_without_a_lifespan_leaves_ours_running_until_the_server_stops(app: Any) -> None:
    log: list[str] = []
    async with lifespan(around(app, Thing("a", log), Thing("b", log))) as life:
        assert life.supported
        assert ["start a", "start b"] == log
    assert ["start a", "start b", "close b", "close a"] == log


async def test_ours_starts_before_the_app_and_stops_after_it_before_the_server_is_told() -> None:
    log: list[str] = []
    async with lifespan(around(living(log), Thing("a", log), Thing("b", log))) as life:
        assert {"from the app": 1} == life.state
        assert ["start a", "start b", "app starts"] == log
    assert ["app stops", "close b", "close a"] == log[3:]


async def test_if_ours_does_not_start_the_server_is_told_why_and_the_app_is_never_started() -> None:
    log: list[str] = []
    things = [Thing("a", log), Thing("b", log, fails="start"), Thing("c", log)]
    with pytest.raises(LifespanFailed, match="StoreError: b is broken") as caught:
        async with lifespan(around(living(log), *things)):
            raise AssertionError("it started")
    assert "startup" == caught.value.phase
    assert ["start a", "start b", "close a"] == log


async def test_if_the_app_does_not_start_ours_is_stopped_before_the_server_is_told() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def broken(app: Any) -> AsyncGenerator[None]:
        if log:  # ours has started
            raise RuntimeError("no database")
        yield

    with pytest.raises(LifespanFailed, match="no database"):
        async with lifespan(around(Starlette(lifespan=broken), Thing("a", log)), reraise=False):
            raise AssertionError("it started")
    assert ["start a", "close a"] == log


async def test_if_the_app_does_not_stop_well_ours_stops_and_the_server_is_told() -> None:
    log: list[str] = []

    @asynccontextmanager
    async def broken(app: Any) -> AsyncGenerator[None]:
        yield
        raise RuntimeError("still busy")

    with pytest.raises(LifespanFailed, match="still busy") as caught:
        async with lifespan(around(Starlette(lifespan=broken), Thing("a", log)), reraise=False):
            pass
    assert "shutdown" == caught.value.phase
    assert ["start a", "close a"] == log


@pytest.mark.parametrize("app", [Witness(), Starlette()])
async def test_if_ours_does_not_stop_well_the_rest_of_ours_does_and_the_server_is_told(app: Any) -> None:
    log: list[str] = []
    things = [Thing("a", log), Thing("b", log, fails="close"), Thing("c", log)]
    with pytest.raises(LifespanFailed, match="StoreError: b is broken") as caught:
        async with lifespan(around(app, *things)):
            pass
    assert "shutdown" == caught.value.phase
    assert ["close c", "close b", "close a"] == log[3:]


async def test_an_app_that_fails_while_it_serves_takes_ours_with_it_and_the_server_sees_why() -> None:
    log: list[str] = []
    fail = anyio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await fail.wait()
        raise RuntimeError("the app failed")

    with pytest.raises(RuntimeError, match="the app failed"):  # noqa: PT012 - it comes out at the end of the block
        async with lifespan(around(app, Thing("a", log))) as life:
            fail.set()
            await life.wait_returned()
    assert ["start a", "close a"] == log


async def test_an_app_that_leaves_its_lifespan_early_leaves_ours_running_until_the_server_stops() -> None:
    log: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        log.append("app leaves")

    async with lifespan(around(app, Thing("a", log))):
        await anyio.wait_all_tasks_blocked()
        assert ["start a", "app leaves"] == log
    assert ["start a", "app leaves", "close a"] == log


async def test_a_server_in_a_hurry_cannot_keep_ours_from_closing() -> None:
    log: list[str] = []
    started = anyio.Event()

    async def receive() -> Any:
        if started.is_set():
            await anyio.sleep_forever()
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        started.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run_lifespan, Witness(), [Thing("a", log), Thing("b", log)], {"type": "lifespan"}, receive, send)
            await started.wait()
            tasks.cancel_scope.cancel()
    assert ["start a", "start b", "close b", "close a"] == log


async def test_ours_may_not_keep_the_server_waiting_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Thing):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    monkeypatch.setattr(lifespan_module, "CLOSE_DEADLINE", 0.01)
    log: list[str] = []
    async with lifespan(around(Witness(), Thing("a", log), Stuck("b", log))):
        pass
    assert ["start a", "start b", "close a"] == log
    assert "has not closed within 0.01 s" in caplog.text


class Watched:
    """Watch a store's backend being opened and closed."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        backend: Any = store._backend
        start, close = backend.start, backend.aclose

        async def watched_start() -> None:
            self.log.append("start")
            await start()

        async def watched_close() -> None:
            self.log.append("close")
            await close()

        monkeypatch.setattr(backend, "start", watched_start)
        monkeypatch.setattr(backend, "aclose", watched_close)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"sqlite:///{tmp_path / 'authmw.db'}", deadline=5)


PLACES = ["wrapped", "listed in Starlette", "listed in FastAPI", "around Litestar", "around an app without a lifespan"]


@pytest.mark.parametrize("place", PLACES)
async def test_a_stack_starts_its_store_with_the_app_and_closes_it(store: Store, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    watched = Watched(store, monkeypatch)
    stack = Stack(Middleware(KeyAuthMiddleware, keys=store.keys))
    apps: dict[str, Callable[[], Any]] = {
        "wrapped": lambda: stack(Starlette(routes=[Mount("/", Witness())])),
        "listed in Starlette": lambda: Starlette(routes=[Mount("/", Witness())], middleware=[Middleware(stack)]),
        "listed in FastAPI": lambda: FastAPI(middleware=[Middleware(stack)]),
        "around Litestar": lambda: stack(Litestar([], openapi_config=None)),
        "around an app without a lifespan": lambda: stack(Witness()),
    }
    app = apps[place]()
    async with lifespan(app):
        assert ["start"] == watched.log
        created = await store.keys.create()
        response = await request(app, "GET /x", headers=[(b"x-api-key", str(created.key).encode())])
        assert response.status in (200, 404)
        assert 401 == (await request(app, "GET /x")).status
    assert ["start", "close"] == watched.log


async def test_a_store_that_two_layers_share_is_started_once_by_a_stack(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class AlsoKeys(KeyAuthMiddleware):
        """Another kind of layer on the same store."""

    watched = Watched(store, monkeypatch)
    stack = Stack(Middleware(KeyAuthMiddleware, keys=store.keys), Middleware(AlsoKeys, keys=store.keys))
    async with lifespan(stack(Witness())):
        assert ["start"] == watched.log
    assert ["start", "close"] == watched.log


async def test_a_store_that_several_stacks_share_may_be_started_and_closed_by_each(store: Store) -> None:
    stack = Stack(Middleware(KeyAuthMiddleware, keys=store.keys))
    inner = Starlette(routes=[Mount("/", Witness())], middleware=[Middleware(stack)])

    async def opaque(scope: Any, receive: Any, send: Any) -> None:
        await inner(scope, receive, send)

    outer = stack(opaque)
    for _ in range(2):  # closed once, it starts again
        async with lifespan(outer):
            await store.start()
            created = await store.keys.create()
            headers = [(b"x-api-key", str(created.key).encode())]
            assert 200 == (await request(outer, "GET /x", headers=headers)).status
        await store.aclose()


async def test_a_store_starts_by_itself_where_no_lifespan_arrives(store: Store) -> None:
    app = Starlette(routes=[Mount("/v1", Witness(), middleware=[Middleware(KeyAuthMiddleware, keys=store.keys)])])
    try:
        created = await store.keys.create()
        assert 200 == (await request(app, "GET /v1/x", headers=[(b"x-api-key", str(created.key).encode())])).status
        assert 401 == (await request(app, "GET /v1/x")).status
    finally:
        await store.aclose()


async def test_a_store_that_cannot_be_opened_stops_the_server_from_starting(tmp_path: Path) -> None:
    missing = open_store(f"sqlite:///{tmp_path / 'no' / 'such' / 'directory' / 'authmw.db'}")
    app = Stack(Middleware(KeyAuthMiddleware, keys=missing.keys))(Witness())
    with pytest.raises(LifespanFailed, match=r"Store.*Error") as caught:
        async with lifespan(app):
            raise AssertionError("it started")
    assert "startup" == caught.value.phase


async def test_keys_in_code_have_nothing_to_start() -> None:
    log: list[str] = []
    app = Stack(Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})))(living(log))
    async with lifespan(app) as life:
        assert {"from the app": 1} == life.state
        assert ["app starts"] == log
    assert ["app starts", "app stops"] == log


async def test_a_layer_alone_passes_the_lifespan_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(store, monkeypatch)
    log: list[str] = []
    async with lifespan(KeyAuthMiddleware(living(log), keys=store.keys)):
        assert ["app starts"] == log
    assert ["app starts", "app stops"] == log
    assert [] == watched.log
