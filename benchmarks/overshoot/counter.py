"""A worker of the middleware that people write: it reads what was spent, compares, lets the app run, and adds what that cost.

It is a fair one: the sum is one row that is added to in one statement, by threads, and what broke off is counted as far as it was seen.
"""

import asyncio
import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.overshoot.asks import cost
from benchmarks.overshoot.notes import Notes
from benchmarks.overshoot.upstream import Upstream
from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send

TIMEOUT: Final = 5.0
_TOKEN_BYTES: Final = 4


def database(folder: Path) -> sqlite3.Connection:
    """Open the file with the sum, and make it where there is none."""
    connection = sqlite3.connect(folder / "counter.db", timeout=TIMEOUT, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("CREATE TABLE IF NOT EXISTS spent (name TEXT PRIMARY KEY, nano INTEGER NOT NULL)")
    connection.execute("INSERT OR IGNORE INTO spent VALUES ('load', 0)")
    return connection


def spent(folder: Path) -> int:
    """Return the sum."""
    with closing(database(folder)) as connection:
        nano: int = connection.execute("SELECT nano FROM spent").fetchone()[0]
        return nano


class CheckThenCount:
    """Lets a request in while the budget is not used up, and counts what it did cost.

    Args:
        app: What it stands in front of.
        folder: Where the sum is, and the notes of it.
        limit: The budget in nano-dollars.
    """

    def __init__(self, app: ASGIApp, folder: Path, limit: int) -> None:
        self._app: Final = app
        self._limit: Final = limit
        self._notes: Final = Notes(folder, "charge")
        self._connection: Final = database(folder)
        self._lock: Final = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if await self._run("SELECT nano FROM spent") >= self._limit:
            await _refuse(send)
            return
        answer = bytearray()
        asked = bytearray()

        async def receive_and_keep() -> Message:
            message = await receive()
            asked.extend(message.get("body", b""))
            return message

        async def send_and_keep(message: Message) -> None:
            await send(message)
            answer.extend(message.get("body", b""))

        try:
            await self._app(scope, receive_and_keep, send_and_keep)
        finally:
            nano = _charge(bytes(asked), bytes(answer))
            if nano:
                await asyncio.shield(self._run("UPDATE spent SET nano = nano + ? RETURNING nano", nano))
                self._notes.write(nano)

    async def _run(self, statement: str, *values: int) -> int:
        async with self._lock:
            row = await asyncio.to_thread(lambda: self._connection.execute(statement, values).fetchall())
        nano: int = row[0][0]
        return nano


def _charge(asked: bytes, answer: bytes) -> int:
    """Return what a request costs: by the usage in its answer, or else by the text in it."""
    found = answer.rfind(b'"usage": {')
    if found >= 0:
        usage: dict[str, int] = json.JSONDecoder().raw_decode(answer[found + len(b'"usage": ') :].decode())[0]
        return cost(usage["prompt_tokens"], usage["completion_tokens"])
    if answer.startswith(b'{"error"') or not asked:
        return 0
    words = sum(len(content) for content in _contents(answer))
    return cost(len(asked) // _TOKEN_BYTES, words // _TOKEN_BYTES)


def _contents(answer: bytes) -> list[str]:
    found: list[str] = []
    for line in answer.splitlines():
        text = line.removeprefix(b"data: ")
        if text.startswith(b"{"):
            event: dict[str, Any] = json.loads(text)
            messages: list[dict[str, str]] = [choice["delta" if "delta" in choice else "message"] for choice in event["choices"]]
            found += [message.get("content", "") for message in messages]
    return found


async def _refuse(send: Send) -> None:
    body = json.dumps({"error": {"message": "the budget is used up", "code": "insufficient_quota"}}).encode()
    await send({"type": "http.response.start", "status": 429, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


def app() -> ASGIApp:
    """Return the app, as the environment says: `OVERSHOOT_FOLDER` and `OVERSHOOT_NANO` (the budget)."""
    folder = Path(os.environ["OVERSHOOT_FOLDER"])
    return CheckThenCount(Upstream(folder), folder, int(os.environ["OVERSHOOT_NANO"]))
