"""API keys in memory."""

import threading
from collections.abc import Sequence
from typing import Final

import msgspec

from llm_authmw.clock import Clock
from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency, KeyPage, KeyQuery, KeyUse, Replay
from llm_authmw.keys.records import KeyRecord, StoredKey
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.memory.copies import copied
from llm_authmw.stores.memory.feed import MemoryFeed


class MemoryKeys:
    """See `KeyStore`."""

    def __init__(self, lock: threading.Lock, feed: MemoryFeed, clock: Clock) -> None:
        self._lock: Final = lock
        self._feed: Final = feed
        self._now: Final = clock.now
        self._keys: Final[dict[str, StoredKey]] = {}
        self._imported: Final[dict[bytes, str]] = {}
        self._history: Final[dict[str, list[bytes]]] = {}
        self._answers: Final[dict[tuple[str, str, str], tuple[Replay, float]]] = {}
        self._rehashed: Final[dict[str, dict[Digest, Digest]]] = {}

    async def find(self, key_id: str) -> StoredKey | None:
        """See `KeyReader`."""
        with self._lock:
            return _copy(self._keys.get(key_id))

    async def find_imported(self, digest: bytes) -> StoredKey | None:
        """See `KeyReader`."""
        with self._lock:
            return _copy(self._keys.get(self._imported.get(digest, "")))

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        """See `KeyReader`."""
        with self._lock:
            for use in uses:
                stored = self._keys.get(use.key_id)
                if stored is not None:
                    self._keys[use.key_id] = self._touched(stored, use)

    def _touched(self, stored: StoredKey, use: KeyUse) -> StoredKey:
        secrets = list(stored.secrets)
        for index, secret in enumerate(secrets):
            # An imported secret is found by its digest, so that must stay what it is.
            if use.rehash is not None and secret.digest == use.rehash[0] and not secret.imported:
                old, new = use.rehash
                secrets[index] = msgspec.structs.replace(secret, digest=new)
                earlier = self._rehashed.get(use.key_id, {})
                self._rehashed[use.key_id] = {**{was: now for was, now in earlier.items() if now != old}, old: new}
        record = msgspec.structs.replace(stored.record, last_used_at=_later(stored.record.last_used_at, use.at))
        return StoredKey(record=record, secrets=tuple(secrets))

    async def write(self, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None) -> Replay | bool:
        """See `KeyStore`."""
        key_id, record = stored.record.id, stored.record
        with self._lock:
            replay = None if idempotency is None else self._replay(idempotency)
            if replay is not None:
                return replay
            present = self._keys.get(key_id)
            if record.revision == 1:
                if present is not None:
                    raise ConflictError("an API key with this id exists")
            elif present is None or (present.record.tenant, present.record.revision + 1) != (record.tenant, record.revision):
                return False
            imported = {secret.digest.value for secret in stored.secrets if secret.imported}
            if any(self._imported.get(digest, key_id) != key_id for digest in imported):
                raise ConflictError("an API key with this imported secret exists")
            for secret in () if present is None else present.secrets:
                if secret.imported:
                    del self._imported[secret.digest.value]
            self._imported.update(dict.fromkeys(imported, key_id))
            self._keys[key_id] = self._merged(stored, present)
            self._history.setdefault(key_id, []).append(msgspec.json.encode(entry))
            if idempotency is not None:
                self._remember(idempotency, Replay(key_id, idempotency.fingerprint))
            self._feed.append("keys", key_id)
            return True

    def _merged(self, stored: StoredKey, present: StoredKey | None) -> StoredKey:
        """Return what is kept: as it was given, but with the uses and digests that were noted since the caller read it."""
        rehashed = self._rehashed.pop(stored.record.id, {})
        secrets = [
            secret if secret.imported else msgspec.structs.replace(secret, digest=rehashed.get(secret.digest, secret.digest))
            for secret in stored.secrets
        ]
        used = _later(stored.record.last_used_at, None if present is None else present.record.last_used_at)
        record = msgspec.structs.replace(stored.record, last_used_at=used, metadata=dict(stored.record.metadata))
        return StoredKey(record=record, secrets=tuple(secrets))

    def _remember(self, idempotency: Idempotency, replay: Replay) -> None:
        now = self._now()
        self._answers.pop(idempotency[:3], None)
        self._answers[idempotency[:3]] = (replay, now)
        # The oldest stand first, and the one that was just added ends the search.
        while self._answers[oldest := next(iter(self._answers))][1] + IDEMPOTENCY_TTL <= now:
            del self._answers[oldest]

    async def replayed(self, idempotency: Idempotency) -> Replay | None:
        """See `KeyStore`."""
        with self._lock:
            return self._replay(idempotency)

    def _replay(self, idempotency: Idempotency) -> Replay | None:
        replay, at = self._answers.get(idempotency[:3], (None, 0.0))
        return replay if at + IDEMPOTENCY_TTL > self._now() else None

    async def query(self, query: KeyQuery) -> KeyPage:
        """See `KeyStore`."""
        before = None if query.after is None else read_cursor(query.after, tuple[float, str])
        with self._lock:
            records = [stored.record for stored in self._keys.values() if _matches(stored.record, query)]
            records.sort(key=_age, reverse=True)
            if before is not None:
                records = [record for record in records if _age(record) < before]
            page = tuple(copied(record) for record in records[: query.size])
            return KeyPage(page, write_cursor(_age(page[-1])) if len(records) > query.size else None)

    async def history(self, key_id: str) -> tuple[HistoryEntry, ...]:
        """See `KeyStore`."""
        with self._lock:
            return tuple(msgspec.json.decode(entry, type=HistoryEntry) for entry in self._history.get(key_id, ()))


def _matches(record: KeyRecord, query: KeyQuery) -> bool:
    for wanted, given in (
        (query.tenant, record.tenant),
        (query.user, record.user),
        (query.team, record.team),
        (query.org, record.org),
    ):
        if wanted is not None and wanted != given:
            return False
    if query.tag is not None and query.tag not in record.tags:
        return False
    if query.state is not None and query.state != record.state(query.now):
        return False
    if query.unused_since is not None:
        used = record.last_used_at
        if record.created_at > query.unused_since or (used is not None and used >= query.unused_since):
            return False
    if query.search is None:
        return True
    sought = query.search.casefold()
    return sought in (record.name or "").casefold() or record.id.casefold().startswith(sought)


def _age(record: KeyRecord) -> tuple[float, str]:
    return record.created_at, record.id


def _later(one: float | None, other: float | None) -> float | None:
    return other if one is None else one if other is None else max(one, other)


def _copy(stored: StoredKey | None) -> StoredKey | None:
    return None if stored is None else StoredKey(record=copied(stored.record), secrets=stored.secrets)
