"""The newest entries of the audit trail in memory, and what was used on the newest days."""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from llm_authmw.errors import ConflictError
from llm_authmw.stores.trail.report import Report, days_of, filters_of
from llm_authmw.stores.trail.retention import removable
from llm_authmw.stores.trail.sums import Combination, Holder, Sum, Sums, placed, places, sums_of
from llm_authmw.stores.trail.terms import TAKEN, end_user_term, personal_terms_of, storable, stored_entry, terms_of, user_term, wanted_terms
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import RecordQuery, StoredEntry, UsageQuery, UsageRow

MAX_ENTRIES: Final = 10_000
"""Entries that are kept; beyond that the oldest go."""
MAX_KEPT_SUMS: Final = 50_000
"""Sums that are kept; beyond that the oldest days go."""


class _Kept(msgspec.Struct):
    """An entry, as a row of a database would have it."""

    entry: Entry
    terms: frozenset[str]
    personal: frozenset[str]


class MemoryAudit:
    """See `AuditStore` and `UsageStore`."""

    def __init__(self) -> None:
        self._lock: Final = threading.Lock()
        self._entries: Final[dict[int, _Kept]] = {}
        """By position, the oldest first."""
        self._present: Final[dict[tuple[str, int], str]] = {}
        """The hashes of entries, by writer and sequence."""
        self._last: int = 0
        self._sums: Final[Sums] = {}
        self._of_holder: Final[Counter[Holder]] = Counter()
        self._of_day: Final[Counter[tuple[str, int]]] = Counter()

    @property
    def durable(self) -> bool:
        """See `TrailStore`."""
        return False

    async def start(self) -> None:
        """There is nothing to open."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """See `AuditStore`."""
        with self._lock:
            given = {(entry.writer, entry.sequence): entry for entry in entries}
            if any(self._present.get(key, entry.hash) != entry.hash for key, entry in given.items()):
                raise ConflictError(TAKEN)
            new = [entry for key, entry in given.items() if key not in self._present]
            for entry in new:
                self._last += 1
                record = entry.record
                kept = _Kept(entry, frozenset(terms_of(record)), frozenset(personal_terms_of(record)))
                self._entries[self._last] = kept
                self._present[entry.writer, entry.sequence] = entry.hash
            for position in list(self._entries)[: max(0, len(self._entries) - MAX_ENTRIES)]:
                self._drop(position)
            self._count(sums_of([entry.record for entry in new]))

    async def search(self, query: RecordQuery) -> Sequence[StoredEntry]:
        """See `AuditStore`."""
        with self._lock:
            terms = wanted_terms(query)
            found = [
                (position, kept)
                for position, kept in self._entries.items()
                if _is_wanted(query, position, kept) and all(term in kept.terms or term in kept.personal for term in terms)
            ]
        if query.newest_first:
            found.reverse()
        return [_stored(position, kept.entry) for position, kept in found[: query.limit]]

    async def forget(self, tenant: str, user: str, *, realm: str | None = None) -> int:
        """See `AuditStore`."""
        with self._lock:
            found = [kept for kept in self._entries.values() if _is_of(kept, tenant, user, realm)]
            for kept in found:
                record = msgspec.structs.replace(kept.entry.record, person=None)
                kept.entry = msgspec.structs.replace(kept.entry, person=None, record=record)
                kept.personal = frozenset()
            self._forget_sums(tenant, user, realm)
        return len(found)

    async def prune(self, before: int) -> int:
        """See `AuditStore`."""
        with self._lock:
            by_writer: dict[str, list[tuple[int, _Kept]]] = {}
            for position, kept in self._entries.items():
                by_writer.setdefault(kept.entry.writer, []).append((position, kept))
            gone: list[int] = []
            for chain in by_writer.values():
                chain.sort(key=lambda item: item[1].entry.sequence)
                count = removable([(kept.entry.record.time, kept.entry.record.kind) for _, kept in chain], before)
                gone += [position for position, _ in chain[:count]]
            for position in gone:
                self._drop(position)
        return len(gone)

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """See `UsageStore`."""
        report = Report(query)
        with self._lock:
            report.add(self._wanted_sums(query))
        return report.rows()

    def _drop(self, position: int) -> None:
        entry = self._entries.pop(position).entry
        self._present.pop((entry.writer, entry.sequence), None)

    def _count(self, sums: Sums) -> None:
        known = {place for combination in sums for place in places(combination) if place in self._sums}
        for combination, used in placed(sums, known, self._of_holder, self._of_day).items():
            self._sums.setdefault(combination, Sum()).add(used)
        while len(self._sums) > MAX_KEPT_SUMS:
            days = {combination.holder.day for combination in self._sums}
            if len(days) == 1:
                return
            for combination in [one for one in self._sums if one.holder.day == min(days)]:
                self._take(combination)

    def _take(self, combination: Combination) -> Sum:
        self._of_holder[combination.holder] -= 1
        self._of_day[combination.holder[:2]] -= 1
        return self._sums.pop(combination)

    def _wanted_sums(self, query: UsageQuery) -> Iterator[tuple[Combination, Sum]]:
        first, last = days_of(query)
        wanted = filters_of(query)
        for combination, used in self._sums.items():
            holder = combination.holder
            if first <= holder.day <= last and all(
                (combination.model if name == "model" else getattr(holder, name)) == value for name, value in wanted.items()
            ):
                yield combination, used

    def _forget_sums(self, tenant: str, user: str, realm: str | None) -> None:
        tenant, user = storable(tenant), storable(user)
        for combination in [one for one in self._sums if one.holder[0] == tenant and one.holder.user == user]:
            if realm is None or combination.holder.realm == storable(realm):
                used, nameless = self._take(combination), combination.without_user()
                if nameless not in self._sums:
                    self._sums[nameless] = Sum()
                    self._of_holder[nameless.holder] += 1
                    self._of_day[nameless.holder[:2]] += 1
                self._sums[nameless].add(used)


def _is_wanted(query: RecordQuery, position: int, kept: _Kept) -> bool:
    record = kept.entry.record
    return (
        (query.after is None or position > query.after)
        and (query.before is None or position < query.before)
        and (query.since is None or record.time >= query.since)
        and (query.until is None or record.time < query.until)
        and (not query.kinds or record.kind in query.kinds)
        and (query.tenant is None or (record.who is not None and record.who.tenant == query.tenant))
        and (query.outcome is None or record.outcome == query.outcome)
    )


def _is_of(kept: _Kept, tenant: str, user: str, realm: str | None) -> bool:
    who = kept.entry.record.who
    if who is None or who.tenant != tenant:
        return False
    of_user = user_term(user) in kept.personal and realm in (None, who.realm)
    return of_user or end_user_term(user) in kept.personal


def _stored(position: int, entry: Entry) -> StoredEntry:
    return stored_entry(position, entry.writer, entry.sequence, entry.hash, entry.sealed, entry.person)
