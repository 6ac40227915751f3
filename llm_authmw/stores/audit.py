"""`StoreAudit`: what `store.audit` is, the audit trail in the store itself."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol, Unpack

from llm_authmw.background import Background, logger
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, ConflictError, SinkError, StoreError
from llm_authmw.resource import Resource
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.telemetry import asking
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import AuditStore, RecordQuery, StoredEntry, UsageStore

_DAY: Final = 86_400_000_000
_PRUNED_EVERY: Final = 3600.0
"""Seconds after which a process that writes looks once more for what is too old."""


class TrailStore(AuditStore, UsageStore, Protocol):
    """The audit trail of one backend, and the sums of use. Nothing is opened before it is first used."""

    @property
    def durable(self) -> bool:
        """Whether what it keeps survives the end of this process, however it ends."""
        ...

    async def start(self) -> None:
        """Open it; starting twice is starting once.

        Raises:
            StoreError: it cannot be opened.
        """


class StoreAudit(AuditSink):
    """The audit trail in a store: records are written to it as to every sink, and can be searched.

    Args:
        entries: Where they are kept.
        keep: Days after which entries are removed, in the background; None keeps them until `prune` is called.
        resource: What `Stack` starts and closes with the app.
        options: See `AuditSink`.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self, entries: TrailStore, *, keep: float | None = None, resource: Resource | None = None, **options: Unpack[SinkOptions]
    ) -> None:
        clock = options.get("clock", SYSTEM_CLOCK)
        if options.get("format", "json") != "json":
            raise ConfigurationError("format", "is 'json' in a store: events of OCSF name persons all over, and could not forget one")
        super().__init__(_StoreTransport(entries, keep, clock), **options)
        self._now: Final = clock.now
        self.resource: Final[Resource | None] = resource
        self._entries: Final = entries

    async def search(self, query: RecordQuery) -> Sequence[StoredEntry]:
        """Return the entries that a query wants. What waits to be written is not among them yet.

        Raises:
            StoreError: the store cannot be read.
        """
        return await self._entries.search(query)

    async def forget(self, tenant: str, user: str, *, realm: str | None = None) -> int:
        """Forget a person: take what says who it is out of every entry whose user or end user this is, and out of the sums of use.

        The chain stays verifiable. What still waits to be written is not forgotten: do this once more, later.

        Args:
            tenant: Of which tenant.
            user: The user, or the end user, by name.
            realm: Where the name means one person; left out: wherever there is one of this name. End users have none.

        Returns:
            How many entries that were.

        Raises:
            StoreError: the store cannot be written; some of it may be done.
        """
        return await self._entries.forget(tenant, user, realm=realm)

    async def prune(self, before: int) -> int:
        """Remove entries of before a moment, of each writer its oldest ones, up to a checkpoint. Sums of use stay.

        Args:
            before: Microseconds since 1970. Entries of the last day stay, whatever it is: their writers may be going on with their chains.

        Returns:
            How many entries that were.

        Raises:
            StoreError: the store cannot be written; some of it may be done.
        """
        return await self._entries.prune(min(before, int(self._now() * 1_000_000) - _DAY))


class _StoreTransport:
    """A store as a place that records are written to."""

    def __init__(self, entries: TrailStore, keep: float | None, clock: Clock) -> None:
        if keep is not None and not 1 <= keep < math.inf:
            raise ConfigurationError("audit_keep", "is a number of days, 1 or more")
        self._entries: Final = entries
        self._keep: Final = keep
        self._clock: Final = clock
        self._pruned_at: float = -math.inf
        self._background: Final = Background()

    def __repr__(self) -> str:
        return "store"

    @property
    def durable(self) -> bool:
        """See `Transport`."""
        return self._entries.durable

    async def write(self, entries: Sequence[Entry]) -> None:
        """See `Transport`."""
        try:
            await asking("audit", "append", partial(self._entries.append, entries), monotonic=self._clock.monotonic)
        except ConflictError as error:
            raise SinkError(str(error), permanent=True) from error
        except StoreError as error:
            raise SinkError(str(error)) from error
        now = self._clock.monotonic()
        if self._keep is not None and now >= self._pruned_at + _PRUNED_EVERY:
            self._pruned_at = now
            self._background.start(self._prune)

    async def start(self) -> None:
        """See `Transport`."""
        try:
            await self._entries.start()
        except StoreError as error:
            raise SinkError(str(error)) from error

    async def aclose(self) -> None:
        """See `Transport`. The store closes what it has open itself."""
        await self._background.aclose()

    def forked(self) -> None:
        """See `Transport`. A store notices that by itself."""

    async def _prune(self) -> None:
        before = self._clock.now() * 1_000_000 - (self._keep or 0) * _DAY
        try:
            await self._entries.prune(int(before))
        except StoreError as error:
            logger.warning("old entries of the audit trail could not be removed, and will be in an hour: %s", error)
