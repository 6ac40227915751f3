"""What a tenant knows of its users, teams, organisations and end users."""

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, get_args

import msgspec

from llm_authmw import fields
from llm_authmw.errors import InvalidValueError
from llm_authmw.names import Names, name_problem, name_set
from llm_authmw.principal import DEFAULT_TENANT, Principal
from llm_authmw.quota import Budget, Limit

AccountKind: TypeAlias = Literal["user", "team", "org", "end_user"]
AccountStatus: TypeAlias = Literal["active", "blocked"]

ACCOUNT_KINDS: Final[tuple[AccountKind, ...]] = get_args(AccountKind)


class AccountRef(NamedTuple):
    """Which account. A user is one person within a realm; the other kinds have none, and their realm is empty."""

    tenant: str
    kind: AccountKind
    realm: str
    name: str


class AccountFields(TypedDict, total=False):
    """What a person decides about an account: the arguments of `create` and `update`.

    Attributes:
        limits: Rate limits, as `Limit` or text.
        budgets: Budgets, as `Budget` or text.
        models: Model patterns; None is no restriction, an empty list allows none.
        roles: Roles that the account gives.
        metadata: Up to 16 texts of the team's own; never looked at.
    """

    limits: list[str] | list[Limit] | tuple[str, ...] | tuple[Limit, ...]
    budgets: list[str] | list[Budget] | tuple[str, ...] | tuple[Budget, ...]
    models: Names | None
    roles: Names
    metadata: Mapping[str, str]


class AccountRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An account as people see it. Times are seconds since 1970; `revision` counts the changes."""

    kind: AccountKind
    name: str
    created_at: float
    tenant: str = DEFAULT_TENANT
    realm: str = ""
    status: AccountStatus = "active"
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    models: tuple[str, ...] | None = None
    roles: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    revision: int = 1

    @property
    def ref(self) -> AccountRef:
        """Which account this is."""
        return AccountRef(self.tenant, self.kind, self.realm, self.name)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, limits and budgets as text."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        values["limits"] = [str(limit) for limit in self.limits]
        values["budgets"] = [str(budget) for budget in self.budgets]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "AccountRecord":
        """Read what `as_dict` gave.

        Raises:
            msgspec.ValidationError: it is not such a dictionary.
            InvalidValueError: a limit or a budget in it cannot be read.
        """
        limits = [Limit.parse(text) for text in values.get("limits", ())]
        budgets = [Budget.parse(text) for text in values.get("budgets", ())]
        return msgspec.convert({**values, "limits": limits, "budgets": budgets}, cls)


def accounts_of(principal: Principal) -> list[AccountRef]:
    """Return the accounts that a principal belongs to: if one of them is blocked, so is the principal."""
    refs: list[AccountRef] = []
    if principal.user is not None:
        refs.append(AccountRef(principal.tenant, "user", principal.realm, principal.user))
    if principal.team is not None:
        refs.append(AccountRef(principal.tenant, "team", "", principal.team))
    if principal.org is not None:
        refs.append(AccountRef(principal.tenant, "org", "", principal.org))
    return refs


def check_ref(ref: AccountRef) -> AccountRef:
    """Return `ref` if it names an account that can exist.

    Raises:
        InvalidValueError: it does not; says why.
    """
    if ref.kind not in ACCOUNT_KINDS:
        raise InvalidValueError(f"{ref.kind!r} is not a kind of account: expected one of {', '.join(ACCOUNT_KINDS)}")
    for field, text in (("tenant", ref.tenant), ("name", ref.name)):
        problem = name_problem(text)
        if problem is not None:
            raise InvalidValueError(f"the account's {field} {problem}")
    if bool(ref.realm) != (ref.kind == "user"):
        raise InvalidValueError("a user is named within a realm" if ref.kind == "user" else f"{ref.kind} accounts have no realm")
    if ref.realm:
        problem = name_problem(ref.realm)
        if problem is not None:
            raise InvalidValueError(f"the account's realm {problem}")
    return ref


def clean_account_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the fields of a new or changed account; they have the grammar of a key's.

    Raises:
        InvalidValueError: a value is outside its grammar.
        ConfigurationError: a list is a bare string.
        TypeError: a field does not exist.
    """
    return fields.checked("an account", _CHECKS, given)


_CHECKS: Final[dict[str, fields.Check]] = {
    "limits": fields.limits,
    "budgets": fields.budgets,
    "models": fields.models,
    "roles": name_set,
    "metadata": fields.metadata,
}
