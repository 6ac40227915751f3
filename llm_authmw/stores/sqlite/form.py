"""The form of a file: which tables there are in it, and how it gets from an older release's to this one's."""

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

import anyio
from anyio.lowlevel import RunVar

from llm_authmw.errors import StoreCorruptError, StoreReadOnlyError
from llm_authmw.stores.sqlite.errors import primary_code

Migrations: TypeAlias = Sequence[Sequence[str]]


class Form:
    """One kind of file.

    Args:
        application_id: What tells these files from everybody else's, in their header.
        migrations: One entry per release that changed the form, applied in order, each once.
        opened_by: The command that opens such a file, for whoever has to do it by hand.
    """

    def __init__(self, application_id: int, migrations: Migrations, *, opened_by: str) -> None:
        self.application_id: Final = application_id
        self.migrations: Migrations = migrations
        self.opened_by: Final = opened_by
        # Of each kind's own: a flood of lookups leaves the app its threads, writers that wait leave readers theirs, and a person who
        # searches in one kind of file leaves requests those of another.
        self.readers: Final[RunVar[anyio.CapacityLimiter]] = RunVar(f"llm_authmw.stores.sqlite.readers.{application_id}")
        self.writers: Final[RunVar[anyio.CapacityLimiter]] = RunVar(f"llm_authmw.stores.sqlite.writers.{application_id}")


def version_of(connection: sqlite3.Connection, path: Path, form: Form) -> int:
    """Return how many migrations the file has had; 0 where it is empty.

    Raises:
        StoreCorruptError: it is not ours, or is newer than this release.
        sqlite3.Error: it cannot be read.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if (application, version, objects) == (0, 0, 0):
        return 0
    if application != form.application_id or version < 1:
        raise StoreCorruptError(f"{path} is a database of another program; nothing was changed. Name another file for the store")
    if version > len(form.migrations):
        raise StoreCorruptError(
            f"{path} was written by a newer release of llm-authmw (form {version}, this one knows {len(form.migrations)}); "
            "nothing was changed. Upgrade llm-authmw"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path, form: Form) -> None:
    """Bring the file to this release's form. Several processes may do so at the same time.

    Raises:
        StoreCorruptError: it is not ours, or is newer than this release.
        StoreReadOnlyError: it is of an older form, and cannot be written.
        sqlite3.Error: it cannot be read or, where that is necessary, written.
    """
    # Seen in one transaction: between two of them, another process may be the one that migrates.
    connection.execute("BEGIN")
    version = version_of(connection, path, form)
    connection.execute("COMMIT")
    if version == len(form.migrations):
        return
    try:
        _migrate(connection, path, form)
    except sqlite3.Error as error:
        if version == 0 or primary_code(error) != sqlite3.SQLITE_READONLY:
            raise
        raise StoreReadOnlyError(
            f"{path} has the form of an older release (form {version}, this one has {len(form.migrations)}) and cannot be written. "
            f"Open it once where it can be: {form.opened_by}"
        ) from error


def _migrate(connection: sqlite3.Connection, path: Path, form: Form) -> None:
    connection.execute("BEGIN IMMEDIATE")
    for statements in form.migrations[version_of(connection, path, form) :]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {form.application_id}")
    connection.execute(f"PRAGMA user_version = {len(form.migrations)}")
    connection.execute("COMMIT")
