"""Which limits, or budgets, a request falls under: those of the layer, of the caller's tier, of its accounts and of its own."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final, TypeAlias, cast

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, Denial, InvalidValueError
from llm_authmw.limits.asked import Asked
from llm_authmw.limits.counted import Counted, Quota, Windows, measure_of
from llm_authmw.limits.dimensions import CHOSEN_BY_CALLERS, escaped, own_subject
from llm_authmw.limits.holders import Fixed, Holder, Missing, Rule, make_room
from llm_authmw.limits.model_groups import ModelGroups
from llm_authmw.limits.scopes import Scope
from llm_authmw.names import Names, name_problem
from llm_authmw.principal import Principal
from llm_authmw.quota import Budget, Limit

__all__ = ("Asked", "Counted", "Holder", "Limits", "Missing", "Plan", "Tiers")

Quotas: TypeAlias = Sequence[str] | Sequence[Limit] | Sequence[Budget] | Sequence[str | Limit] | Sequence[str | Budget]
Limits: TypeAlias = Mapping[str, Quotas]
"""Limits, or budgets, under the scope that each is counted by."""
Tiers: TypeAlias = Mapping[str, Quotas | Limits]
"""Limits under the name of a tier: a list, which is counted for each caller, or scopes as in `Limits`."""

MAX_HOLDERS: Final = 8192
"""Callers whose limits are remembered."""

_OF_TIER: Final = 16
_OWN: Final = 32
_CALLER: Final = "caller"


class Plan:
    """The limits, or the budgets, of one layer.

    Of several for one subject, measure and window one holds: a caller's or an account's own before those of a tier, these before the
    layer's, and one that names a value before one that does not. Others add up: each of them has to let a request through.

    Args:
        quota: `Limit` or `Budget`: what the lists hold.
        limits: The layer's own, under their scopes.
        tiers: Those of each tier; None where tiers are no matter of this layer.
        model_groups: Model patterns under the name of a group.
        missing: What becomes of a request that lacks what a limit is counted by.
        clock: Gives the time, for calendar windows and increases that end.

    Attributes:
        needs_call: Whether some limit can only be counted when it is known what a request asks for.
        needs_address: Whether one is counted by the client's address.
        needs_caller: Whether one is counted by who is calling.
        measures: What is counted, as far as the layer says so: callers and accounts may have other limits.
        scopes: What is counted by what, over which window, as far as the layer says so.
        tiers: The names of the tiers; None where they are no matter of this layer.

    Raises:
        ConfigurationError: a scope or a limit is outside its grammar, says nothing new, would be ignored, or can be got around.
    """

    __slots__ = (
        "_clock",
        "_groups",
        "_holders",
        "_limits",
        "_missing",
        "_quota",
        "_scopes",
        "_tiers",
        "_windows",
        "measures",
        "needs_address",
        "needs_call",
        "needs_caller",
        "scopes",
        "tiers",
    )

    def __init__(
        self,
        *,
        quota: type[Limit] | type[Budget],
        limits: Limits | None = None,
        tiers: Tiers | None = None,
        model_groups: Mapping[str, Names] | None = None,
        missing: Missing = "deny",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if missing not in ("deny", "skip"):
            raise ConfigurationError("missing", "is 'deny' or 'skip'")
        self._quota: Final = quota
        self._missing: Final[Missing] = missing
        self._clock: Final = clock
        self._windows: Final = Windows()
        self._groups: Final = ModelGroups({} if model_groups is None else model_groups)
        self._holders: Final[dict[tuple[Principal, str | None], Holder]] = {}
        self._limits: Final = self._rules("limits", {} if limits is None else limits, 0)
        self._tiers: Final = {} if tiers is None else self._rules_of_tiers(tiers)
        self.tiers: frozenset[str] | None = None if tiers is None else frozenset(self._tiers)
        rules = [rule for rules in (self._limits, *self._tiers.values()) for rule in rules]
        self.needs_call: Final = any(rule.scope.needs_call for rule in rules)
        self.needs_address: Final = any(rule.scope.needs_address for rule in rules)
        self.needs_caller: Final = any(rule.scope.needs_caller for rule in rules)
        self.measures: Final = frozenset(measure_of(rule.quota) for rule in rules)
        self.scopes: Final = frozenset((rule.scope.text, measure_of(rule.quota), rule.quota.window) for rule in rules)
        self._scopes: Final = {kind: Scope.parse(kind) for kind in ("key", _CALLER, "user", "team", "org", "end_user")}
        self._check_groups(rules)

    def counted(self, asked: Asked, accounts: Sequence[AccountRecord]) -> tuple[Counted, ...]:
        """Return the buckets that a request is counted in.

        Args:
            asked: Who asks, and for what.
            accounts: The accounts that the caller belongs to, as far as they exist.

        Raises:
            Denial: the caller's tier is not defined, something that a limit is counted by is missing, or there are too many buckets.
        """
        return self.holder(asked.principal, asked.tier, accounts).counted(asked)

    def holder(self, principal: Principal, tier: str | None, accounts: Sequence[AccountRecord]) -> Holder:
        """Return what limits a caller, which is the same for all of its requests.

        Args:
            principal: Who is calling; its own tier goes before `tier`.
            tier: The tier that its role gives.
            accounts: The accounts that it belongs to, as far as they exist.

        Raises:
            Denial: as `counted`.
        """
        key = (principal, tier)
        holder = self._holders.get(key)
        if holder is not None and (holder.accounts is accounts or holder.accounts == accounts) and holder.until > self._clock.now():
            return holder
        holder = self._new_holder(principal, tier, accounts)
        make_room(self._holders, MAX_HOLDERS)
        self._holders[key] = holder
        return holder

    def other_than(self, inner: "Plan") -> tuple[Rule, Rule] | None:
        """Return a rule of this plan, and one of a layer further in that says something else of the same buckets; None without any."""
        for one, other in product(self._limits, inner._limits):  # noqa: SLF001 - another one of this class
            same = one.scope.text == other.scope.text and measure_of(one.quota) == measure_of(other.quota)
            if same and one.quota.window == other.quota.window and one.quota != other.quota:
                return one, other
        return None

    def leave_tiers(self) -> None:
        """Leave the tiers to another layer: which of them there are, that one says."""
        self.tiers = None

    def __repr__(self) -> str:
        parts = [f"{scope}={[str(rule.quota) for rule in self._limits if rule.scope.text == scope]}" for scope in self._texts]
        return ", ".join(parts)

    @property
    def _texts(self) -> list[str]:
        return list(dict.fromkeys(rule.scope.text for rule in self._limits))

    def _new_holder(self, principal: Principal, tier: str | None, accounts: Sequence[AccountRecord]) -> Holder:
        rules = self._limits
        named = principal.tier if principal.tier is not None else tier
        if self.tiers is not None and named is not None:
            of_tier = self._tiers.get(named)
            if of_tier is None:
                raise Denial("tier_unknown", rule=named)
            rules = [*rules, *of_tier]
        return Holder(
            rules,
            self._own(principal, accounts),
            Asked(principal, named, None, "", ""),
            missing=self._missing,
            windows=self._windows,
            clock=self._clock,
            accounts=accounts,
        )

    def _own(self, principal: Principal, accounts: Sequence[AccountRecord]) -> list[Fixed]:
        """Return the limits of the caller's own, and of its accounts."""
        field = "limits" if self._quota is Limit else "budgets"
        own = own_subject(principal)
        quotas: tuple[Quota, ...] = getattr(principal, field)
        found: list[Fixed] = []
        if own is not None:
            scope = self._scopes[own.partition(":")[0]]
            found = [Fixed(Rule(_OWN, scope, quota), own) for quota in quotas]
        for account in accounts:
            name = escaped(account.name)
            subject = f"user:{escaped(account.realm)}/{name}" if account.kind == "user" else f"{account.kind}:{name}"
            scope = self._scopes[account.kind]
            found += [Fixed(Rule(_OWN, scope, quota), subject) for quota in getattr(account, field)]
        return found

    def _rules_of_tiers(self, tiers: object) -> dict[str, list[Rule]]:
        if not isinstance(tiers, Mapping):
            raise ConfigurationError("tiers", f"takes names and limits, such as {{'silver': […]}}, not {type(tiers).__name__}")
        found: dict[str, list[Rule]] = {}
        for name, limits in cast("Mapping[object, object]", tiers).items():
            problem = name_problem(name) if isinstance(name, str) else "is not a text"
            if problem is not None:
                raise ConfigurationError("tiers", f"has a name that {problem}")
            option = f"tiers[{name!r}]"
            found[str(name)] = self._rules(option, cast("object", limits) if isinstance(limits, Mapping) else {_CALLER: limits}, _OF_TIER)
        return found

    def _rules(self, option: str, limits: object, rank: int) -> list[Rule]:
        if not isinstance(limits, Mapping):
            raise ConfigurationError(option, f"takes scopes and lists, such as {{'team': […]}}, not {type(limits).__name__}")
        rules: list[Rule] = []
        seen: set[str] = set()
        for text, quotas in cast("Mapping[object, object]", limits).items():
            try:
                scope = Scope.parse(text if isinstance(text, str) else repr(text), self._groups)
            except InvalidValueError as error:
                raise ConfigurationError(option, str(error)) from error
            if scope.text in seen:
                raise ConfigurationError(option, f"has the scope {scope.text!r} twice")
            seen.add(scope.text)
            rules += [Rule(rank + scope.values, scope, quota) for quota in self._quotas(option, scope, quotas)]
        _refuse_what_callers_choose(option, [rule.scope for rule in rules])
        return rules

    def _quotas(self, option: str, scope: Scope, given: Any) -> list[Quota]:
        if not isinstance(given, list | tuple) or not given:
            raise ConfigurationError(option, f"has {given!r} for {scope.text!r}, where a list is expected: ['{_EXAMPLES[self._quota]}']")
        quotas: list[Quota] = []
        for one in cast("Sequence[object]", given):
            try:
                quota = self._quota.parse(one) if isinstance(one, str) else one
            except InvalidValueError as error:
                raise ConfigurationError(option, str(error)) from error
            if not isinstance(quota, self._quota):
                raise ConfigurationError(option, f"has {one!r} for {scope.text!r}, which is no {self._quota.__name__}")
            if any(measure_of(quota) == measure_of(other) and quota.window == other.window for other in quotas):
                raise ConfigurationError(option, f"has '{quota}' for {scope.text!r} beside another one of the same kind and window")
            quotas.append(quota)
        return quotas

    def _check_groups(self, rules: Sequence[Rule]) -> None:
        texts = {part for rule in rules for part in rule.scope.text.split("+")}
        for name in self._groups.names:
            if "model_group" not in texts and not any(Scope.parse(f"model_group:{name}", self._groups).text == text for text in texts):
                raise ConfigurationError("model_groups", f"has {name!r}, by which nothing is counted")


def buckets_of(
    principal: Principal, accounts: Sequence[AccountRecord], quota: type[Limit] | type[Budget], *, clock: Clock = SYSTEM_CLOCK
) -> tuple[Counted, ...]:
    """Return the buckets of a caller's own limits, or budgets, and of those of its accounts: where every layer counts them.

    Args:
        principal: Who is calling; anonymous, with the tenant of the accounts, where only these are meant.
        accounts: The accounts that it belongs to.
        quota: `Limit` or `Budget`: which of both.
        clock: Gives the time.

    Raises:
        Denial: there are more than one request may be counted in.
    """
    return Plan(quota=quota, clock=clock).counted(Asked(principal, None, None, "", ""), accounts)


_EXAMPLES: Final[dict[type[Limit] | type[Budget], str]] = {Limit: "60 requests/minute", Budget: "50 usd/month"}


def _refuse_what_callers_choose(option: str, scopes: Sequence[Scope]) -> None:
    """Refuse limits that whoever names another end user with each request is under none of."""
    chosen = [scope for scope in scopes if not CHOSEN_BY_CALLERS.isdisjoint(scope.text.split("+"))]
    if chosen and len(chosen) == len(scopes):
        raise ConfigurationError(
            option,
            f"has {chosen[0].text!r} and nothing that holds whatever the caller names: add one by 'caller', 'key', 'team' or 'global'",
        )
