"""The thread that writes for many: who is written with whom, and whose failure is whose."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from llm_authmw.errors import InvalidValueError, StoreUnavailableError
from llm_authmw.stores.sqlite import writer as writing
from llm_authmw.stores.sqlite.database import Database
from llm_authmw.stores.sqlite.writer import Writer

pytestmark = pytest.mark.anyio

WAIT = 10.0


class Notes:
    """Writes each wish as the id of a change, and the first one not before it may."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.entered = threading.Event()
        self.may_write = threading.Event()
        self.may_write.set()

    def write(self, connection: sqlite3.Connection, wishes: Sequence[str]) -> list[str | Exception]:
        self.groups.append([*wishes])
        self.entered.set()
        assert self.may_write.wait(WAIT)
        if "breaks" in wishes:
            raise RuntimeError("broken")
        return [self.note(connection, wish) for wish in wishes]

    def note(self, connection: sqlite3.Connection, wish: str) -> str | Exception:
        if wish == "fails":
            return InvalidValueError("no")
        connection.execute("INSERT INTO changes (facet, tenant, id, at) VALUES ('note', '', ?, 0)", (wish,))
        return wish.upper()


def noted(connection: sqlite3.Connection) -> list[str]:
    return [row["id"] for row in connection.execute("SELECT id FROM changes WHERE facet = 'note' ORDER BY seq")]


def threads_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "llm_authmw-writer"]


@pytest.fixture
def notes() -> Notes:
    return Notes()


@pytest.fixture
async def database(path: Path, anyio_backend: Any) -> AsyncIterator[Database]:
    made = Database(str(path))
    await made.start()
    yield made
    await made.aclose()


@pytest.fixture
async def writer(database: Database, notes: Notes) -> AsyncIterator[Writer[str, str]]:
    made: Writer[str, str] = Writer(database, notes.write)
    yield made
    notes.may_write.set()
    await made.aclose()


async def ask_behind(writer: Writer[str, str], notes: Notes, *wishes: str) -> dict[str, str | Exception]:
    """Ask for the first one, and for the others while that is being written."""
    answers: dict[str, str | Exception] = {}

    async def ask(wish: str) -> None:
        try:
            answers[wish] = await writer.ask(wish)
        except (InvalidValueError, RuntimeError) as error:
            answers[wish] = error

    notes.may_write.clear()
    notes.entered.clear()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, wishes[0])
            await anyio.to_thread.run_sync(notes.entered.wait, WAIT)
            for wish in wishes[1:]:
                tasks.start_soon(ask, wish)
            await anyio.wait_all_tasks_blocked()
            notes.may_write.set()
    return answers


async def test_those_who_ask_while_it_writes_are_written_in_one_transaction(
    database: Database, writer: Writer[str, str], notes: Notes
) -> None:
    wishes = ["first", *(f"w{number}" for number in range(10))]
    assert {wish: wish.upper() for wish in wishes} == await ask_behind(writer, notes, *wishes)
    assert [wishes[:1], wishes[1:]] == [sorted(group) for group in notes.groups]
    assert sorted(wishes) == sorted(await database.read(noted))


async def test_a_group_is_no_larger_than_others_can_wait_for(writer: Writer[str, str], notes: Notes) -> None:
    await ask_behind(writer, notes, "first", *(str(number) for number in range(2 * writing.MAX_GROUP + 1)))
    assert [1, writing.MAX_GROUP, writing.MAX_GROUP, 1] == [len(group) for group in notes.groups]


async def test_one_who_is_told_no_is_told_so_alone(database: Database, writer: Writer[str, str], notes: Notes) -> None:
    answers = await ask_behind(writer, notes, "first", "good", "fails", "better")
    assert isinstance(answers.pop("fails"), InvalidValueError)
    assert {"first": "FIRST", "good": "GOOD", "better": "BETTER"} == answers
    assert ["better", "first", "good"] == sorted(await database.read(noted))


async def test_one_who_breaks_a_transaction_breaks_nobody_elses(database: Database, writer: Writer[str, str], notes: Notes) -> None:
    answers = await ask_behind(writer, notes, "first", "good", "breaks", "better")
    assert isinstance(answers.pop("breaks"), RuntimeError)
    assert {"first": "FIRST", "good": "GOOD", "better": "BETTER"} == answers
    assert ["better", "first", "good"] == sorted(await database.read(noted))


async def test_each_who_waited_for_a_locked_file_is_given_an_error_of_his_own(
    path: Path, writer: Writer[str, str], notes: Notes, impatient: None
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    errors: list[Exception] = []
    other.execute("BEGIN IMMEDIATE")
    async with anyio.create_task_group() as tasks:

        async def ask() -> None:
            with pytest.raises(StoreUnavailableError, match="is locked by another process") as caught:
                await writer.ask("refused")
            errors.append(caught.value)

        for _ in range(8):
            tasks.start_soon(ask)
    assert 8 == len({id(error) for error in errors})
    assert {sqlite3.OperationalError} == {type(error.__cause__) for error in errors}
    assert [] == notes.groups
    other.execute("ROLLBACK")
    other.close()
    assert "AGAIN" == await writer.ask("again")


async def test_who_gives_up_before_his_turn_is_not_written_and_nobody_waits_for_him(
    database: Database, writer: Writer[str, str], notes: Notes
) -> None:
    notes.may_write.clear()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(writer.ask, "first")
            await anyio.to_thread.run_sync(notes.entered.wait, WAIT)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await writer.ask("given up")
            assert scope.cancelled_caught
            notes.may_write.set()
        assert "NEXT" == await writer.ask("next")
    assert ["first", "next"] == await database.read(noted)


async def test_who_gives_up_while_he_is_written_is_written_and_the_next_one_is_served(
    database: Database, writer: Writer[str, str], notes: Notes
) -> None:
    notes.may_write.clear()
    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:

            async def leave() -> None:
                await anyio.to_thread.run_sync(notes.entered.wait, WAIT)
                scope.cancel()

            tasks.start_soon(leave)
            with anyio.CancelScope() as scope:
                await writer.ask("written")
            assert scope.cancelled_caught
            notes.may_write.set()
        assert "NEXT" == await writer.ask("next")
    assert ["written", "next"] == await database.read(noted)


async def test_closing_writes_what_is_waited_for_and_leaves_no_thread(database: Database, writer: Writer[str, str], notes: Notes) -> None:
    notes.may_write.clear()
    answers: list[str] = []

    async def ask(wish: str) -> None:
        answers.append(await writer.ask(wish))

    with anyio.fail_after(WAIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "first")
            await anyio.to_thread.run_sync(notes.entered.wait, WAIT)
            tasks.start_soon(ask, "second")
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(writer.aclose)
            await anyio.wait_all_tasks_blocked()
            notes.may_write.set()
    assert ["FIRST", "SECOND"] == sorted(answers)
    assert ["first", "second"] == await database.read(noted)
    assert [] == threads_left()


async def test_closing_is_done_even_by_one_who_is_cancelled_and_twice_is_once(writer: Writer[str, str]) -> None:
    await writer.ask("first")
    assert 1 == len(threads_left())
    with anyio.CancelScope() as scope:
        scope.cancel()
        await writer.aclose()
    assert [] == threads_left()
    await writer.aclose()
    assert "AFTER" == await writer.ask("after")


async def test_a_thread_that_has_nothing_to_do_ends_and_the_next_wish_begins_another(
    writer: Writer[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "LINGER", 0.0)
    await writer.ask("first")
    for thread in threading.enumerate():
        if thread.name == "llm_authmw-writer":
            await anyio.to_thread.run_sync(thread.join, WAIT)
    assert [] == threads_left()
    for number in range(50):
        assert f"W{number}" == await writer.ask(f"w{number}")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_that_ended_before_its_answer_stops_nobody(database: Database, writer: Writer[str, str], notes: Notes) -> None:
    notes.may_write.clear()

    def lose(backend: str) -> None:
        with anyio.from_thread.start_blocking_portal(backend) as portal:
            future = portal.start_task_soon(writer.ask, "lost")
            assert notes.entered.wait(WAIT)
            future.cancel()

    for backend in ("asyncio", "trio"):
        notes.entered.clear()
        notes.may_write.clear()
        await anyio.to_thread.run_sync(lose, backend)
        notes.may_write.set()
        with anyio.fail_after(WAIT):
            assert "NEXT" == await writer.ask("next")
    assert ["lost", "next"] * 2 == await database.read(noted)


def test_an_answer_for_a_loop_that_is_closed_is_dropped() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    writing._tell(loop, [])


@pytest.mark.usefixtures("patient")
def test_one_writer_serves_several_event_loops_at_once(path: Path, notes: Notes) -> None:
    database = Database(str(path))
    writer: Writer[str, str] = Writer(database, notes.write)
    answers: list[str] = []

    async def ask(name: str) -> None:
        for number in range(20):
            answer = await writer.ask(f"{name}{number}")
            answers.append(answer)

    loops: list[threading.Thread] = []
    run: Callable[..., Any] = anyio.run
    for name, backend in (("a", "asyncio"), ("b", "trio"), ("c", "asyncio"), ("d", "trio")):
        loops.append(threading.Thread(target=run, args=(ask, name), kwargs={"backend": backend}))
    for thread in loops:
        thread.start()
    for thread in loops:
        thread.join(30)
    assert sorted(f"{name}{number}" for name in "ABCD" for number in range(20)) == sorted(answers)

    async def close() -> list[str]:
        await writer.aclose()
        found = await database.read(noted)
        await database.aclose()
        return found

    assert 80 == len(anyio.run(close))
    assert [] == threads_left()
