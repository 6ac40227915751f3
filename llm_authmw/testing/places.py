"""A place that records are written to, and that goes wrong as it is told to."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio

from llm_authmw.errors import SinkError
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.record import Person, Record, Who


class Place:
    """A `Transport` that keeps entries in memory.

    Args:
        durable: Whether it says that what it takes survives the process.

    Attributes:
        entries: What it has taken, in order.
        writes: How many entries each call of `write` has brought that it has taken.
        asked: How many calls there were, the failed ones too.
        down: Whether it refuses everything.
        frozen: Whether it answers nobody, until it is thawed.
        refuses: Says which entries it refuses for good.
        closed: How often it was closed.
    """

    def __init__(self, *, durable: bool = True) -> None:
        self.durable: Final[bool] = durable
        self.entries: Final[list[Entry]] = []
        self.writes: Final[list[int]] = []
        self.asked: int = 0
        self.down: bool = False
        self.frozen: bool = False
        self.refuses: Callable[[Entry], bool] = _nothing
        self.closed: int = 0
        self._changed: anyio.Event | None = None

    def __repr__(self) -> str:
        return "place"

    @property
    def records(self) -> list[Record]:
        """The records that it has taken, but for those of the chain itself."""
        return [entry.record for entry in self.entries if entry.record.kind not in {"checkpoint", "loss"}]

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Transport`."""
        self.asked += 1
        self._tell()
        while self.frozen:
            await self._change()
        if self.down:
            raise SinkError("the place is down")
        if any(map(self.refuses, entries)):
            raise SinkError("the place refuses an entry", permanent=True)
        self.entries.extend(entries)
        self.writes.append(len(entries))
        self._tell()

    async def start(self) -> None:
        """See `Transport`."""

    async def aclose(self) -> None:
        """See `Transport`."""
        self.closed += 1

    def forked(self) -> None:
        """See `Transport`."""

    def thaw(self) -> None:
        """Let it answer again."""
        self.frozen = False
        self._tell()

    async def until(self, condition: Callable[[], bool], *, time_limit: float = 5.0) -> None:
        """Wait until something is so, which is looked at whenever the place is written to.

        Raises:
            TimeoutError: it was not within the time limit, in seconds.
        """
        with anyio.fail_after(time_limit):
            while not condition():
                await self._change()

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, None
        if changed is not None:
            changed.set()


def make_record(**changes: Any) -> Record:
    """Return a record of a request that was allowed, with other values where they are named."""
    values: dict[str, Any] = {
        "time": 1_800_000_000_000_000,
        "kind": "request",
        "id": "00c0ffee00c0ffee",
        "who": Who(tenant="acme", team="blue", method="key", credential_id="k4v7w2m9"),
        "person": Person(user="ada", address="192.0.2.7"),
        "outcome": "allowed",
        "protocol": "http",
        "verb": "POST",
        "path": "/v1/chat/completions",
        "operation": "chat",
        "models": ("gpt-5",),
        "status": 200,
        "duration": 120_000,
    }
    return Record(**{**values, **changes})


def _nothing(_: Entry) -> bool:
    return False
