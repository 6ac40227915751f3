"""What the server's errors mean to whoever runs it. The texts name the server and what to do: no password, no user, no key."""

from typing import Final

from redis import exceptions

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError

_NO_MEMORY: Final = "has no memory left, and took nothing; raise its maxmemory"
_MOVING: Final = "is part of a cluster that is moving the ledger to another node; try again"
_REPLICA: Final = "is a replica, which cannot be written; name the primary"

_KINDS: Final[tuple[tuple[type[exceptions.RedisError], type[StoreError], str], ...]] = (
    (
        exceptions.AuthenticationError,
        StoreError,
        "refuses this user; check the name and the password",
    ),
    (exceptions.NoPermissionError, StoreError, "does not let this user run scripts, INFO, or commands on the ledger's keys"),
    (exceptions.BusyLoadingError, StoreUnavailableError, "is loading its data; try again"),
    (exceptions.ConnectionError, StoreUnavailableError, "cannot be reached, or closed the connection; try again"),
    (exceptions.OutOfMemoryError, StoreUnavailableError, _NO_MEMORY),
    (exceptions.ReadOnlyError, StoreReadOnlyError, _REPLICA),
    (exceptions.ClusterDownError, StoreUnavailableError, "has lost its primary, or its cluster is down; try again"),
    (exceptions.TryAgainError, StoreUnavailableError, _MOVING),
    (exceptions.AskError, StoreUnavailableError, _MOVING),
)
_CODES: Final[dict[str, tuple[type[StoreError], str]]] = {
    "BUSY": (StoreUnavailableError, "is busy with a script of somebody else's; try again"),
    "MISCONF": (StoreUnavailableError, "cannot write to its disk, and takes nothing until it can; look into its log"),
    "NOREPLICAS": (StoreUnavailableError, "has too few replicas to take a write; try again"),
    "OOM": (StoreUnavailableError, _NO_MEMORY),
    "READONLY": (StoreReadOnlyError, _REPLICA),
    "WRONGTYPE": (StoreCorruptError, "holds something else where the ledger should be; give the ledger a database of its own"),
}


def store_error(error: exceptions.RedisError | OSError, place: str) -> StoreError:
    """Return what `error` means."""
    if isinstance(error, OSError):
        return StoreUnavailableError(f"{place} cannot be reached; try again")
    for kind, meaning, text in _KINDS:
        if isinstance(error, kind):
            return meaning(f"{place} {text}")
    # The first word is the kind of error; before Redis 7 it stands behind where in a script it happened. The rest may quote what was asked.
    code = next((word for word in str(error).replace("-", " ").split() if word in _CODES), "")
    meaning, text = _CODES.get(code, (StoreError, "refused a step of the ledger with an error of its own; look into its log"))
    return meaning(f"{place} {text}")
