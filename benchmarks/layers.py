"""What a layer costs: µs above a bare ASGI app, warm and cold, and ns per streamed chunk.

    python -m benchmarks.layers [--rounds 21] [--calls 2000]

Every case answers the same request in the same process, without sockets, in interleaved rounds; each answer is checked once, so
that a broken case does not look fast. Ratios are good; absolute figures are this machine's, today.
"""

import argparse
import asyncio
import gc
import tempfile
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import APIKeyHeader
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import Response

from benchmarks.rounds import Case, difference, pin_to_one_core, ratio, run_rounds
from llm_authmw import (
    AccountRef,
    AccountService,
    AuditGate,
    AuditMiddleware,
    BruteForceMiddleware,
    FileSink,
    KeyAuthMiddleware,
    KeyRecord,
    KeyService,
    Limit,
    Policy,
    PolicyRouter,
    RateLimitMiddleware,
    RBACMiddleware,
    Role,
    Stack,
    open_store,
)
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK
from llm_authmw.identity import ReadsIdentity
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.hashing import Peppers
from llm_authmw.keys.protocols import KeyUse
from llm_authmw.keys.records import KeySecret, StoredKey
from llm_authmw.keys.verifier import KeyVerifier
from llm_authmw.sinks.queue import Deferred
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.testing.records import KeptRecords

App = Callable[[Any, Any, Any], Awaitable[None]]

CHUNKS = 200
BODY = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"%s"}]}' % (b"x" * 1980)
MASTER = "sk-aB3dE6gH9jK2mN5pQ8sT1vW4yZ7cF0xR"


async def bare(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


async def streaming(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for _ in range(CHUNKS):
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class KeyBackend(AuthenticationBackend):
    """What one writes with Starlette's own layer: the header, and a dictionary."""

    def __init__(self, key: str) -> None:
        self._users = {key: SimpleUser("ada")}

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        user = self._users.get(conn.headers.get("authorization", "").removeprefix("Bearer "))
        return None if user is None else (AuthCredentials(["authenticated"]), user)


def fastapi_app(key: str | None) -> FastAPI:
    """A FastAPI route, alone or behind a `Depends` that checks the key."""
    header = APIKeyHeader(name="authorization")

    async def check(presented: Annotated[str, Depends(header)]) -> None:
        if presented != f"Bearer {key}":
            raise HTTPException(401)

    app = FastAPI(dependencies=[] if key is None else [Depends(check)], openapi_url=None)

    @app.post("/v1/chat/completions")
    async def chat() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(b"ok")

    return app


def scope_with(authorization: str | None) -> dict[str, Any]:
    headers = [
        (b"host", b"127.0.0.1:8000"),
        (b"accept-encoding", b"gzip, deflate"),
        (b"accept", b"application/json"),
        (b"content-type", b"application/json"),
        (b"user-agent", b"OpenAI/Python 3.52.0"),
        (b"x-stainless-lang", b"python"),
        (b"content-length", b"2048"),
    ]
    if authorization is not None:
        headers.append((b"authorization", authorization.encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": BODY, "more_body": False}


async def discard(message: Any) -> None:
    return


async def case(app: App, authorization: str | None, *, status: int, before: Callable[[], None] | None = None) -> Case:
    """One request to an app, whose answer is checked once."""
    scope = scope_with(authorization)
    statuses: list[int] = []

    async def look(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app(dict(scope), receive, look)
    if statuses != [status]:
        raise SystemExit(f"a case answered {statuses} instead of {status}")

    async def run() -> None:
        if before is not None:
            before()
        await app(dict(scope), receive, discard)

    return run


async def attacked(guarded: App, network: str, key: str) -> BruteForceMiddleware:
    """The defence once a key was good, and a network was locked out."""
    # For a day, so that it does not end while it is measured.
    limits = {"address": ["1 requests/day, burst 1"]}
    defence = BruteForceMiddleware(guarded, ledger=open_store("memory://").ledger, limits=limits)
    await defence(scope_with(f"Bearer {key}"), receive, discard)
    for _ in range(2):
        await defence({**scope_with(f"Bearer {mint_key().text}"), "client": (network, 50000)}, receive, discard)
    return defence


async def table(keys: KeyService, follower: ChangeFollower, *, rounds: int, calls: int) -> None:
    created = await keys.create(name="bench", user="ada", team="blue", roles=["member"])
    key = created.key or ""
    guarded = KeyAuthMiddleware(bare, keys=keys)
    with_master = KeyAuthMiddleware(bare, keys=keys, master_key=MASTER)
    unknown = mint_key().text
    by_route = RBACMiddleware(bare, roles={"member": Role(routes=["/v1/**"], models=["*"], tools=["*"])})
    by_model = RBACMiddleware(bare, roles={"member": Role(routes=["/v1/**"], models=["gpt-4o*"])})
    ledger = open_store("memory://").ledger
    four: dict[str, list[str]] = {
        "caller": ["100_000_000 requests/minute", "1000 concurrent"],
        "team": ["100_000_000 requests/minute"],
        "key": ["1_000_000_000 requests/day, calendar"],
    }
    silent = RateLimitMiddleware(bare, ledger=ledger, limits=four, headers=[])
    telling = RateLimitMiddleware(bare, ledger=ledger, limits=four)

    defended = BruteForceMiddleware(guarded, ledger=open_store("memory://").ledger)
    beside, under_attack = await attacked(guarded, "203.0.113.7", key), await attacked(guarded, "127.0.0.1", key)

    sink = Discarding()
    recorded = AuditMiddleware(bare, sink=sink)
    fast = {
        "bare ASGI app": await case(bare, None, status=200),
        "AuditMiddleware, best effort": await case(recorded, None, status=200),
        "AuditMiddleware and KeyAuthMiddleware, warm key": await case(AuditMiddleware(guarded, sink=sink), f"Bearer {key}", status=200),
        "KeyAuthMiddleware, warm key": await case(guarded, f"Bearer {key}", status=200),
        "KeyAuthMiddleware, warm key, with a master key": await case(with_master, f"Bearer {key}", status=200),
        "KeyAuthMiddleware and RBACMiddleware, by route": await case(KeyAuthMiddleware(by_route, keys=keys), f"Bearer {key}", status=200),
        f"KeyAuthMiddleware and RBACMiddleware, by model, {len(BODY)} bytes of body": await case(
            KeyAuthMiddleware(by_model, keys=keys), f"Bearer {key}", status=200
        ),
        "KeyAuthMiddleware and RateLimitMiddleware, four limits, memory": await case(
            KeyAuthMiddleware(silent, keys=keys), f"Bearer {key}", status=200
        ),
        "the same, which tells what is left": await case(KeyAuthMiddleware(telling, keys=keys), f"Bearer {key}", status=200),
        "BruteForceMiddleware and KeyAuthMiddleware": await case(defended, f"Bearer {key}", status=200),
        "the same, while another network is locked out": await case(beside, f"Bearer {key}", status=200),
        "the same, while its own network is": await case(under_attack, f"Bearer {key}", status=200),
        "refused: locked out, not judged": await case(under_attack, f"Bearer {unknown}", status=429),
        "refused: no credential": await case(guarded, None, status=401),
        "refused: malformed key": await case(guarded, f"Bearer {key[:-1]}!", status=401),
        "refused: unknown key, remembered": await case(guarded, f"Bearer {unknown}", status=401),
        "Starlette AuthenticationMiddleware, dictionary": await case(
            AuthenticationMiddleware(bare, backend=KeyBackend(key)), f"Bearer {key}", status=200
        ),
        "FastAPI route": await case(fastapi_app(None), None, status=200),
        "FastAPI route, Depends key check": await case(fastapi_app(key), f"Bearer {key}", status=200),
    }
    timings = await run_rounds(fast, rounds=rounds, calls=calls)
    base = timings["bare ASGI app"]
    print(f"\nOne request in process, µs of CPU ({rounds} rounds of {calls} calls)\n")
    print("| case | µs | above bare | × bare | IQR |\n|---|---:|---:|---:|---:|")
    for timing in timings.values():
        print(
            f"| {timing.name} | {timing.median:.2f} | {difference(timing, base):+.2f} | {ratio(timing, base):.1f} | {timing.spread:.0f} % |"
        )
    route = timings["FastAPI route"]
    depends = difference(timings["FastAPI route, Depends key check"], route)
    print(f"\nThe `Depends` check adds {depends:.1f} µs to its route.")

    def forget() -> None:
        follower.announce(Changes(cursor=0, keys=None))

    cold = {
        "bare ASGI app": await case(bare, None, status=200),
        "cold key": await case(guarded, f"Bearer {key}", status=200, before=forget),
        "cold unknown key": await case(guarded, f"Bearer {unknown}", status=401, before=forget),
    }
    timings = await run_rounds(cold, rounds=rounds, calls=max(50, calls // 20))
    base = timings["bare ASGI app"]
    print("\nNothing remembered, SQLite store, µs of CPU\n\n| case | above bare | IQR |\n|---|---:|---:|")
    for name in list(cold)[1:]:
        print(f"| {name} | {difference(timings[name], base):+.0f} | {timings[name].spread:.0f} % |")

    streams = {
        "bare": await case(streaming, None, status=200),
        "AuditMiddleware": await case(AuditMiddleware(streaming, sink=sink), None, status=200),
        "KeyAuthMiddleware": await case(KeyAuthMiddleware(streaming, keys=keys), f"Bearer {key}", status=200),
    }
    timings = await run_rounds(streams, rounds=rounds, calls=max(50, calls // 20))
    per_chunk = {name: difference(timings[name], timings["bare"]) / CHUNKS * 1000 for name in list(streams)[1:]}
    behind = ", ".join(f"{nanoseconds:+.0f} ns behind {name}" for name, nanoseconds in per_chunk.items())
    print(f"\nOne streamed chunk: {timings['bare'].median / CHUNKS * 1000:.0f} ns bare, {behind}")
    await records(rounds=rounds, calls=calls)


class Discarding(KeptRecords):
    """A sink that takes what it is given, and makes no record of it: what is left is what is on the path of a request."""

    def put(self, record: Deferred) -> None:
        return


class Collecting(KeptRecords):
    """A sink that keeps what it is given as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Deferred] = []

    def put(self, record: Deferred) -> None:
        self.kept.append(record)


async def records(*, rounds: int, calls: int) -> None:
    """What it costs, off the path, to make a record of what was noted; and, on it, to have a file accept intent and outcome."""
    sink = Collecting()
    one = await case(AuditMiddleware(bare, sink=sink), None, status=200)
    for _ in range(calls * 5):
        await one()
    began = time.process_time_ns()
    for notes in sink.kept:
        notes.record()
    print(f"\nOne record made of its notes, off the path: {(time.process_time_ns() - began) / len(sink.kept) / 1000:.1f} µs")
    with tempfile.TemporaryDirectory() as folder:
        file = FileSink(Path(folder) / "audit.jsonl", fsync=False)
        await file.start()
        cases = {
            "bare": await case(bare, None, status=200),
            "required": await case(AuditMiddleware(AuditGate(bare), sink=file, mode="required"), None, status=200),
        }
        timings = await run_rounds(cases, rounds=rounds, calls=max(100, calls // 4))
        await file.aclose()
    above = difference(timings["required"], timings["bare"])
    print(f"AuditMiddleware(mode='required'), JSONL without fsync: {above:+.1f} µs for intent and outcome, the records made included")


class ManyKeys:
    """A reader that knows a key under every id, so that only what is remembered weighs anything."""

    def __init__(self) -> None:
        self.next: StoredKey | None = None

    async def find(self, key_id: str) -> StoredKey | None:
        return self.next

    async def find_imported(self, digest: bytes) -> StoredKey | None:
        return None

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        return

    async def changes(self, since: int | None) -> Changes:
        return Changes(cursor=0)


class NobodyBlocked:
    stale = False
    blocked = frozenset[AccountRef]()

    async def load(self) -> None:
        return


async def memory(count: int = 100_000) -> None:
    """What 100 000 remembered keys weigh, with roles and models shared by the keys of a team."""
    reader = ManyKeys()
    peppers = Peppers()
    verifier = KeyVerifier(reader, follower=ChangeFollower(reader, bound=3600.0), accounts=NobodyBlocked(), peppers=peppers)
    gc.collect()
    tracemalloc.start()
    for number in range(count):
        minted = mint_key()
        record = KeyRecord(
            id=minted.id,
            last_four=minted.text[-4:],
            created_at=0.0,
            user=f"user-{number}",
            team=f"team-{number % 50}",
            roles=("member", "reader"),
            models=("gpt-4o*", "claude-*"),
            limits=(Limit.parse("60 requests/minute"),),
        )
        secret = KeySecret(digest=peppers.digest(minted.text.encode()), created_at=0.0)
        reader.next = StoredKey(record=record, secrets=(secret,))
        known = await verifier.verify(minted.text.encode())
        if verifier.judge(known) is not None:
            raise SystemExit("a key that should be remembered was refused")
        await verifier.flush()
        await asyncio.sleep(0)  # so that the loop lets go of the timers of deadlines that were met
    reader.next = None
    gc.collect()
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"\n{count} remembered keys: {size / 1e6:.1f} MB ({size / count:.0f} bytes each)")
    gc.collect()
    began = time.perf_counter()
    gc.collect()
    print(f"A full garbage collection over them: {(time.perf_counter() - began) * 1000:.0f} ms")


class Waved(ReadsIdentity):
    """A layer that would decide, and lets everybody through."""

    def __init__(self, app: App) -> None:
        self.app = app

    def check_identity(self, sources: object, *, whole: bool) -> None:
        return

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


def router_of(count: int) -> PolicyRouter:
    """Return a router of so many policies, the last of which covers the request."""
    stack = Stack(Middleware(Waved))
    policies = [Policy(f"/v1/team-{number}/**", stack) for number in range(count - 1)]
    return PolicyRouter(bare, policies=[*policies, Policy("/v1/chat/*", stack)], inventory="off")


async def policies_table(*, rounds: int, calls: int) -> None:
    """What choosing a policy costs, and making a router."""
    counts = (1, 10, 100, 1000)
    cases = {"bare ASGI app, one layer": await case(Waved(bare), None, status=200)}
    made: dict[int, float] = {}
    for count in counts:
        began = time.process_time()
        router = router_of(count)
        made[count] = (time.process_time() - began) * 1000
        cases[f"PolicyRouter, {count} policies"] = await case(router, None, status=200)
    timings = await run_rounds(cases, rounds=rounds, calls=calls)
    base = timings["bare ASGI app, one layer"]
    print("\nChoosing a policy, µs of CPU\n\n| policies | above one layer | IQR | to make the router, ms |\n|---:|---:|---:|---:|")
    for count in counts:
        timing = timings[f"PolicyRouter, {count} policies"]
        print(f"| {count} | {difference(timing, base):+.2f} | {timing.spread:.0f} % | {made[count]:.0f} |")


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=21)
    arguments.add_argument("--calls", type=int, default=2000)
    given = arguments.parse_args()
    pin_to_one_core()
    with tempfile.TemporaryDirectory() as folder:
        backend = SQLiteBackend(str(Path(folder) / "bench.db"), clock=SYSTEM_CLOCK)
        # An hour's bound: what a poll costs is a row of its own, and once a second it is nothing.
        follower = ChangeFollower(backend.feed, bound=3600.0)
        accounts = AccountService(backend.accounts, follower=follower)
        peppers = Peppers("0123456789abcdef0123456789abcdef")
        verifier = KeyVerifier(backend.keys, follower=follower, accounts=accounts, peppers=peppers)
        keys = KeyService(backend.keys, follower=follower, peppers=peppers, verifier=verifier)
        await table(keys, follower, rounds=given.rounds, calls=given.calls)
        await backend.aclose()
    await policies_table(rounds=given.rounds, calls=given.calls)
    await memory()


if __name__ == "__main__":
    asyncio.run(main())
