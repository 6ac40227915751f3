"""The form of the database: one entry per release that changed it, applied in order, each once.

Our tables begin with `authmw_` and stand in the first schema of the search path, beside whatever else is there.
"""

from importlib.resources import files
from typing import Final

import asyncpg

from llm_authmw.errors import StoreCorruptError, StoreReadOnlyError
from llm_authmw.stores.postgres.errors import READ_ONLY
from llm_authmw.stores.postgres.pool import Connection

_LOCKS: Final = 0x61_75_74_68
"""`auth`: tells our advisory locks from those of other programs in the same database."""
FORM_LOCK: Final = f"{_LOCKS}, 1"
"""Held while the form changes."""
CHANGE_LOCK: Final = f"{_LOCKS}, 2"
"""Held while records change. A third one, in `audit.sql`, is held while the audit trail changes."""

# Every primary key and every index begins with the tenant, so that one tenant's rows lie together and a query that forgot the
# tenant is slow before it is wrong. The two indexes that do not are those of authentication, which knows a key's id or an
# imported key's digest and asks for the tenant; they are unique over all tenants, or a key would be two people's.
# COLLATE "C" is the order of Unicode's numbers, whatever the database's own language is: cursors rest on it.
_RECORDS: Final = (
    """
    CREATE TABLE authmw_keys (
        tenant text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        revision bigint NOT NULL,
        last_four text COLLATE "C" NOT NULL,
        name text COLLATE "C",
        name_folded text COLLATE "C", -- for searching: what a letter's other case is depends on the server
        realm text COLLATE "C" NOT NULL,
        "user" text COLLATE "C",
        team text COLLATE "C",
        org text COLLATE "C",
        roles text NOT NULL,
        scopes text NOT NULL,
        models text,
        routes text,
        tier text COLLATE "C",
        limits text NOT NULL,
        budgets text NOT NULL,
        networks text,
        tags text NOT NULL,
        metadata text NOT NULL, -- not json: that knows neither every string nor every number as it was written
        status text COLLATE "C" NOT NULL,
        imported boolean NOT NULL,
        created_at double precision NOT NULL,
        not_before double precision,
        expires_at double precision,
        rotated_at double precision,
        last_used_at double precision,
        PRIMARY KEY (tenant, id)
    )
    """,
    "CREATE UNIQUE INDEX authmw_keys_by_id ON authmw_keys (id)",
    "CREATE INDEX authmw_keys_by_age ON authmw_keys (tenant, created_at, id)",
    """
    CREATE TABLE authmw_key_secrets (
        tenant text COLLATE "C" NOT NULL,
        key_id text COLLATE "C" NOT NULL,
        position integer NOT NULL, -- 0 is the newest
        digest bytea NOT NULL,
        scheme text COLLATE "C" NOT NULL,
        pepper_version bigint NOT NULL,
        created_at double precision NOT NULL,
        not_after double precision,
        imported boolean NOT NULL,
        replaced bytea, -- SHA-256 of the digest that a newer pepper's took the place of, until the key is next written
        PRIMARY KEY (tenant, key_id, position),
        FOREIGN KEY (tenant, key_id) REFERENCES authmw_keys (tenant, id)
    )
    """,
    "CREATE UNIQUE INDEX authmw_key_secrets_by_import ON authmw_key_secrets (digest) WHERE imported",
    """
    CREATE TABLE authmw_key_history (
        tenant text COLLATE "C" NOT NULL,
        key_id text COLLATE "C" NOT NULL,
        revision bigint NOT NULL, -- the one that the change led to
        at double precision NOT NULL,
        action text COLLATE "C" NOT NULL,
        actor text COLLATE "C" NOT NULL,
        changes text NOT NULL,
        PRIMARY KEY (tenant, key_id, revision),
        FOREIGN KEY (tenant, key_id) REFERENCES authmw_keys (tenant, id)
    )
    """,
    """
    CREATE TABLE authmw_accounts (
        tenant text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        realm text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        name_folded text COLLATE "C" NOT NULL,
        revision bigint NOT NULL,
        status text COLLATE "C" NOT NULL,
        limits text NOT NULL,
        budgets text NOT NULL,
        models text,
        roles text NOT NULL,
        metadata text NOT NULL,
        created_at double precision NOT NULL,
        PRIMARY KEY (tenant, kind, realm, name)
    )
    """,
    # Every process reads all of these whenever an account changes.
    "CREATE INDEX authmw_accounts_blocked ON authmw_accounts (tenant, kind, realm, name) WHERE status = 'blocked'",
    """
    CREATE TABLE authmw_account_history (
        tenant text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        realm text COLLATE "C" NOT NULL,
        name text COLLATE "C" NOT NULL,
        revision bigint NOT NULL,
        at double precision NOT NULL,
        action text COLLATE "C" NOT NULL,
        actor text COLLATE "C" NOT NULL,
        changes text NOT NULL,
        PRIMARY KEY (tenant, kind, realm, name, revision),
        FOREIGN KEY (tenant, kind, realm, name) REFERENCES authmw_accounts (tenant, kind, realm, name)
    )
    """,
    """
    CREATE TABLE authmw_idempotency (
        tenant text COLLATE "C" NOT NULL,
        operation text COLLATE "C" NOT NULL,
        idempotency_key text COLLATE "C" NOT NULL,
        fingerprint text COLLATE "C" NOT NULL,
        key_id text COLLATE "C" NOT NULL,
        at double precision NOT NULL,
        PRIMARY KEY (tenant, operation, idempotency_key)
    )
    """,
    "CREATE INDEX authmw_idempotency_by_age ON authmw_idempotency (tenant, at)",
    """
    CREATE TABLE authmw_revocations (
        tenant text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        issuer text COLLATE "C" NOT NULL,
        value text COLLATE "C" NOT NULL,
        issued_before double precision,
        expires_at double precision,
        created_at double precision NOT NULL,
        actor text COLLATE "C" NOT NULL,
        note text COLLATE "C",
        lifted_at double precision,
        lifted_by text COLLATE "C",
        PRIMARY KEY (tenant, id)
    )
    """,
    "CREATE UNIQUE INDEX authmw_revocations_standing ON authmw_revocations (tenant, kind, issuer, value) WHERE lifted_at IS NULL",
    "CREATE INDEX authmw_revocations_by_age ON authmw_revocations (tenant, created_at, id)",
    "CREATE INDEX authmw_revocations_by_end ON authmw_revocations (tenant, expires_at) WHERE expires_at IS NOT NULL",
    """
    CREATE TABLE authmw_changes (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        mark bigint NOT NULL DEFAULT floor(random() * 4294967296), -- tells this change from the one that a copy has here
        facet text COLLATE "C" NOT NULL,
        tenant text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        at double precision NOT NULL
    )
    """,
    # Where a process begins that asks before anything has changed.
    "INSERT INTO authmw_changes (facet, tenant, id, at) VALUES ('database', '', '', 0)",
)

_LEDGER: Final = (files("llm_authmw.stores.postgres").joinpath("ledger.sql").read_text(encoding="utf-8"),)
_AUDIT: Final = (files("llm_authmw.stores.postgres").joinpath("audit.sql").read_text(encoding="utf-8"),)

MIGRATIONS: Final = (_RECORDS, _LEDGER, _AUDIT)

_LOOK: Final = "BEGIN READ ONLY"
_CHANGE: Final = f"BEGIN; SET LOCAL lock_timeout = '5s'; SELECT pg_advisory_xact_lock({FORM_LOCK})"


async def migrate(connection: Connection, place: str) -> None:
    """Bring the database to this release's form. Several processes may do so at the same time.

    Raises:
        StoreCorruptError: it was written by a newer release.
        StoreReadOnlyError: it has no form, or that of an older release, and cannot be written.
        asyncpg.PostgresError: it cannot be read or, where that is necessary, written.
    """
    await connection.execute(_LOOK)
    version = await _version_of(connection, place)
    await connection.execute("COMMIT")
    if version == len(MIGRATIONS):
        return
    try:
        await _migrate(connection, place)
    except asyncpg.PostgresError as error:
        if error.sqlstate not in READ_ONLY:
            raise
        form = "does not have the store's tables yet" if version == 0 else "has the tables of an older release"
        raise StoreReadOnlyError(
            f"{place} {form}, and this user may not make them. Open it once as a user who may: llm-authmw keys list"
        ) from None


async def _migrate(connection: Connection, place: str) -> None:
    await connection.execute(_CHANGE)
    for statements in MIGRATIONS[await _version_of(connection, place) :]:
        for statement in statements:
            await connection.execute(statement)
    await connection.execute("CREATE TABLE IF NOT EXISTS authmw_form (version bigint NOT NULL); DELETE FROM authmw_form")
    await connection.execute("INSERT INTO authmw_form (version) VALUES ($1)", len(MIGRATIONS))
    await connection.execute("COMMIT")


async def _version_of(connection: Connection, place: str) -> int:
    # Not `to_regclass`: after a wait for the lock it answers from what this connection knew before.
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_class WHERE relname = 'authmw_form' AND pg_table_is_visible(oid))"):
        return 0
    version: int = await connection.fetchval("SELECT max(version) FROM authmw_form")
    if version > len(MIGRATIONS):
        raise StoreCorruptError(
            f"{place} was written by a newer release of llm-authmw (form {version}, this one knows {len(MIGRATIONS)}); "
            "nothing was changed. Upgrade llm-authmw"
        )
    return version
