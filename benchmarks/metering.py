"""What the metering of a streamed chunk costs, beside a bare pass-through: ns per chunk.

    python -m benchmarks.metering [--rounds 21]

A chunk is one event, as servers send them. The pass-through is the call of a function that does nothing with the chunk.
"""

import argparse
import asyncio
import json
from collections.abc import Callable

from benchmarks.rounds import Case, difference, pin_to_one_core, run_rounds
from llm_authmw.call import LLMCall
from llm_authmw.llm.meter import Meter

EVENTS = 400
SSE = [(b"content-type", b"text/event-stream")]


def chat(usage: object = None, *, content: str | None = " word") -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": None}]
    head = {"id": "chatcmpl-CkVq", "object": "chat.completion.chunk", "created": 1800000000, "model": "gpt-4o-2024-08-06"}
    chunk = {**head, "service_tier": "default", "system_fingerprint": "fp_3fb", "choices": choices, "usage": usage, "obfuscation": "x3Qp"}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def anthropic() -> bytes:
    event = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " some words"}}
    return b"event: content_block_delta\ndata: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def halves(chunks: list[bytes]) -> list[bytes]:
    return [piece for chunk in chunks for piece in (chunk[:100], chunk[100:])]


STREAMS = {
    "OpenAI's chat": [chat()] * EVENTS,
    "Anthropic's messages": [anthropic()] * EVENTS,
    "OpenAI's chat, each event in two chunks": halves([chat()] * (EVENTS // 2)),
    "OpenAI's chat, usage in every event": [chat({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14})] * EVENTS,
}


def passing(chunks: list[bytes], shown: Callable[[], "Meter | Bare"]) -> Case:
    async def pass_all() -> None:
        shown_to = shown()
        for chunk in chunks:
            shown_to.feed(chunk)

    return pass_all


class Bare:
    def feed(self, chunk: bytes) -> None:
        return None


def metered() -> Meter:
    meter = Meter(LLMCall(dialect="openai", operation="chat", streaming=True))
    meter.start(SSE)
    return meter


async def main(rounds: int) -> None:
    print("| stream | bytes a chunk | bare, ns | metered, ns more | IQR |\n|---|---:|---:|---:|---:|")
    for name, chunks in STREAMS.items():
        cases = {"bare": passing(chunks, Bare), "metered": passing(chunks, metered)}
        timings = await run_rounds(cases, rounds=rounds, calls=10)
        base, timing = timings["bare"], timings["metered"]
        more = 1000 * difference(timing, base) / len(chunks)
        size = sum(map(len, chunks)) // len(chunks)
        print(f"| {name} | {size} | {1000 * base.median / len(chunks):.0f} | {more:.0f} | {timing.spread:.0f} % |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    pin_to_one_core()
    asyncio.run(main(parser.parse_args().rounds))
