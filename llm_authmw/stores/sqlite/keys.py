"""API keys in SQLite."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from llm_authmw.clock import Clock
from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest, sha256
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency, KeyPage, KeyQuery, KeyUse, Replay
from llm_authmw.keys.records import KeyRecord, KeySecret, KeyState, StoredKey
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.rows import is_text, write_entry, write_record
from llm_authmw.stores.sqlite.database import Database
from llm_authmw.stores.sqlite.feed import append_change
from llm_authmw.stores.sqlite.rows import insert, read_entries, read_record, select, update

_FIELDS: Final = KeyRecord.__struct_fields__
_WRITTEN: Final = (*_FIELDS, "name_folded")
_INSERT: Final = insert("keys", _WRITTEN)
_UPDATE: Final = update("keys", _WRITTEN, "tenant = :tenant", "id = :id")
_SELECT_BY_ID: Final = select("keys", _FIELDS, "id = ?")

_STATES: Final[dict[KeyState, str]] = {
    "active": "status = 'active' AND (expires_at IS NULL OR expires_at > :now) AND (not_before IS NULL OR not_before <= :now)",
    "expired": "status = 'active' AND expires_at <= :now",
    "not yet valid": "status = 'active' AND (expires_at IS NULL OR expires_at > :now) AND not_before > :now",
    "blocked": "status = 'blocked'",
    "revoked": "status = 'revoked'",
}
_FILTERS: Final = {
    "tenant": "tenant = :tenant",
    "user": "user = :user",
    "team": "team = :team",
    "org": "org = :org",
    "tag": "EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag)",
    "unused_since": "created_at <= :unused_since AND (last_used_at IS NULL OR last_used_at < :unused_since)",
    # instr and not LIKE: it knows no wildcards, so there is nothing to escape.
    "search": "(instr(name_folded, :search) > 0 OR instr(lower(id), :search) = 1)",
    "after": "(created_at, id) < (:created_at, :id)",
}


class SQLiteKeys:
    """See `KeyStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._now: Final = clock.now

    async def find(self, key_id: str) -> StoredKey | None:
        """See `KeyReader`."""
        if not is_text(key_id):
            return None
        return await self._database.read(lambda connection: _find(connection, key_id))

    async def find_imported(self, digest: bytes) -> StoredKey | None:
        """See `KeyReader`."""
        return await self._database.read(lambda connection: _find_imported(connection, digest))

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        """See `KeyReader`."""
        if uses:
            await self._database.note(lambda connection: _touch(connection, uses))

    async def write(self, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None) -> Replay | bool:
        """See `KeyStore`."""
        now = self._now()
        return await self._database.write(lambda connection: _write(connection, stored, entry, idempotency, now))

    async def replayed(self, idempotency: Idempotency) -> Replay | None:
        """See `KeyStore`."""
        now = self._now()
        return await self._database.read(lambda connection: _replayed(connection, idempotency, now))

    async def query(self, query: KeyQuery) -> KeyPage:
        """See `KeyStore`."""
        before = None if query.after is None else read_cursor(query.after, tuple[float, str])
        if not is_text(query.tenant, query.user, query.team, query.org, query.tag, query.search):
            return KeyPage((), None)
        return await self._database.read(lambda connection: _query(connection, query, before))

    async def history(self, key_id: str) -> tuple[HistoryEntry, ...]:
        """See `KeyStore`."""
        if not is_text(key_id):
            return ()
        return await self._database.read(lambda connection: _history(connection, key_id))


def _find(connection: sqlite3.Connection, key_id: str) -> StoredKey | None:
    row = connection.execute(_SELECT_BY_ID, (key_id,)).fetchone()
    if row is None:
        return None
    record = read_record(KeyRecord, row)
    secrets = connection.execute(
        """
        SELECT digest, scheme, pepper_version, created_at, not_after, imported
        FROM key_secrets WHERE tenant = ? AND key_id = ? ORDER BY position
        """,
        (record.tenant, key_id),
    )
    return StoredKey(record=record, secrets=tuple(_secret(*secret) for secret in secrets))


def _secret(digest: bytes, scheme: str, pepper_version: int, created_at: float, not_after: float | None, imported: int) -> KeySecret:
    return KeySecret(
        digest=Digest(digest, "sha256" if scheme == "sha256" else "hmac-sha256", pepper_version),
        created_at=created_at,
        not_after=not_after,
        imported=bool(imported),
    )


def _find_imported(connection: sqlite3.Connection, digest: bytes) -> StoredKey | None:
    row = connection.execute("SELECT key_id FROM key_secrets WHERE digest = ? AND imported = 1", (digest,)).fetchone()
    return None if row is None else _find(connection, row["key_id"])


def _touch(connection: sqlite3.Connection, uses: Sequence[KeyUse]) -> None:
    connection.executemany(
        "UPDATE keys SET last_used_at = :at WHERE id = :id AND (last_used_at IS NULL OR last_used_at < :at)",
        [{"id": use.key_id, "at": use.at} for use in uses],
    )
    # An imported secret is found by its digest, so that must stay what it is.
    connection.executemany(
        """
        UPDATE key_secrets SET digest = ?, scheme = ?, pepper_version = ?, replaced = ?
        WHERE (tenant, key_id) = (SELECT tenant, id FROM keys WHERE id = ?)
            AND digest = ? AND scheme = ? AND pepper_version = ? AND imported = 0
        """,
        [(*new, sha256(old.value), use.key_id, *old) for use in uses if use.rehash is not None for old, new in [use.rehash]],
    )


def _write(
    connection: sqlite3.Connection, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None, now: float
) -> Replay | bool:
    record = stored.record
    replay = None if idempotency is None else _replayed(connection, idempotency, now)
    if replay is not None:
        return replay
    row = write_record(record)
    present = connection.execute("SELECT tenant, revision, last_used_at FROM keys WHERE id = ?", (record.id,)).fetchone()
    if record.revision == 1:
        if present is not None:
            raise ConflictError("an API key with this id exists")
        connection.execute(_INSERT, row)
    elif present is None or (present["tenant"], present["revision"] + 1) != (record.tenant, record.revision):
        return False
    else:
        # A use may have been noted since the writer read the key.
        row["last_used_at"] = max((at for at in (record.last_used_at, present["last_used_at"]) if at is not None), default=None)
        connection.execute(_UPDATE, row)
    _write_secrets(connection, stored)
    connection.execute(
        """
        INSERT INTO key_history (tenant, key_id, revision, at, action, actor, changes)
        VALUES (:tenant, :id, :revision, :at, :action, :actor, :changes)
        """,
        {**row, **write_entry(entry)},
    )
    if idempotency is not None:
        _remember(connection, idempotency, record.id, now)
    append_change(connection, "keys", record.tenant, record.id, now)
    return True


def _write_secrets(connection: sqlite3.Connection, stored: StoredKey) -> None:
    key = (stored.record.tenant, stored.record.id)
    # The writer may have read the key before a digest was replaced: what he gives back then stands for the one that is there.
    newer = {
        row["replaced"]: Digest(row["digest"], row["scheme"], row["pepper_version"])
        for row in connection.execute(
            "SELECT digest, scheme, pepper_version, replaced FROM key_secrets WHERE tenant = ? AND key_id = ? AND replaced IS NOT NULL", key
        )
    }
    connection.execute("DELETE FROM key_secrets WHERE tenant = ? AND key_id = ?", key)
    for position, secret in enumerate(stored.secrets):
        digest = secret.digest if secret.imported else newer.get(sha256(secret.digest.value), secret.digest)
        if secret.imported and connection.execute("SELECT 1 FROM key_secrets WHERE digest = ? AND imported = 1", digest[:1]).fetchone():
            raise ConflictError("an API key with this imported secret exists")
        connection.execute(
            """
            INSERT INTO key_secrets (tenant, key_id, position, digest, scheme, pepper_version, created_at, not_after, imported)
            VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
            """,
            (*key, position, *digest, secret.created_at, secret.not_after, secret.imported),
        )


def _replayed(connection: sqlite3.Connection, idempotency: Idempotency, now: float) -> Replay | None:
    row = connection.execute(
        "SELECT key_id, fingerprint FROM idempotency WHERE tenant = ? AND operation = ? AND idempotency_key = ? AND at > ?",
        (*idempotency[:3], now - IDEMPOTENCY_TTL),
    ).fetchone()
    return None if row is None else Replay(row["key_id"], row["fingerprint"])


def _remember(connection: sqlite3.Connection, idempotency: Idempotency, key_id: str, now: float) -> None:
    connection.execute("DELETE FROM idempotency WHERE tenant = ? AND at <= ?", (idempotency.tenant, now - IDEMPOTENCY_TTL))
    connection.execute(
        "INSERT INTO idempotency (tenant, operation, idempotency_key, fingerprint, key_id, at) VALUES (?, ?, ?, ?, ?, ?)",
        (*idempotency, key_id, now),
    )


def _query(connection: sqlite3.Connection, query: KeyQuery, before: tuple[float, str] | None) -> KeyPage:
    values = query._asdict()
    conditions = [condition for name, condition in _FILTERS.items() if values[name] is not None]
    if query.state is not None:
        conditions.append(_STATES[query.state])
    if query.search is not None:
        values["search"] = query.search.casefold()
    values["created_at"], values["id"] = before or (None, None)
    values["limit"] = query.size + 1
    statement = select("keys", _FIELDS, *conditions) + " ORDER BY created_at DESC, id DESC LIMIT :limit"
    found = connection.execute(statement, values).fetchall()
    page = tuple(read_record(KeyRecord, row) for row in found[: query.size])
    return KeyPage(page, write_cursor((page[-1].created_at, page[-1].id)) if len(found) > query.size else None)


def _history(connection: sqlite3.Connection, key_id: str) -> tuple[HistoryEntry, ...]:
    return read_entries(
        connection.execute(
            """
            SELECT at, action, actor, changes FROM key_history
            WHERE (tenant, key_id) = (SELECT tenant, id FROM keys WHERE id = ?) ORDER BY revision
            """,
            (key_id,),
        )
    )
