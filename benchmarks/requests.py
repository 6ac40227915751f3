"""What the request lens costs: µs per body, beside a bare typed decode of the same fields.

    python -m benchmarks.requests [--rounds 21]

Compact bodies are what SDKs send, spaced ones what Python's `json.dumps` writes; the messages are plain text.
"""

import argparse
import asyncio
import json
from typing import Any

import msgspec

from benchmarks.rounds import Case, pin_to_one_core, ratio, run_rounds
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.reading import READERS
from llm_authmw.llm.requests import read_request

FOUND = Operations().find("POST", "/v1/chat/completions")
SIZES = {"2 KB": (4, 2_000, 2000), "20 KB": (40, 20_000, 400), "200 KB": (400, 200_000, 40)}


def body(messages: int, size: int, *, spaced: bool) -> bytes:
    content = "lorem ipsum " * (size // messages // 12)
    request = {
        "model": "gpt-4o-mini",
        "messages": [{"role": "user", "content": content}] * messages,
        "stream": True,
        "max_tokens": 100,
        "user": "ada",
        "temperature": 0.5,
    }
    return json.dumps(request, separators=None if spaced else (",", ":")).encode()


# Fields that the lens reads, as far as a struct can have them.
TYPED = msgspec.json.Decoder(msgspec.defstruct("Body", [(name, Any, None) for name in sorted(READERS) if name.isidentifier()])).decode
EVERYTHING = msgspec.json.Decoder().decode


def cases(text: bytes) -> dict[str, Case]:
    if read_request(FOUND, content_type=b"application/json", body=text).models != ("gpt-4o-mini",):
        raise SystemExit("the lens did not find the model")

    async def typed() -> None:
        TYPED(text)

    async def lens() -> None:
        read_request(FOUND, content_type=b"application/json", body=text)

    async def everything() -> None:
        EVERYTHING(text)

    async def stdlib() -> None:
        json.loads(text)

    return {
        "bare msgspec, the same fields": typed,
        "the lens": lens,
        "bare msgspec, everything": everything,
        "json.loads": stdlib,
    }


async def main(rounds: int) -> None:
    print("| body | case | µs | × the bare decode | IQR |\n|---|---|---:|---:|---:|")
    for size, (messages, length, calls) in SIZES.items():
        for spaced in (False, True):
            timings = await run_rounds(cases(body(messages, length, spaced=spaced)), rounds=rounds, calls=calls)
            base = timings["bare msgspec, the same fields"]
            for timing in timings.values():
                shape = f"{size}, {'spaced' if spaced else 'compact'}"
                print(f"| {shape} | {timing.name} | {timing.median:.1f} | {ratio(timing, base):.1f} | {timing.spread:.0f} % |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    pin_to_one_core()
    asyncio.run(main(parser.parse_args().rounds))
