"""The form of the store's file: one entry per release that changed it."""

from typing import Final

from llm_authmw.stores.sqlite.form import Form

APPLICATION_ID: Final = 0x61_75_74_68
"""`auth`, in the file's header: what tells our files from everybody else's."""

# Every primary key and every index begins with the tenant, so that one tenant's rows lie together and a query that forgot the
# tenant is slow before it is wrong. The two indexes that do not are those of authentication, which knows a key's id or an
# imported key's digest and asks for the tenant; they are unique over all tenants, or a key would be two people's.
_FIRST: Final = (
    """
    CREATE TABLE keys (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        revision INTEGER NOT NULL,
        last_four TEXT NOT NULL,
        name TEXT,
        name_folded TEXT, -- for searching: SQLite folds the case of ASCII only
        realm TEXT NOT NULL,
        user TEXT,
        team TEXT,
        org TEXT,
        roles TEXT NOT NULL,
        scopes TEXT NOT NULL,
        models TEXT,
        routes TEXT,
        tier TEXT,
        limits TEXT NOT NULL,
        budgets TEXT NOT NULL,
        networks TEXT,
        tags TEXT NOT NULL,
        metadata TEXT NOT NULL,
        status TEXT NOT NULL,
        imported INTEGER NOT NULL,
        created_at REAL NOT NULL,
        not_before REAL,
        expires_at REAL,
        rotated_at REAL,
        last_used_at REAL,
        PRIMARY KEY (tenant, id)
    ) STRICT
    """,
    "CREATE UNIQUE INDEX keys_by_id ON keys (id)",
    "CREATE INDEX keys_by_age ON keys (tenant, created_at, id)",
    """
    CREATE TABLE key_secrets (
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        position INTEGER NOT NULL, -- 0 is the newest
        digest BLOB NOT NULL,
        scheme TEXT NOT NULL,
        pepper_version INTEGER NOT NULL,
        created_at REAL NOT NULL,
        not_after REAL,
        imported INTEGER NOT NULL,
        replaced BLOB, -- SHA-256 of the digest that a newer pepper's took the place of, until the key is next written
        PRIMARY KEY (tenant, key_id, position),
        FOREIGN KEY (tenant, key_id) REFERENCES keys (tenant, id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX key_secrets_by_import ON key_secrets (digest) WHERE imported = 1",
    """
    CREATE TABLE key_history (
        tenant TEXT NOT NULL,
        key_id TEXT NOT NULL,
        revision INTEGER NOT NULL, -- the one that the change led to
        at REAL NOT NULL,
        action TEXT NOT NULL,
        actor TEXT NOT NULL,
        changes TEXT NOT NULL,
        PRIMARY KEY (tenant, key_id, revision),
        FOREIGN KEY (tenant, key_id) REFERENCES keys (tenant, id)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE accounts (
        tenant TEXT NOT NULL,
        kind TEXT NOT NULL,
        realm TEXT NOT NULL,
        name TEXT NOT NULL,
        name_folded TEXT NOT NULL,
        revision INTEGER NOT NULL,
        status TEXT NOT NULL,
        limits TEXT NOT NULL,
        budgets TEXT NOT NULL,
        models TEXT,
        roles TEXT NOT NULL,
        metadata TEXT NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (tenant, kind, realm, name)
    ) STRICT, WITHOUT ROWID
    """,
    # Every process reads all of these whenever an account changes.
    "CREATE INDEX accounts_blocked ON accounts (tenant, kind, realm, name) WHERE status = 'blocked'",
    """
    CREATE TABLE account_history (
        tenant TEXT NOT NULL,
        kind TEXT NOT NULL,
        realm TEXT NOT NULL,
        name TEXT NOT NULL,
        revision INTEGER NOT NULL,
        at REAL NOT NULL,
        action TEXT NOT NULL,
        actor TEXT NOT NULL,
        changes TEXT NOT NULL,
        PRIMARY KEY (tenant, kind, realm, name, revision),
        FOREIGN KEY (tenant, kind, realm, name) REFERENCES accounts (tenant, kind, realm, name)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE idempotency (
        tenant TEXT NOT NULL,
        operation TEXT NOT NULL,
        idempotency_key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        key_id TEXT NOT NULL,
        at REAL NOT NULL,
        PRIMARY KEY (tenant, operation, idempotency_key)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX idempotency_by_age ON idempotency (tenant, at)",
    """
    CREATE TABLE changes (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        mark INTEGER NOT NULL DEFAULT (random() & 0xFFFFFFFF), -- tells this change from the one that a copy of the file has here
        facet TEXT NOT NULL,
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        at REAL NOT NULL
    ) STRICT
    """,
    # Where a process begins that asks before anything has changed.
    "INSERT INTO changes (facet, tenant, id, at) VALUES ('file', '', '', 0)",
)

_SECOND: Final = (
    """
    CREATE TABLE revocations (
        tenant TEXT NOT NULL,
        id TEXT NOT NULL,
        kind TEXT NOT NULL,
        issuer TEXT NOT NULL,
        value TEXT NOT NULL,
        issued_before REAL,
        expires_at REAL,
        created_at REAL NOT NULL,
        actor TEXT NOT NULL,
        note TEXT,
        lifted_at REAL,
        lifted_by TEXT,
        PRIMARY KEY (tenant, id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE UNIQUE INDEX revocations_standing ON revocations (tenant, kind, issuer, value) WHERE lifted_at IS NULL",
    "CREATE INDEX revocations_by_age ON revocations (tenant, created_at, id)",
    "CREATE INDEX revocations_by_end ON revocations (tenant, expires_at) WHERE expires_at IS NOT NULL",
)

# A reservation has claims of any number of tenants, so it belongs to none, and who drops what is over asks for nobody's.
_THIRD: Final = (
    """
    CREATE TABLE counters (
        tenant TEXT NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        starts_at INTEGER NOT NULL, -- of a window, and 0 for other kinds
        ends_at INTEGER NOT NULL,
        level INTEGER NOT NULL, -- what is used; of a rolling bucket, when it is full again
        part INTEGER NOT NULL, -- of a rolling bucket: the part of a microsecond, in 1 / limit
        held INTEGER NOT NULL, -- of a window: the reservations that may still be settled into it
        look_at INTEGER, -- when to see whether it can be dropped; NULL is never
        PRIMARY KEY (tenant, name, kind, starts_at, ends_at)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX counters_by_end ON counters (look_at) WHERE look_at IS NOT NULL",
    """
    CREATE TABLE reservations (
        number INTEGER PRIMARY KEY, -- the order in which they are forgotten
        id TEXT NOT NULL UNIQUE,
        at INTEGER NOT NULL,
        expires_at INTEGER NOT NULL,
        settled_at INTEGER,
        leased INTEGER NOT NULL, -- whether it has leases that have not ended
        claims TEXT NOT NULL, -- until it is settled
        answer TEXT NOT NULL, -- what the buckets stood at when it was made
        settlement TEXT -- and when it was settled
    ) STRICT
    """,
    "CREATE INDEX reservations_leased ON reservations (expires_at) WHERE leased = 1",
)

MIGRATIONS: Final = (_FIRST, _SECOND, _THIRD)

STORE: Final = Form(APPLICATION_ID, MIGRATIONS, opened_by="llm-authmw keys list")
