"""The table of changes: every write of a key, an account or a revocation appends to it, and every process reads on from its own cursor.

Numbers are given out under the lock of `Database.change`, which is held until the change is visible. So no change appears behind
a cursor that has passed it.
"""

from typing import Final, Literal

import asyncpg

from llm_authmw.changes import Changes
from llm_authmw.stores.postgres.database import Database
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.stores.rows import UnreadableRowError

MAX_NAMED_CHANGES: Final = 1000
"""Changes that an answer names one by one; beyond that, everything may have changed."""
MAX_KEPT_CHANGES: Final = 10_000
"""Changes that the table keeps."""

_MARK_BITS: Final = 32
_APPEND: Final = "INSERT INTO authmw_changes (facet, tenant, id, at) VALUES ($1, $2, $3, $4) RETURNING seq"
_FORGET: Final = "DELETE FROM authmw_changes WHERE seq <= $1"
_SINCE: Final = "SELECT seq, mark, facet, id FROM authmw_changes WHERE seq >= $1 ORDER BY seq LIMIT $2"
_NEWEST: Final = "SELECT seq, mark FROM authmw_changes ORDER BY seq DESC LIMIT 1"


class PostgresFeed:
    """See `ChangeFeed`."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def changes(self, since: int | None) -> Changes:
        """See `ChangeFeed`."""
        return await self._database.read(lambda connection: _changes(connection, since))


async def append_change(
    connection: Connection, facet: Literal["keys", "accounts", "revocations"], tenant: str, name: str, at: float
) -> None:
    """Note a change within the `Database.change` that makes it, and forget the oldest one."""
    seq: int = await connection.fetchval(_APPEND, facet, tenant, name, at)
    await connection.execute(_FORGET, seq - MAX_KEPT_CHANGES)


async def _changes(connection: Connection, since: int | None) -> Changes:
    if since is not None:
        # The change at the cursor is read too. Where it is not there (it was forgotten, or a copy of the database took its place),
        # nobody can say what came between.
        rows = await connection.fetch(_SINCE, since >> _MARK_BITS, MAX_NAMED_CHANGES + 2)
        if rows and _cursor(rows[0]) == since and len(rows) <= MAX_NAMED_CHANGES + 1:
            facets = {row["facet"] for row in rows[1:]}
            return Changes(
                cursor=_cursor(rows[-1]),
                keys=frozenset(row["id"] for row in rows[1:] if row["facet"] == "keys"),
                accounts="accounts" in facets,
                revocations="revocations" in facets,
            )
    newest = await connection.fetchrow(_NEWEST)
    if newest is None:
        raise UnreadableRowError
    return Changes.of_anything(_cursor(newest))


def _cursor(row: asyncpg.Record) -> int:
    return int(row["seq"] << _MARK_BITS | row["mark"])
