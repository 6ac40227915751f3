"""Keys, accounts and revocations as tables and as JSON objects. Neither holds a secret, because the records hold none."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.cli.durations import exact, relative
from llm_authmw.cli.output import Column, emit, print_fields, print_table, say
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import KeyRecord
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.tokens.revocation_records import Revocation

_MOMENTS = frozenset({"created_at", "rotated_at", "last_used_at", "not_before", "expires_at"})


def title(record: KeyRecord) -> str:
    """Return a key's id, and its name if it has one."""
    return record.id if record.name is None else f"{record.id} ({record.name})"


def key_object(record: KeyRecord, now: float) -> dict[str, Any]:
    """Return a key as `--json` gives it: the record, and its state at this moment."""
    return {**record.as_dict(), "state": record.state(now)}


def print_keys(records: Sequence[KeyRecord], now: float) -> None:
    """Print keys as a table; the tenant only where it says something."""
    several = any(record.tenant != DEFAULT_TENANT for record in records)
    columns = [
        Column("ID"),
        *([Column("TENANT", "cut")] if several else []),
        Column("NAME", "cut"),
        Column("OWNER", "cut"),
        Column("STATE", colored=True),
        Column("EXPIRES"),
        Column("LAST USED"),
    ]
    rows = [
        [
            record.id,
            *([record.tenant] if several else []),
            record.name,
            _owner(record),
            record.state(now),
            _when(record.expires_at, now),
            _when(record.last_used_at, now),
        ]
        for record in records
    ]
    print_table(columns, rows)


def print_key(record: KeyRecord, history: Sequence[HistoryEntry], *, now: float, as_json: bool) -> None:
    """Print everything that is known of a key."""
    if as_json:
        emit({**key_object(record, now), "history": msgspec.to_builtins(history)})
        return
    print_fields(
        [
            ("id", record.id),
            ("name", record.name),
            ("ends in", record.last_four or None),
            ("state", record.state(now)),
            ("tenant", record.tenant),
            ("user", None if record.user is None else f"{record.user} (realm {record.realm})"),
            ("team", record.team),
            ("org", record.org),
            ("roles", _listed(record.roles)),
            ("scopes", _listed(record.scopes)),
            ("models", _restriction(record.models)),
            ("routes", _restriction(record.routes)),
            ("networks", _restriction(record.networks)),
            ("tier", record.tier),
            ("limits", _listed(record.limits)),
            ("budgets", _listed(record.budgets)),
            ("tags", _listed(record.tags)),
            ("metadata", _pairs(record.metadata)),
            ("not before", None if record.not_before is None else _exactly(record.not_before, now)),
            ("expires", _exactly(record.expires_at, now)),
            ("created", _exactly(record.created_at, now)),
            ("rotated", _exactly(record.rotated_at, now)),
            ("last used", _exactly(record.last_used_at, now)),
            ("imported", "yes, until it is rotated" if record.imported else None),
        ]
    )
    _print_history(history)


def print_accounts(records: Sequence[AccountRecord]) -> None:
    """Print accounts as a table; tenant and realm only where they say something."""
    tenants = any(record.tenant != DEFAULT_TENANT for record in records)
    realms = any(record.realm for record in records)
    columns = [
        Column("KIND"),
        Column("NAME", "cut"),
        *([Column("TENANT", "cut")] if tenants else []),
        *([Column("REALM", "cut")] if realms else []),
        Column("STATUS", colored=True),
        Column("LIMITS", "cut"),
        Column("BUDGETS", "cut"),
    ]
    rows = [
        [
            record.kind,
            record.name,
            *([record.tenant] if tenants else []),
            *([record.realm or None] if realms else []),
            record.status,
            _listed(record.limits),
            _listed(record.budgets),
        ]
        for record in records
    ]
    print_table(columns, rows)


def print_account(record: AccountRecord, history: Sequence[HistoryEntry], *, now: float, as_json: bool) -> None:
    """Print everything that is known of an account."""
    if as_json:
        emit({**record.as_dict(), "history": msgspec.to_builtins(history)})
        return
    print_fields(
        [
            ("kind", record.kind),
            ("name", record.name),
            ("status", record.status),
            ("tenant", record.tenant),
            ("realm", record.realm or None),
            ("roles", _listed(record.roles)),
            ("models", _restriction(record.models)),
            ("limits", _listed(record.limits)),
            ("budgets", _listed(record.budgets)),
            ("metadata", _pairs(record.metadata)),
            ("created", _exactly(record.created_at, now)),
        ]
    )
    _print_history(history)


def print_revocations(revocations: Sequence[Revocation], now: float) -> None:
    """Print revocations as a table; what only some of them have only where it says something."""
    tenants = any(revocation.tenant != DEFAULT_TENANT for revocation in revocations)
    subjects = any(revocation.issued_before is not None for revocation in revocations)
    lifted = any(revocation.lifted_at is not None for revocation in revocations)
    columns = [
        Column("ID"),
        Column("KIND"),
        Column("VALUE", "cut"),
        Column("ISSUER", "cut"),
        *([Column("TENANT", "cut")] if tenants else []),
        *([Column("ISSUED UNTIL")] if subjects else []),
        Column("REVOKED"),
        Column("BY", "cut"),
        *([Column("LIFTED"), Column("BY", "cut")] if lifted else []),
        Column("EXPIRES"),
        Column("NOTE", "cut"),
    ]
    rows = [
        [
            revocation.id,
            revocation.kind,
            revocation.value,
            revocation.issuer,
            *([revocation.tenant] if tenants else []),
            *([None if revocation.issued_before is None else exact(revocation.issued_before)] if subjects else []),
            relative(revocation.created_at, now),
            revocation.actor,
            *([None if revocation.lifted_at is None else relative(revocation.lifted_at, now), revocation.lifted_by] if lifted else []),
            _when(revocation.expires_at, now),
            revocation.note,
        ]
        for revocation in revocations
    ]
    print_table(columns, rows)


def _print_history(history: Sequence[HistoryEntry]) -> None:
    say("")
    rows = [[exact(entry.at), entry.action, entry.actor, _changes(entry)] for entry in history]
    print_table([Column("WHEN"), Column("WHAT"), Column("WHO", "cut"), Column("CHANGES", "wrap")], rows)


def _changes(entry: HistoryEntry) -> str:
    return "; ".join(
        f"{field}: {_value(field, after)}" if before is None else f"{field}: {_value(field, before)} → {_value(field, after)}"
        for field, (before, after) in entry.changes.items()
    )


def _value(field: str, value: Any) -> str:
    if value is None:
        return "-"
    if field in _MOMENTS:
        return exact(value)
    if isinstance(value, list):
        return ", ".join(map(repr, cast("list[object]", value))) or "none"
    return _pairs(cast("dict[str, str]", value)) or "none" if isinstance(value, dict) else str(value)


def _owner(record: KeyRecord) -> str | None:
    owners = (("user", record.user), ("team", record.team), ("org", record.org))
    return ", ".join(f"{kind} {name}" for kind, name in owners if name is not None) or None


def _when(moment: float | None, now: float) -> str:
    return "never" if moment is None else relative(moment, now)


def _exactly(moment: float | None, now: float) -> str:
    return "never" if moment is None else f"{exact(moment)} ({relative(moment, now)})"


def _listed(values: Sequence[object]) -> str | None:
    return "; ".join(str(value) for value in values) or None


def _restriction(values: Sequence[str] | None) -> str:
    return "any" if values is None else _listed(values) or "none: nothing is allowed"


def _pairs(metadata: dict[str, str]) -> str | None:
    return "; ".join(f"{name}={value}" for name, value in metadata.items()) or None
