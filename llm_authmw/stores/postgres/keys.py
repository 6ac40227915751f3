"""API keys in PostgreSQL."""

from collections.abc import Sequence
from typing import Final

import asyncpg

from llm_authmw.clock import Clock
from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest, sha256
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency, KeyPage, KeyQuery, KeyUse, Replay
from llm_authmw.keys.records import KeyRecord, KeySecret, KeyState, StoredKey
from llm_authmw.stores.cursors import read_cursor, write_cursor
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.feed import append_change
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.stores.postgres.statements import Statement, insert, is_storable, select, update
from llm_authmw.stores.rows import UnreadableRowError, read_entries, read_record, write_entry, write_record

_FIELDS: Final = KeyRecord.__struct_fields__
_WRITTEN: Final = (*_FIELDS, "name_folded")
_INSERT: Final = Statement(insert("authmw_keys", _WRITTEN))
_UPDATE: Final = Statement(update("authmw_keys", _WRITTEN, "tenant = :tenant", "id = :id"))

# The key and its secrets in one statement: it is one round trip, and what it reads is of one moment.
_SECRET_FIELDS: Final = ("digest", "scheme", "pepper_version", "created_at", "not_after", "imported")
_SELECT: Final = f"""
    SELECT {", ".join(f'k."{name}"' for name in _FIELDS)}, {", ".join(f"s.{name} AS secret_{name}" for name in _SECRET_FIELDS)}
    FROM authmw_keys AS k LEFT JOIN authmw_key_secrets AS s ON (s.tenant, s.key_id) = (k.tenant, k.id)
"""  # noqa: S608 - the names are our own
_IMPORTED: Final = "(SELECT tenant, key_id FROM authmw_key_secrets WHERE digest = $1 AND imported)"
_SELECT_BY_ID: Final = f"{_SELECT} WHERE k.id = $1 ORDER BY s.position"
_SELECT_BY_IMPORT: Final = f"{_SELECT} WHERE (k.tenant, k.id) = {_IMPORTED} ORDER BY s.position"

# An imported secret is found by its digest, so that must stay what it is.
_REHASH: Final = """
    UPDATE authmw_key_secrets SET digest = $1, scheme = $2, pepper_version = $3, replaced = $4
    WHERE (tenant, key_id) = (SELECT tenant, id FROM authmw_keys WHERE id = $5)
        AND digest = $6 AND scheme = $7 AND pepper_version = $8 AND NOT imported
"""
_TOUCH: Final = """
    UPDATE authmw_keys SET last_used_at = used.at
    FROM (SELECT id, max(at) AS at FROM unnest($1::text[], $2::double precision[]) AS noted (id, at) GROUP BY id) AS used
    WHERE authmw_keys.id = used.id AND (last_used_at IS NULL OR last_used_at < used.at)
"""
_WRITE_HISTORY: Final = Statement(
    """
    INSERT INTO authmw_key_history (tenant, key_id, revision, at, action, actor, changes)
    VALUES (:tenant, :id, :revision, :at, :action, :actor, :changes)
    """
)
_HISTORY: Final = """
    SELECT at, action, actor, changes FROM authmw_key_history
    WHERE (tenant, key_id) = (SELECT tenant, id FROM authmw_keys WHERE id = $1) ORDER BY revision
"""
_ADD: Final = """
    INSERT INTO authmw_key_secrets (tenant, key_id, position, digest, scheme, pepper_version, created_at, not_after, imported)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

_STATES: Final[dict[KeyState, str]] = {
    "active": "status = 'active' AND (expires_at IS NULL OR expires_at > :now) AND (not_before IS NULL OR not_before <= :now)",
    "expired": "status = 'active' AND expires_at <= :now",
    "not yet valid": "status = 'active' AND (expires_at IS NULL OR expires_at > :now) AND not_before > :now",
    "blocked": "status = 'blocked'",
    "revoked": "status = 'revoked'",
}
_FILTERS: Final = {
    "tenant": "tenant = :tenant",
    "user": '"user" = :user',
    "team": "team = :team",
    "org": "org = :org",
    "tag": "EXISTS (SELECT FROM json_array_elements_text(tags::json) AS tag WHERE tag = :tag)",
    "unused_since": "created_at <= :unused_since AND (last_used_at IS NULL OR last_used_at < :unused_since)",
    # strpos and not LIKE: it knows no wildcards, so there is nothing to escape.
    "search": "(strpos(name_folded, :search) > 0 OR strpos(lower(id), :search) = 1)",
    "after": "(created_at, id) < (:created_at, :id)",
}


class PostgresKeys:
    """See `KeyStore`."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database: Final = database
        self._now: Final = clock.now

    async def find(self, key_id: str) -> StoredKey | None:
        """See `KeyReader`."""
        if not is_storable(key_id):
            return None
        return await self._database.read(lambda connection: _find(connection, _SELECT_BY_ID, key_id))

    async def find_imported(self, digest: bytes) -> StoredKey | None:
        """See `KeyReader`."""
        return await self._database.read(lambda connection: _find(connection, _SELECT_BY_IMPORT, digest))

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        """See `KeyReader`."""
        if uses:
            await self._database.note(lambda connection: _touch(connection, uses))

    async def write(self, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None) -> Replay | bool:
        """See `KeyStore`."""
        now = self._now()
        return await self._database.change(lambda connection: _write(connection, stored, entry, idempotency, now))

    async def replayed(self, idempotency: Idempotency) -> Replay | None:
        """See `KeyStore`."""
        now = self._now()
        return await self._database.read(lambda connection: _replayed(connection, idempotency, now))

    async def query(self, query: KeyQuery) -> KeyPage:
        """See `KeyStore`."""
        before = None if query.after is None else read_cursor(query.after, tuple[float, str])
        if not is_storable(query.tenant, query.user, query.team, query.org, query.tag, query.search, *(before or ())[1:]):
            return KeyPage((), None)
        return await self._database.read(lambda connection: _query(connection, query, before))

    async def history(self, key_id: str) -> tuple[HistoryEntry, ...]:
        """See `KeyStore`."""
        if not is_storable(key_id):
            return ()
        return await self._database.read(lambda connection: _history(connection, key_id))


async def _find(connection: Connection, statement: str, value: str | bytes) -> StoredKey | None:
    rows = await connection.fetch(statement, value)
    if not rows:
        return None
    record = read_record(KeyRecord, {name: rows[0][name] for name in _FIELDS})
    return StoredKey(record=record, secrets=tuple(_secret(row) for row in rows if row["secret_digest"] is not None))


def _secret(row: asyncpg.Record) -> KeySecret:
    scheme = row["secret_scheme"]
    if scheme not in {"sha256", "hmac-sha256"}:
        raise UnreadableRowError
    return KeySecret(
        digest=Digest(row["secret_digest"], scheme, row["secret_pepper_version"]),
        created_at=row["secret_created_at"],
        not_after=row["secret_not_after"],
        imported=row["secret_imported"],
    )


async def _touch(connection: Connection, uses: Sequence[KeyUse]) -> None:
    await connection.execute(_TOUCH, [use.key_id for use in uses], [use.at for use in uses])
    for use in uses:
        if use.rehash is not None:
            old, new = use.rehash
            await connection.execute(_REHASH, *new, sha256(old.value), use.key_id, *old)


async def _write(
    connection: Connection, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None, now: float
) -> Replay | bool:
    record = stored.record
    replay = None if idempotency is None else await _replayed(connection, idempotency, now)
    if replay is not None:
        return replay
    row = write_record(record)
    present = await connection.fetchrow("SELECT tenant, revision, last_used_at FROM authmw_keys WHERE id = $1", record.id)
    if record.revision == 1:
        if present is not None:
            raise ConflictError("an API key with this id exists")
        await connection.execute(*_INSERT(row))
    elif present is None or (present["tenant"], present["revision"] + 1) != (record.tenant, record.revision):
        return False
    else:
        # A use may have been noted since the writer read the key.
        row["last_used_at"] = max((at for at in (record.last_used_at, present["last_used_at"]) if at is not None), default=None)
        await connection.execute(*_UPDATE(row))
    await _write_secrets(connection, stored)
    await connection.execute(*_WRITE_HISTORY({**row, **write_entry(entry)}))
    if idempotency is not None:
        await _remember(connection, idempotency, record.id, now)
    await append_change(connection, "keys", record.tenant, record.id, now)
    return True


async def _write_secrets(connection: Connection, stored: StoredKey) -> None:
    key = (stored.record.tenant, stored.record.id)
    # The writer may have read the key before a digest was replaced: what he gives back then stands for the one that is there.
    present = await connection.fetch(
        "DELETE FROM authmw_key_secrets WHERE tenant = $1 AND key_id = $2 RETURNING digest, scheme, pepper_version, replaced", *key
    )
    newer = {row["replaced"]: Digest(row["digest"], row["scheme"], row["pepper_version"]) for row in present if row["replaced"] is not None}
    for position, secret in enumerate(stored.secrets):
        digest = secret.digest if secret.imported else newer.get(sha256(secret.digest.value), secret.digest)
        try:
            await connection.execute(_ADD, *key, position, *digest, secret.created_at, secret.not_after, secret.imported)
        except asyncpg.UniqueViolationError:
            raise ConflictError("an API key with this imported secret exists") from None


async def _replayed(connection: Connection, idempotency: Idempotency, now: float) -> Replay | None:
    row = await connection.fetchrow(
        "SELECT key_id, fingerprint FROM authmw_idempotency WHERE tenant = $1 AND operation = $2 AND idempotency_key = $3 AND at > $4",
        *idempotency[:3],
        now - IDEMPOTENCY_TTL,
    )
    return None if row is None else Replay(row["key_id"], row["fingerprint"])


async def _remember(connection: Connection, idempotency: Idempotency, key_id: str, now: float) -> None:
    await connection.execute("DELETE FROM authmw_idempotency WHERE tenant = $1 AND at <= $2", idempotency.tenant, now - IDEMPOTENCY_TTL)
    await connection.execute(
        "INSERT INTO authmw_idempotency (tenant, operation, idempotency_key, fingerprint, key_id, at) VALUES ($1, $2, $3, $4, $5, $6)",
        *idempotency,
        key_id,
        now,
    )


async def _query(connection: Connection, query: KeyQuery, before: tuple[float, str] | None) -> KeyPage:
    values = query._asdict()
    conditions = [condition for name, condition in _FILTERS.items() if values[name] is not None]
    if query.state is not None:
        conditions.append(_STATES[query.state])
    if query.search is not None:
        values["search"] = query.search.casefold()
    values["created_at"], values["id"] = before or (None, None)
    values["limit"] = query.size + 1
    statement = select("authmw_keys", _FIELDS, *conditions) + " ORDER BY created_at DESC, id DESC LIMIT :limit"
    found = await connection.fetch(*Statement(statement)(values))
    page = tuple(read_record(KeyRecord, dict(row)) for row in found[: query.size])
    return KeyPage(page, write_cursor((page[-1].created_at, page[-1].id)) if len(found) > query.size else None)


async def _history(connection: Connection, key_id: str) -> tuple[HistoryEntry, ...]:
    return read_entries(dict(row) for row in await connection.fetch(_HISTORY, key_id))
