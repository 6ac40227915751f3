"""The app behind every guard: a provider of one model, which notes what it has done before it says so. That is the truth.

A server that is told `--factory benchmarks.overshoot.upstream:app` has it by itself, for a guard that speaks HTTP to it.
"""

import asyncio
import itertools
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.overshoot.asks import CHUNK, MODEL, TOKEN, cost, input_tokens
from benchmarks.overshoot.notes import Note, Notes
from llm_authmw.asgi import Receive, Scope, Send

_HEAD: Final = {"id": "chatcmpl-1", "created": 1, "model": MODEL}


class UpstreamBrokeOff(Exception):  # noqa: N818 - an event, as a proxy sees it when its upstream goes away
    """The fault `break`. A server closes the connection on it."""


class Upstream:
    """An ASGI app that answers `POST /v1/chat/completions` as its message says, and anything else with 404.

    Args:
        folder: Where it notes what it does.
    """

    def __init__(self, folder: Path) -> None:
        self._notes: Final = Notes(folder, "truth")
        self._numbers: Final = itertools.count()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            while (await receive())["type"] != "lifespan.shutdown":
                await send({"type": "lifespan.startup.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        if scope["path"] != "/v1/chat/completions":
            await _answer(send, 404, {"error": {"message": "there is no such route"}})
            return
        body = bytearray()
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        else:
            return
        asked = json.loads(body)
        content: str = asked["messages"][-1]["content"]
        told = dict(part.split("=", 1) for part in content.split())
        if told["fault"] == "refuse":
            await _answer(send, 500, {"error": {"message": "the fault that was asked for"}})
            return
        run = _Run(self._notes, f"{os.getpid()}.{next(self._numbers)}", told, input_tokens(content))
        leaving = asyncio.ensure_future(receive())
        try:
            await (run.stream(send, leaving) if asked.get("stream") else run.whole(send))
        finally:
            leaving.cancel()


class _Run:
    """One execution."""

    def __init__(self, notes: Notes, name: str, told: dict[str, str], read: int) -> None:
        self._notes = notes
        self._name = name
        self._ask = told["id"]
        self._read = read
        self._fault = told["fault"]
        self._tokens = int(told["output"])
        self._even = "even" in told
        self._pause = int(told["pause"]) / 1000
        self._written = 0
        self._note()

    async def whole(self, send: Send) -> None:
        """Answer in one piece."""
        if self._fault == "break":
            # Nobody is charged for text that was never said.
            raise UpstreamBrokeOff
        while self._written < self._tokens:
            # A provider that has nothing to say yet does not notice who left.
            await self._write(None)
        choice = {"index": 0, "message": {"role": "assistant", "content": TOKEN * self._tokens}, "finish_reason": "stop"}
        await _answer(send, 200, {**_HEAD, "object": "chat.completion", "choices": [choice], **self._usage})

    async def stream(self, send: Send, leaving: "asyncio.Future[Any]") -> None:
        """Answer event by event, until the client leaves."""
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while self._written < self._tokens:
            text = TOKEN * await self._write(leaving)
            if not text:
                return
            await _event(send, {"choices": [{"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}]})
            if self._breaks:
                raise UpstreamBrokeOff
        await _event(send, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        if self._usage:
            await _event(send, {"choices": [], **self._usage})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})

    @property
    def _breaks(self) -> bool:
        return self._fault == "break" and 2 * self._written >= self._tokens

    @property
    def _usage(self) -> dict[str, Any]:
        if self._fault == "silent":
            return {}
        total = self._read + self._written
        return {"usage": {"prompt_tokens": self._read, "completion_tokens": self._written, "total_tokens": total}}

    async def _write(self, leaving: "asyncio.Future[Any] | None") -> int:
        """Make the next tokens, note them, and return how many they are: 0 where the client has left."""
        if leaving is None:
            await asyncio.sleep(self._pause)
        else:
            await asyncio.wait({leaving}, timeout=self._pause)
            if leaving.done():
                return 0
        made = min(CHUNK if self._written or self._even else 1, self._tokens - self._written)
        self._written += made
        self._note()
        return made

    def _note(self) -> None:
        self._notes.write(self._name, self._ask, self._read, self._written)


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(body).encode(), "more_body": False})


async def _event(send: Send, event: dict[str, Any]) -> None:
    data = json.dumps({**_HEAD, "object": "chat.completion.chunk", **event})
    await send({"type": "http.response.body", "body": f"data: {data}\n\n".encode(), "more_body": True})


@dataclass
class Truth:
    """What the upstream did for one ask.

    Attributes:
        nano: What it costs.
        until: Monotonic nanoseconds of the last that it did.
    """

    nano: int = 0
    until: int = 0


def truths(notes: Sequence[Note]) -> dict[str, Truth]:
    """Return what was done for each ask; one that was carried out twice costs twice."""
    runs = {note.words[0]: note for note in notes}
    found: defaultdict[str, Truth] = defaultdict(Truth)
    for at, (_, ask, read, written) in runs.values():
        truth = found[ask]
        truth.nano += cost(int(read), int(written))
        truth.until = max(truth.until, at)
    return dict(found)


def app() -> Upstream:
    """Return the app, for a server that makes it."""
    return Upstream(Path(os.environ["OVERSHOOT_FOLDER"]))
