"""One request over one connection: a client that may leave in the middle, and knows how what it asked for ended."""

import asyncio
import contextlib
import json
from typing import Final, Literal, NamedTuple, TypeAlias

from benchmarks.overshoot.asks import Ask
from llm_authmw.testing.servers import HOST

End: TypeAlias = Literal["served", "left", "refused", "failed"]
"""How a request ended: an answer came whole, the client left, the budget refused it, or anything else."""

ASK_HEADER: Final = "x-ask"
"""The header with an ask's id, for notes."""
REFUSED: Final = frozenset({400, 402, 422, 429})
"""Statuses with which budgets refuse: ours and the counter with 429, LiteLLM with 422 or, by its release, 400 or 429."""
LIMIT: Final = 60.0
"""Seconds for one request."""


class Reply(NamedTuple):
    """How one request ended.

    Attributes:
        end: How.
        status: The status of the answer; 0 where none came.
    """

    end: End
    status: int = 0


async def send(port: int, ask: Ask, key: str) -> Reply:
    """Send what is asked for to the server at a port of this machine, and read the answer.

    Args:
        port: The port.
        ask: What is asked for.
        key: The client's key.
    """
    try:
        async with asyncio.timeout(LIMIT):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                return await _talk(reader, writer, ask, key)
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
    except (OSError, EOFError, asyncio.LimitOverrunError):
        return Reply("failed")


async def _talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ask: Ask, key: str) -> Reply:
    body = json.dumps(ask.body).encode()
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {HOST}",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        f"{ASK_HEADER}: {ask.id}",
        "connection: close",
    ]
    writer.write("\r\n".join([*head, "", ""]).encode() + body)
    if ask.leaves_after == 0:
        # Long enough for the request to get there, and for no answer to come back.
        await asyncio.sleep(ask.pause / 2000)
        return Reply("left")
    status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1])
    if status != 200:
        text = await reader.read()
        return Reply("refused" if status in REFUSED and (b"budget" in text.lower() or b"quota" in text) else "failed", status)
    if not ask.stream:
        return Reply("served" if b'"usage"' in await reader.read() or ask.fault == "silent" else "failed", status)
    events, text = 0, b""
    while piece := await reader.read(65536):
        text = (text + piece)[-64:]
        events += piece.count(b"data: ")
        if ask.leaves_after is not None and events >= ask.leaves_after:
            return Reply("left", status)
    return Reply("served" if b"[DONE]" in text else "failed", status)
