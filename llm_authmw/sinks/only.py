"""Which records a sink takes."""

from collections.abc import Collection
from typing import Any, Final, get_args

from llm_authmw.errors import ConfigurationError
from llm_authmw.reasons import REASONS
from llm_authmw.trail.record import Outcome, Record, RecordKind


class Only:
    """Takes records that have one of the values of every field that is named here. What is left out matters not.

    "loss" and "checkpoint" records belong to the chain itself, and are always taken.

    Args:
        kinds: Kinds of record: "request", "intent", "change", "policy".
        outcomes: Outcomes of requests: "allowed", "denied", "failed". A record without an outcome has none of them.
        reasons: Reason codes of the denial.
        layers: Layers that denied.
        tenants: Tenants.
        teams: Teams.
        operations: Operations: "chat", "mcp".
        models: Models that are asked for or were served.

    Raises:
        ConfigurationError: nothing is named, a list is empty, or a kind, an outcome or a reason does not exist.
    """

    def __init__(
        self,
        *,
        kinds: Collection[str] | None = None,
        outcomes: Collection[str] | None = None,
        reasons: Collection[str] | None = None,
        layers: Collection[str] | None = None,
        tenants: Collection[str] | None = None,
        teams: Collection[str] | None = None,
        operations: Collection[str] | None = None,
        models: Collection[str] | None = None,
    ) -> None:
        self._kinds: Final = _values("kinds", kinds, get_args(RecordKind))
        self._outcomes: Final = _values("outcomes", outcomes, get_args(Outcome))
        self._reasons: Final = _values("reasons", reasons, REASONS)
        self._layers: Final = _values("layers", layers)
        self._tenants: Final = _values("tenants", tenants)
        self._teams: Final = _values("teams", teams)
        self._operations: Final = _values("operations", operations)
        self._models: Final = _values("models", models)
        if not self._named():
            raise ConfigurationError("only", "names nothing, so that it would take everything: leave it out")

    def __repr__(self) -> str:
        return f"Only({', '.join(f'{name}={sorted(values)}' for name, values in self._named().items())})"

    def takes(self, record: Record) -> bool:
        """Say whether the sink takes this record."""
        if record.kind in {"loss", "checkpoint"}:
            return True
        who = record.who
        return (
            _has(self._kinds, record.kind)
            and _has(self._outcomes, record.outcome)
            and _has(self._reasons, record.reason)
            and _has(self._layers, record.layer)
            and _has(self._operations, record.operation)
            and _has(self._tenants, None if who is None else who.tenant)
            and _has(self._teams, None if who is None else who.team)
            and (self._models is None or not self._models.isdisjoint((*record.models, record.served)))
        )

    def _named(self) -> dict[str, frozenset[str]]:
        return {name[1:]: values for name, values in vars(self).items() if values is not None}


def _has(wanted: frozenset[str] | None, value: str | None) -> bool:
    return wanted is None or value in wanted


def _values(option: str, values: Collection[str] | None, known: Collection[str] | None = None) -> frozenset[str] | None:
    if values is None:
        return None
    given: Any = values
    if isinstance(given, str) or not isinstance(given, Collection) or not all(map(_is_text, values)):
        raise ConfigurationError(option, "takes a list of texts")
    if not values:
        raise ConfigurationError(option, "is empty, so that nothing would be taken")
    if known is not None and (unknown := sorted(set(values).difference(known))):
        raise ConfigurationError(option, f"{unknown[0]!r} does not exist")
    return frozenset(values)


def _is_text(value: object) -> bool:
    return isinstance(value, str)
