"""Revocations in memory."""

import heapq
import math
import threading
from typing import Final

import msgspec

from llm_authmw.clock import Clock
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.memory.feed import MemoryFeed
from llm_authmw.tokens.revocation_records import (
    KEPT_AFTER_END,
    LiveRevocations,
    Revocation,
    RevocationPage,
    RevocationQuery,
    RevocationRef,
    merged,
)


class MemoryRevocations:
    """See `RevocationStore`."""

    def __init__(self, lock: threading.Lock, feed: MemoryFeed, clock: Clock) -> None:
        self._lock: Final = lock
        self._feed: Final = feed
        self._now: Final = clock.now
        self._revocations: Final[dict[str, Revocation]] = {}
        self._standing: Final[dict[RevocationRef, str]] = {}
        self._ends: Final[list[tuple[float, str]]] = []
        """A heap of when each revocation ends, and its id; an entry is out of date where the end was moved since."""

    async def add(self, revocation: Revocation) -> Revocation:
        """See `RevocationStore`."""
        with self._lock:
            self._purge()
            present = self._revocations.get(self._standing.get(revocation.ref, ""))
            standing = merged(present, revocation)
            if standing != present:
                self._revocations[standing.id] = standing
                self._standing[standing.ref] = standing.id
                if standing.expires_at is not None:
                    heapq.heappush(self._ends, (standing.expires_at, standing.id))
                self._feed.append("revocations", standing.id)
            return standing

    async def lift(self, revocation_id: str, *, tenant: str | None, at: float, actor: str) -> Revocation | None:
        """See `RevocationStore`."""
        with self._lock:
            self._purge()
            present = self._revocations.get(revocation_id)
            if present is None or tenant not in (None, present.tenant):
                return None
            if present.lifted_at is not None:
                return present
            lifted = msgspec.structs.replace(present, lifted_at=at, lifted_by=actor)
            self._revocations[revocation_id] = lifted
            del self._standing[lifted.ref]
            self._feed.append("revocations", revocation_id)
            return lifted

    async def query(self, query: RevocationQuery) -> RevocationPage:
        """See `RevocationStore`."""
        before = None if query.after is None else read_cursor(query.after, tuple[float, str])
        with self._lock:
            self._purge()
            found = [revocation for revocation in self._revocations.values() if _matches(revocation, query)]
        found.sort(key=_age, reverse=True)
        if before is not None:
            found = [revocation for revocation in found if _age(revocation) < before]
        page = tuple(found[: query.size])
        return RevocationPage(page, write_cursor(_age(page[-1])) if len(found) > query.size else None)

    async def live(self) -> LiveRevocations:
        """See `RevocationStore`."""
        with self._lock:
            self._purge()
            moments = {ref: self._revocations[revocation_id].issued_before for ref, revocation_id in self._standing.items()}
            return {ref: math.inf if moment is None else moment for ref, moment in moments.items()}

    def _purge(self) -> None:
        now = self._now()
        while self._ends and self._ends[0][0] <= now - KEPT_AFTER_END:
            _, revocation_id = heapq.heappop(self._ends)
            revocation = self._revocations.get(revocation_id)
            if revocation is not None and revocation.is_forgotten(now):
                del self._revocations[revocation_id]
                if revocation.lifted_at is None:
                    del self._standing[revocation.ref]


def _matches(revocation: Revocation, query: RevocationQuery) -> bool:
    return (
        query.tenant in (None, revocation.tenant)
        and query.kind in (None, revocation.kind)
        and query.issuer in (None, revocation.issuer)
        and query.value in (None, revocation.value)
        and query.lifted == (revocation.lifted_at is not None)
    )


def _age(revocation: Revocation) -> tuple[float, str]:
    return revocation.created_at, revocation.id
