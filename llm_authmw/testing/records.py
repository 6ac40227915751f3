"""A sink that keeps what it is given, to be looked at: for tests of what is recorded."""

from collections.abc import Sequence
from typing import Final

import anyio

from llm_authmw.errors import SinkError
from llm_authmw.sinks.queue import Deferred
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.record import Record


class KeptRecords(AuditSink):
    """Records in memory, in the order in which they came.

    Args:
        durable: Whether it says that what it accepts survives the process.

    Attributes:
        records: What it was given.
        accepted: Those of them that somebody waited for.
        refuses: Whether it accepts nothing from now on.
        hangs: Whether it takes for ever to accept, from now on.
    """

    def __init__(self, *, durable: bool = False, name: str = "kept") -> None:
        super().__init__(_Nowhere(), name=name)
        self._keeps: Final = durable
        self.records: Final[list[Record]] = []
        self.accepted: Final[list[Record]] = []
        self.refuses: bool = False
        self.hangs: bool = False

    @property
    def durable(self) -> bool:
        """As it was told."""
        return self._keeps

    def of(self, kind: str) -> list[Record]:
        """Return the records of one kind."""
        return [record for record in self.records if record.kind == kind]

    @property
    def request(self) -> Record:
        """The one record of a request.

        Raises:
            ValueError: there is none, or there are several.
        """
        (record,) = self.of("request")
        return record

    def put(self, record: Deferred) -> None:
        """Keep a record."""
        self.records.append(record.record())

    async def accept(self, record: Deferred, *, keep: bool = False) -> None:
        """Keep a record.

        Args:
            record: The record.
            keep: Whether one that it does not accept is among `records` all the same.

        Raises:
            SinkError: it refuses.
        """
        if keep and (self.hangs or self.refuses):
            self.records.append(record.record())
        if self.hangs:
            await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
        if self.refuses:
            raise SinkError("it refuses")
        self.accepted.append(record.record())
        self.records.append(record.record())

    async def start(self) -> None:
        """Do nothing."""

    async def aclose(self) -> None:
        """Do nothing."""


class _Nowhere:
    durable: bool = False

    async def write(self, entries: Sequence[Entry]) -> None:
        pass

    async def start(self) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def forked(self) -> None:
        pass
