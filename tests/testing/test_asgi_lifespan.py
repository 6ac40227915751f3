from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from starlette.applications import Starlette

from llm_authmw.asgi import Receive, Scope, Send
from llm_authmw.testing import LifespanFailed, ProtocolError, lifespan

pytestmark = pytest.mark.anyio

STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


class Answers:
    """An app that answers each lifespan event with the messages that are given for it."""

    def __init__(self, *answers: list[Any]) -> None:
        self.answers = answers
        self.events: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for answer in self.answers:
            self.events.append((await receive())["type"])
            for message in answer:
                await send(message)


@pytest.mark.parametrize(
    ("answers", "complaint"),
    [
        pytest.param([], "returned before its lifespan was over; so far the app sent nothing", id="nothing"),
        pytest.param([[STARTED]], "returned before its lifespan was over", id="no shutdown"),
        pytest.param([[STOPPED]], "lifespan.shutdown.complete was sent in answer to lifespan.startup", id="the wrong answer"),
        pytest.param([[STARTED, STARTED]], "lifespan.startup.complete was sent", id="two answers"),
        pytest.param([[STARTED], [STARTED]], "lifespan.startup.complete was sent in answer to lifespan.shutdown", id="start at the end"),
        pytest.param([[STARTED], [STOPPED, STOPPED]], "no event is waiting for an answer", id="two answers at the end"),
    ],
)
async def test_an_app_that_breaks_the_protocol_fails_the_test(answers: list[list[Any]], complaint: str) -> None:
    with pytest.raises(ProtocolError, match=complaint):
        async with lifespan(Answers(*answers)):
            pass


@pytest.mark.parametrize(
    ("answers", "phase"),
    [
        ([[{"type": "lifespan.startup.failed", "message": "no database"}]], "startup"),
        ([[STARTED], [{"type": "lifespan.shutdown.failed", "message": "no database"}]], "shutdown"),
    ],
)
async def test_a_failed_phase_is_raised_with_what_the_app_said(answers: list[list[Any]], phase: str) -> None:
    with pytest.raises(LifespanFailed, match=rf"lifespan\.{phase}\.failed: no database") as failed:
        async with lifespan(Answers(*answers)):
            assert "shutdown" == phase
    assert (phase, "no database") == (failed.value.phase, failed.value.message)


async def test_a_framework_that_says_failed_and_then_raises_has_failed() -> None:
    @asynccontextmanager
    async def broken(app: Starlette) -> AsyncGenerator[None]:
        if app.routes == []:
            raise LookupError("no database")
        yield

    with pytest.raises(LifespanFailed, match="no database"):
        async with lifespan(Starlette(lifespan=broken)):
            pass


async def test_an_app_without_lifespan_raises_in_the_test_or_is_served_without() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("unknown scope")

    with pytest.raises(LookupError, match="unknown scope"):
        async with lifespan(app):
            pass
    async with lifespan(app, reraise=False) as life:
        assert not life.supported
    assert isinstance(life.activity.raised, LookupError)


async def test_a_phase_that_takes_too_long_is_given_up() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await anyio.sleep_forever()

    with pytest.raises(TimeoutError, match=r"waited 0\.01 s for the app's startup"):
        async with lifespan(app, time_limit=0.01):
            pass


async def test_the_block_runs_between_startup_and_shutdown_and_sees_the_state() -> None:
    steps: list[str] = []

    @asynccontextmanager
    async def managed(app: Starlette) -> AsyncGenerator[dict[str, Any]]:
        steps.append("started")
        yield {"pool": 1}
        steps.append("stopped")

    async with lifespan(Starlette(lifespan=managed), state={"mine": 0}) as life:
        assert (True, ["started"], {"mine": 0, "pool": 1}) == (life.supported, steps, life.state)
    assert ["started", "stopped"] == steps


async def test_the_failure_of_the_test_itself_comes_out_as_it_is() -> None:
    app = Answers([STARTED], [STOPPED])
    with pytest.raises(ValueError, match="of the test"):
        async with lifespan(app):
            raise ValueError("of the test")
    assert ["lifespan.startup"] == app.events
