"""The table of changes: every write of a key, an account or a revocation appends to it, and every process reads on from its own cursor."""

import sqlite3
from typing import Final, Literal

from llm_authmw.changes import Changes
from llm_authmw.stores.sqlite.database import Database

MAX_NAMED_CHANGES: Final = 1000
"""Changes that an answer names one by one; beyond that, everything may have changed."""
MAX_KEPT_CHANGES: Final = 10_000
"""Changes that the table keeps."""

_MARK_BITS: Final = 32


class SQLiteFeed:
    """See `ChangeFeed`."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    async def changes(self, since: int | None) -> Changes:
        """See `ChangeFeed`."""
        return await self._database.read(lambda connection: _changes(connection, since))


def append_change(
    connection: sqlite3.Connection, facet: Literal["keys", "accounts", "revocations"], tenant: str, name: str, at: float
) -> None:
    """Note a change within the transaction that makes it, and forget the oldest one."""
    cursor = connection.execute("INSERT INTO changes (facet, tenant, id, at) VALUES (?, ?, ?, ?)", (facet, tenant, name, at))
    connection.execute("DELETE FROM changes WHERE seq <= ?", ((cursor.lastrowid or 0) - MAX_KEPT_CHANGES,))


def _changes(connection: sqlite3.Connection, since: int | None) -> Changes:
    if since is not None:
        # The change at the cursor is read too. Where it is not there (it was forgotten, or a copy of the file took its place),
        # nobody can say what came between.
        rows = connection.execute(
            "SELECT seq, mark, facet, id FROM changes WHERE seq >= ? ORDER BY seq LIMIT ?", (since >> _MARK_BITS, MAX_NAMED_CHANGES + 2)
        ).fetchall()
        if rows and _cursor(rows[0]) == since and len(rows) <= MAX_NAMED_CHANGES + 1:
            facets = {row["facet"] for row in rows[1:]}
            return Changes(
                cursor=_cursor(rows[-1]),
                keys=frozenset(row["id"] for row in rows[1:] if row["facet"] == "keys"),
                accounts="accounts" in facets,
                revocations="revocations" in facets,
            )
    newest = connection.execute("SELECT seq, mark FROM changes WHERE seq = (SELECT max(seq) FROM changes)").fetchone()
    if newest is None:
        raise sqlite3.DataError("the changes are gone")
    return Changes.of_anything(_cursor(newest))


def _cursor(row: sqlite3.Row) -> int:
    return int(row["seq"] << _MARK_BITS | row["mark"])
