"""The workers: real servers, one process each, that are killed and started again while the load goes on."""

import asyncio
import contextlib
import sys
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from llm_authmw.testing.servers import RunningServer, serve

ROOT: Final = Path(__file__).parents[2]


@dataclass(frozen=True)
class Program:
    """What the workers run.

    Attributes:
        app: `module:name`.
        env: Environment variables on top of this process's own.
        ready: The path that is asked until there is an answer.
        options: More arguments for the server.
        python: The interpreter.
        time_limit: Seconds until it must answer.
    """

    app: str
    env: Mapping[str, str]
    ready: str = "/"
    options: Sequence[str] = ("--factory",)
    python: str = sys.executable
    time_limit: float = 60.0


class Worker:
    """One of the workers.

    Args:
        program: What it runs.
        running: What ends it with the run.
    """

    def __init__(self, program: Program, running: ExitStack) -> None:
        self._program: Final = program
        self._running: Final = running
        self._server: RunningServer | None = None

    @property
    def port(self) -> int | None:
        """Where it listens; None while it is away."""
        return None if self._server is None else self._server.port

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = self._program
        self._server = self._running.enter_context(
            serve(
                program.app,
                directory=ROOT,
                env=program.env,
                options=program.options,
                ready=program.ready,
                time_limit=program.time_limit,
                python=program.python,
            )
        )

    async def kill(self) -> None:
        """Kill it without a word, and start it again."""
        server, self._server = self._server, None
        if server is not None:
            server.process.kill()
            await asyncio.to_thread(server.process.wait)
        await asyncio.to_thread(self.start)


@contextlib.contextmanager
def workers(program: Program, number: int) -> Generator[list[Worker]]:
    """Start workers, and end them with the block."""
    with ExitStack() as running, ThreadPoolExecutor(number) as threads:
        started = [Worker(program, running) for _ in range(number)]
        list(threads.map(Worker.start, started))
        yield started
