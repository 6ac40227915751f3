"""The form of the file that the audit trail is in, beside the store's: one entry per release that changed it."""

from typing import Final

from llm_authmw.stores.sqlite.form import Form

# Entries are in the order in which they came, of all tenants together: whoever runs the proxy reads them, and a chain holds those of
# all tenants. Sums begin with the tenant.
_FIRST: Final = (
    """
    CREATE TABLE entries (
        position INTEGER PRIMARY KEY AUTOINCREMENT, -- never given twice, whatever is removed
        writer TEXT NOT NULL,
        sequence INTEGER NOT NULL,
        time INTEGER NOT NULL, -- microseconds since 1970
        kind TEXT NOT NULL,
        tenant TEXT,
        realm TEXT,
        outcome TEXT,
        hash TEXT NOT NULL,
        sealed TEXT NOT NULL,
        person TEXT, -- NULL once it is forgotten
        terms TEXT NOT NULL -- what it has rows for in the table of terms
    ) STRICT
    """,
    "CREATE UNIQUE INDEX entries_by_writer ON entries (writer, sequence)",
    "CREATE INDEX entries_by_time ON entries (time)",
    "CREATE INDEX entries_by_tenant ON entries (tenant)",
    "CREATE INDEX entries_by_kind ON entries (kind) WHERE kind NOT IN ('request', 'intent')",
    "CREATE INDEX entries_by_outcome ON entries (outcome) WHERE outcome IN ('denied', 'failed')",
    """
    CREATE TABLE terms (
        term TEXT NOT NULL,
        position INTEGER NOT NULL,
        PRIMARY KEY (term, position)
    ) STRICT, WITHOUT ROWID
    """,
    """
    CREATE TABLE sums (
        tenant TEXT NOT NULL,
        day INTEGER NOT NULL, -- since 1970, in UTC
        key TEXT NOT NULL, -- here and below, the empty text is nothing
        realm TEXT NOT NULL,
        user TEXT NOT NULL,
        team TEXT NOT NULL,
        org TEXT NOT NULL,
        model TEXT NOT NULL,
        extra TEXT NOT NULL,
        requests INTEGER NOT NULL,
        denied INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        input_tokens INTEGER NOT NULL,
        output_tokens INTEGER NOT NULL,
        cost INTEGER NOT NULL, -- nano-dollars
        latency TEXT NOT NULL, -- counts by bucket
        first_byte TEXT NOT NULL,
        PRIMARY KEY (tenant, day, key, realm, user, team, org, model, extra)
    ) STRICT, WITHOUT ROWID
    """,
)

AUDIT: Final = Form(0x61_75_64_74, (_FIRST,), opened_by="llm-authmw audit search")
"""`audt`, in the file's header."""
