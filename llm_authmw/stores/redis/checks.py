"""Whether a server keeps what it is given. Asked of each new connection, since another server may answer behind the same address."""

from collections.abc import Mapping
from typing import Final

from llm_authmw.errors import StoreReadOnlyError, StoreUnavailableError

MIN_VERSION: Final = 6
"""Of Redis, which Valkey names too: scripts that read the clock and then write, and `SET … KEEPTTL`."""


def facts_of(info: bytes) -> Mapping[str, str]:
    """Read the answer to `INFO`."""
    lines = info.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def check_server(facts: Mapping[str, str], place: str, *, whole: bool) -> None:
    """Check what a server says of itself.

    Args:
        facts: What `INFO` says.
        place: The server's name in errors.
        whole: It holds money too, which must survive a restart.

    Raises:
        StoreUnavailableError: it is too old, may drop what it was given, or does not write it to its disk. It is asked anew with
            the next connection.
        StoreReadOnlyError: it is a replica.
    """
    version = facts.get("redis_version", "0").partition(".")[0]
    if not version.isdecimal() or int(version) < MIN_VERSION:
        raise StoreUnavailableError(f"{place} is older than Redis {MIN_VERSION}, or is no Redis")
    # In a cluster, a replica says which node to ask.
    if facts.get("role", "master") != "master" and facts.get("cluster_enabled") != "1":
        raise StoreReadOnlyError(f"{place} is a replica, which cannot be written; name the primary")
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        # Whoever can fill the memory could have counters dropped that stand in the way.
        raise StoreUnavailableError(
            f"{place} drops keys when its memory is full (maxmemory-policy {policy}), and limits with them: "
            "set maxmemory-policy noeviction, or give the ledger a server of its own"
        )
    if whole and facts.get("aof_enabled") != "1":
        raise StoreUnavailableError(
            f"{place} keeps nothing when it restarts (appendonly no), and is to hold the whole ledger: set appendonly yes"
        )
