"""What PostgreSQL's errors mean to whoever runs the store. The texts name the server and what to do; they hold no row and no password.

What the server itself writes is not passed on: it quotes values.
"""

import ssl
from typing import Final

import asyncpg

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores.rows import UnreadableRowError

LOST: Final = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
"""What says that a connection is of no more use, and perhaps all that were made before it."""
ERRORS: Final = (*LOST, asyncpg.PostgresError)
"""What a connection may raise."""

_UNAVAILABLE: Final = {
    "3D000": "has no database of this name; make it first: createdb",
    "53100": "cannot grow: its disk is full. Nothing was written; free some space",
    "53300": "has no connection left; let it have more (max_connections), or put a pooler in front of it",
    "57014": "stopped what was asked, since it took too long (statement_timeout)",
    "55P03": "is busy with another change; try again",
    "40001": "is busy with another change; try again",
    "40P01": "is busy with another change; try again",
}
READ_ONLY: Final = {
    "25006": "cannot be written: it is a standby, or its transactions are read-only. Nothing was changed",
    "42501": "does not allow this user to do that; grant it the rights. Nothing was changed",
}
_CORRUPT: Final = {
    "42P01": "does not have the tables that were made there",
    "42703": "has tables of another form than was made there",
    "42883": "does not have the functions that were made there",
    "XX001": "is damaged: it reports so itself. Restore it from a copy",
    "XX002": "is damaged: it reports so itself. Restore it from a copy",
}


def store_error(error: Exception, place: str) -> StoreError:
    """Return what `error` means.

    Args:
        error: One of `ERRORS`, or `UnreadableRowError`.
        place: Where the server is.
    """
    if isinstance(error, UnreadableRowError):
        return StoreCorruptError(f"{place} is damaged: it cannot be read as what was written. Restore it from a copy")
    code = error.sqlstate if isinstance(error, asyncpg.PostgresError) else None
    if code in _UNAVAILABLE:
        return StoreUnavailableError(f"{place} {_UNAVAILABLE[code]}")
    if code in READ_ONLY:
        return StoreReadOnlyError(f"{place} {READ_ONLY[code]}")
    if code in _CORRUPT:
        return StoreCorruptError(f"{place} {_CORRUPT[code]}")
    if code is not None and code.startswith("28"):
        return StoreUnavailableError(f"{place} refuses this user: check the user, the password and sslmode in the URL, and its pg_hba.conf")
    if isinstance(error, ssl.SSLCertVerificationError):
        return StoreUnavailableError(f"{place} shows a certificate that is not trusted; check sslrootcert, and the host's name in the URL")
    if isinstance(error, LOST):
        return StoreUnavailableError(f"{place} cannot be reached, or has closed the connection{_reason(error)}; try again")
    return StoreError(f"{place} refused what was asked (SQLSTATE {code}); look into its log")


def _reason(error: Exception) -> str:
    """Return what the operating system says; what asyncpg says of a server that speaks no TLS holds its address only."""
    said = error.strerror or str(error) if isinstance(error, OSError) else ""
    return f" ({said})" if said else ""


def too_slow(place: str, *, changing: bool) -> StoreUnavailableError:
    """Return the error for a server that does not answer."""
    perhaps = "; a change may have been made all the same" if changing else ""
    return StoreUnavailableError(f"{place} did not answer in time{perhaps}")
