"""A process that writes records, and says on standard output which of them were accepted.

    python audit_writer.py PATH OPTIONS        options: a JSON object

Options: `count` of records, how many callers write `at_once`, `fsync`, a `spool`, a `limit` on the size of files in bytes, whether records
are `put` and the process waits for SIGTERM, `size` of a record in bytes.
"""

import json
import os
import resource
import signal
import sys

import anyio

from llm_authmw.errors import SinkError
from llm_authmw.sinks.file import FileSink
from llm_authmw.testing.places import make_record


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def main(path: str, options: dict[str, object]) -> None:
    spool = options.get("spool")
    sink = FileSink(path, fsync=bool(options.get("fsync")), deadline=5, spool=None if spool is None else str(spool), queue=100_000)
    await sink.start()
    padding = "x" * int(str(options.get("size", 0)))
    count, at_once = int(str(options.get("count", 10**9))), int(str(options.get("at_once", 1)))

    async def write(first: int) -> None:
        for number in range(first, count, at_once):
            name = f"{os.getpid()}-{number}"
            try:
                await sink.accept(make_record(id=name, path=f"/v1/{padding}"))
            except SinkError as error:
                say("refused", name, error)
                await anyio.sleep(0.01)
            else:
                say("accepted", name)

    async def burst() -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            for number in range(count):
                sink.put(make_record(id=f"{os.getpid()}-{number}"))
            say("put", count)
            async for _ in signals:
                break
        await sink.aclose()
        say("lost", next(reading.value for reading in sink.readings() if reading.name == "audit_records_lost"))

    if options.get("put"):
        await burst()
        return
    async with anyio.create_task_group() as tasks:
        for first in range(at_once):
            tasks.start_soon(write, first)
    await sink.aclose()


def make_room(*_: object) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


chosen = json.loads(sys.argv[2])
if "limit" in chosen:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (chosen["limit"], resource.RLIM_INFINITY))
    # Somebody makes room as soon as they are told.
    signal.signal(signal.SIGUSR1, make_room)
anyio.run(main, sys.argv[1], chosen)
