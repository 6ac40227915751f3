"""What a whole stack costs around a chat: its 2 KB read, judged, bounded and priced, and its answer metered, settled and recorded.

    python -m benchmarks.stack [--rounds 21] [--calls 1000]

Each row has one layer more than the row above it; the last one has another `AuditMiddleware` in the place of the one before. All is in one
process and in memory, without sockets, in interleaved rounds, µs of process CPU; every answer is checked once. Four buckets are claimed for
the rates, and four for the budgets.
"""

import argparse
import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from fastapi import FastAPI, Request
from starlette.middleware import Middleware

from benchmarks.layers import App, discard, scope_with
from benchmarks.rounds import Case, difference, pin_to_one_core, ratio, run_rounds
from llm_authmw import (
    AuditMiddleware,
    BudgetMiddleware,
    FileSink,
    KeyAuthMiddleware,
    Price,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    open_store,
)

CHUNKS: Final = 200
ASKED: Final[dict[str, Any]] = {"model": "gpt-4o-mini", "max_tokens": 200, "messages": [{"role": "user", "content": "x" * 1900}]}
CHAT: Final = msgspec.json.encode(ASKED)
STREAM: Final = msgspec.json.encode({**ASKED, "stream": True, "stream_options": {"include_usage": True}})
USAGE: Final = {"prompt_tokens": 480, "completion_tokens": 75, "total_tokens": 555}
ANSWER: Final[dict[str, Any]] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1_800_000_000,
    "model": "gpt-4o-mini",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "y" * 300}, "finish_reason": "stop"}],
    "usage": USAGE,
}
TEXT: Final = msgspec.json.encode(ANSWER)
EVENT: Final = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word"}}],"usage":null}\n\n'
)
LAST: Final = b'data: {"id":"chatcmpl-1","choices":[],"usage":%b}\n\ndata: [DONE]\n\n' % msgspec.json.encode(USAGE)


async def bare(_: Any, receive: Any, send: Any) -> None:
    message = await receive()
    if b'"stream":true' not in message["body"]:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(TEXT))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": TEXT})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    await send({"type": "http.response.body", "body": LAST, "more_body": False})


def fastapi_app() -> FastAPI:
    app = FastAPI(openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        await request.json()
        return ANSWER

    return app


def asking(app: App, scope: dict[str, Any], body: bytes) -> Case:
    headers = [line for line in scope["headers"] if line[0] != b"content-length"]
    scope = {**scope, "headers": [*headers, (b"content-length", b"%d" % len(body))]}

    async def ask() -> None:
        messages = iter(({"type": "http.request", "body": body, "more_body": False},))

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})

        await app(dict(scope), receive, discard)

    return ask


async def check(name: str, case: App, scope: dict[str, Any]) -> None:
    """Exit where an answer is not the one that is measured."""
    statuses: list[int] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": CHAT, "more_body": False}

    async def look(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await case(dict(scope), receive, look)
    if statuses != [200]:
        raise SystemExit(f"{name} answered {statuses}")


async def main(rounds: int, calls: int, folder: Path) -> None:
    store = open_store("memory://")
    created = await store.keys.create(name="bench", user="ada", team="blue", roles=["member"])
    put, accepted = (FileSink(folder / name, fsync=False) for name in ("put.jsonl", "accepted.jsonl"))
    rates = {
        "key": ["1_000_000_000 requests/minute", "1_000_000_000_000 tokens/minute"],
        "team": ["1_000_000_000_000 tokens/hour"],
        "user": ["100 concurrent"],
    }
    budgets = {"key": ["100_000 usd/day", "1_000_000 usd/month"], "team": ["1_000_000 usd/day"], "global": ["9_000_000 usd/month"]}
    layers = {
        "KeyAuthMiddleware": Middleware(KeyAuthMiddleware, keys=store.keys),
        "+ RBACMiddleware, by model": Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-4o*"])}),
        "+ RateLimitMiddleware": Middleware(RateLimitMiddleware, ledger=store.ledger, limits=rates),
        "+ BudgetMiddleware": Middleware(BudgetMiddleware, ledger=store.ledger, limits=budgets, prices={"*": Price(input="1", output="2")}),
    }
    apps: dict[str, App] = {"bare ASGI app": bare, "FastAPI route that reads JSON": fastapi_app()}
    stacked: Sequence[Middleware] = ()
    for name, layer in layers.items():
        stacked = (*stacked, layer)
        apps[name] = Stack(*stacked)(bare)
    apps["+ AuditMiddleware, best effort"] = Stack(Middleware(AuditMiddleware, sink=put), *stacked)(bare)
    apps["+ AuditMiddleware, required"] = Stack(Middleware(AuditMiddleware, sink=accepted, mode="required"), *stacked)(bare)
    scope = scope_with(f"Bearer {created.key}")
    for sink in (put, accepted):
        await sink.start()
    for name, app in apps.items():
        await check(name, app, scope)

    cases = {name: asking(app, scope, CHAT) for name, app in apps.items()}
    timings = await run_rounds(cases, rounds=rounds, calls=calls, between=put.aclose)
    base = above = timings["bare ASGI app"]
    print(f"\nA chat in process, µs of CPU ({rounds} rounds of {calls} calls)\n")
    print("| stack | µs | above bare | above the row before | × FastAPI route | IQR |\n|---|---:|---:|---:|---:|---:|")
    route = timings["FastAPI route that reads JSON"]
    for name, timing in timings.items():
        more, part = difference(timing, base), ratio(timing, route)
        print(f"| {name} | {timing.median:.1f} | {more:+.1f} | {difference(timing, above):+.1f} | {part:.2f} | {timing.spread:.0f} % |")
        above = base if timing is route else timing

    streams = {name: asking(app, scope, STREAM) for name, app in apps.items() if app is not apps["FastAPI route that reads JSON"]}
    streamed = await run_rounds(streams, rounds=rounds, calls=calls // 20, between=put.aclose)
    first = streamed["bare ASGI app"]
    print(f"\nOne chunk of {len(EVENT)} bytes, of a stream of {CHUNKS}: ns, the request's own cost taken off\n")
    print("| stack | ns above bare |\n|---|---:|")
    for name in streams:
        more = difference(streamed[name], first) - difference(timings[name], base)
        print(f"| {name} | {1000 * more / CHUNKS:+.0f} |")
    for sink in (put, accepted):
        await sink.aclose()
    await store.aclose()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    pin_to_one_core()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(options.rounds, options.calls, Path(folder)))
