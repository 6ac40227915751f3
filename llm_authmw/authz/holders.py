"""Which roles a caller has, and how each was obtained."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from llm_authmw.authz.grants import FOUND, Grant
from llm_authmw.authz.models import NameTable
from llm_authmw.authz.routes import RouteTable
from llm_authmw.authz.tables import RoleTables
from llm_authmw.names import names
from llm_authmw.network import Network, parse_network
from llm_authmw.patterns import ModelPattern, RoutePattern
from llm_authmw.principal import NAMED_BY_OTHERS, Principal

MAX_HOLDERS: Final = 4096
"""Callers whose roles are remembered."""
MAX_OF_ONE: Final = 64
"""Answers that the table of one credential's own remembers: there may be many such tables."""


class Holder(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A caller, and the roles that he has.

    Attributes:
        principal: Who.
        roles: The roles that he has, inherited ones too, in the order in which they were declared.
        mask: The same as bits.
        refusal: The reason code that refuses him whatever he asks for: nobody, no role, or one that is not defined.
        on_trial: Whether all his roles are in shadow.
        scopes: The roles, of all, whose scopes he has.
        assurance: The roles that his assurance is enough for.
        acr: The roles that accept his login's class.
        able: His own roles among those of `scopes`, `assurance` and `acr`.
        routes: The routes of the credential's own; None is no restriction.
        networks: Its networks, likewise.
        models: Its models, likewise.
        needs_address: Whether what he may do depends on where he is.
    """

    principal: Principal
    roles: tuple[str, ...]
    mask: int
    refusal: str | None
    on_trial: bool
    scopes: int
    assurance: int
    acr: int
    able: int
    routes: RouteTable | None
    networks: tuple[Network, ...] | None
    models: NameTable | None
    needs_address: bool


class Obtained(msgspec.Struct, frozen=True):
    """One way in which a caller has a role.

    Attributes:
        role: The role.
        how: "own" where our records or the user's function give it, "grant", "default".
        grant: Which grant gives it: its place among them, from 0.
    """

    role: str
    how: str
    grant: int | None = None


class Holders:
    """Find the roles of callers; remember those of a bounded number.

    Args:
        tables: The roles.
        reach: The roles that come with each role, as bits.
        grants: The grants.
        default_role: The role of whoever has none.
    """

    def __init__(self, tables: RoleTables, reach: Mapping[str, int], grants: Sequence[Grant], default_role: str | None) -> None:
        self._tables: Final = tables
        self._reach: Final = reach
        self.grants: Final = tuple(grants)
        self._default: Final = default_role
        self._looks_at_claims: Final = any(grant.claims is not None for grant in grants)
        self._remembered: Final[dict[Principal, Holder]] = {}
        # A grant is looked at where its first text is one that the caller has: he has few, and there may be a thousand grants.
        self._by_text: Final[dict[str, dict[str, list[int]]]] = {}
        self._others: Final[list[int]] = []
        for number, grant in enumerate(self.grants):
            for field, wanted in grant.texts.items():
                self._by_text.setdefault(field, {}).setdefault(wanted, []).append(number)
                break
            else:
                self._others.append(number)

    def find(self, principal: Principal) -> Holder:
        """Return the caller's roles.

        Raises:
            AuthmwError: a restriction of the credential's own cannot be read, so that nothing can be decided.
        """
        known = self._remembered.get(principal)
        if known is not None and (known.principal is principal or not self._looks_at_claims or _same_claims(known.principal, principal)):
            return known
        holder = self._look(principal)
        if len(self._remembered) >= MAX_HOLDERS:
            self._remembered.clear()
        # Taken out first: a dictionary keeps the key that it has, and the holder has to be this principal's.
        self._remembered.pop(principal, None)
        self._remembered[principal] = holder
        return holder

    def granting(self, principal: Principal) -> Iterator[int]:
        """Yield the grants that give their role to this caller, by their place."""
        candidates = list(self._others)
        for field, by_text in self._by_text.items():
            found = FOUND[field](principal)
            for text in found if isinstance(found, tuple) else (found,):
                if isinstance(text, str):
                    candidates += by_text.get(text, ())
        yield from (number for number in sorted(candidates) if self.grants[number].holds(principal))

    def obtained(self, principal: Principal) -> list[Obtained]:
        """Return every way in which the caller has a role, the inherited ones left out; an own role may be one that is not defined."""
        if not principal.is_authenticated:
            return []
        ways = [] if principal.method in NAMED_BY_OTHERS else [Obtained(role, "own") for role in principal.roles]
        ways += [Obtained(self.grants[number].role, "grant", number) for number in self.granting(principal)]
        if not ways and self._default is not None:
            ways.append(Obtained(self._default, "default"))
        return ways

    def _look(self, principal: Principal) -> Holder:
        tables = self._tables
        refusal, mask = None, 0
        for way in self.obtained(principal):
            if way.role in self._reach:
                mask |= self._reach[way.role]
            else:
                refusal = "role_unknown"
        if not principal.is_authenticated:
            refusal = "missing_credential"
        elif not mask and refusal is None:
            refusal = "role_missing"
        scopes, assurance, acr = tables.scopes(principal.scopes), tables.assurance(principal.assurance), tables.acr(principal.acr)
        return Holder(
            principal=principal,
            roles=tables.names_in(mask),
            mask=mask,
            refusal=refusal,
            on_trial=bool(mask) and not mask & tables.enforced,
            scopes=scopes,
            assurance=assurance,
            acr=acr,
            able=mask & scopes & assurance & acr,
            routes=None if principal.routes is None else _routes(principal.routes),
            networks=None if principal.networks is None else _networks(principal.networks),
            models=None if principal.models is None else _models(principal.models),
            needs_address=principal.networks is not None or bool(mask & tables.by_network),
        )


def _same_claims(known: Principal, principal: Principal) -> bool:
    # To Python 1 and True are equal, and so are principals that differ in nothing else; to a grant they are not.
    return repr(known.claims) == repr(principal.claims)


@lru_cache(maxsize=1024)
def _routes(texts: tuple[str, ...]) -> RouteTable:
    return RouteTable([[RoutePattern.parse(text) for text in names("routes", texts)]], remember=MAX_OF_ONE)


@lru_cache(maxsize=1024)
def _networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    return tuple(parse_network(text) for text in names("networks", texts))


@lru_cache(maxsize=1024)
def _models(texts: tuple[str, ...]) -> NameTable:
    return NameTable([[ModelPattern.parse(text) for text in names("models", texts)]], remember=MAX_OF_ONE)
