"""`Grant`: which facts of a caller give which role."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from llm_authmw.authz.roles import check_name
from llm_authmw.errors import ConfigurationError
from llm_authmw.names import name_problem
from llm_authmw.principal import NAMED_BY_OTHERS, Assurance, ClaimValue, Principal
from llm_authmw.tokens.introspection import Introspector
from llm_authmw.tokens.issuer import Issuer

Simple: TypeAlias = str | int | float | bool
"""What a claim is compared with."""

FOUND: Final[dict[str, Callable[[Principal], ClaimValue]]] = {
    "scope": lambda who: who.scopes,
    "group": lambda who: who.groups,
    # The roles that our own records give need no grant, and are no token's.
    "token_role": lambda who: who.roles if who.method in NAMED_BY_OTHERS else (),
    "tag": lambda who: who.tags,
    "email_domain": lambda who: domain_of(who.email),
    "team": lambda who: who.team,
    "org": lambda who: who.org,
    "client": lambda who: who.client,
    "issuer": lambda who: who.issuer,
    "realm": lambda who: who.realm,
    "method": lambda who: who.method,
}
"""What a caller has to hold against each condition that is a text; where it is several, one of them has to be that text."""

_SAID_BY_A_SOURCE: Final = ("scope", "group", "token_role", "tag", "email_domain", "team", "org", "client", "claims")


class Condition(msgspec.Struct, frozen=True):
    """One condition of a grant, held against a caller.

    Attributes:
        name: Which: "scope", "claims.department".
        wanted: What it asks for.
        found: What the caller has of the kind.
        met: Whether it holds.
    """

    name: str
    wanted: Simple
    found: ClaimValue
    met: bool


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Give a role to every authenticated caller for whom all of these conditions hold; there is at least one.

    Attributes:
        role: The role that is given.
        scope: An OAuth scope that the caller has.
        group: A group that the source names.
        token_role: A role that a token, a proxy's header or a certificate's rule names.
        claims: Claims that were kept (`ClaimMap(keep=…)`), each with its value; a list of values must hold it.
        email_domain: The domain of the address that the source vouches for.
        team: The team.
        org: The organisation.
        tag: A label of the credential.
        client: The OAuth client that acts.
        assurance: How well the identity is proven, at least.
        issuer: Who issued the credential: the `Issuer` or `Introspector`, or its identifier. Required where several sources of tokens
            stand in front, since each could state the other conditions.
        realm: Where the user's name means one person.
        method: How the caller was authenticated: "key", "jwt".

    Raises:
        ConfigurationError: an option is outside its grammar, or there is no condition.
    """

    role: str
    scope: str | None = None
    group: str | None = None
    token_role: str | None = None
    claims: Mapping[str, Simple] | None = None
    email_domain: str | None = None
    team: str | None = None
    org: str | None = None
    tag: str | None = None
    client: str | None = None
    assurance: Assurance | None = None
    issuer: str | Issuer | Introspector | None = None
    realm: str | None = None
    method: str | None = None

    def __post_init__(self) -> None:
        issuer: Any = self.issuer
        if isinstance(issuer, Issuer):
            _set(self, "issuer", issuer.issuer)
        elif isinstance(issuer, Introspector):
            _set(self, "issuer", issuer.source)
        for field in ("role", *FOUND):
            value = getattr(self, field)
            if value is not None or field == "role":
                check_name(field, value)
        if self.scope is not None and " " in self.scope:
            raise ConfigurationError("scope", f"has {self.scope!r}, which is several: give one, or several grants")
        if self.email_domain is not None:
            domain = domain_of(f"x@{self.email_domain}")
            if domain is None or name_problem(domain) is not None:
                raise ConfigurationError("email_domain", f"is a domain such as 'example.com', not {self.email_domain!r}")
            _set(self, "email_domain", domain)
        if self.claims is not None:
            _set(self, "claims", MappingProxyType(_checked_claims(self.claims)))
        if self.assurance is not None and type(self.assurance) is not Assurance:
            raise ConfigurationError("assurance", "takes a level of Assurance")
        if self.claims is None and self.assurance is None and not self.texts:
            raise ConfigurationError("Grant", f"of {self.role!r} has no condition, so everybody would have the role: that is default_role")

    @property
    def texts(self) -> dict[str, str]:
        """The conditions that are texts, by name."""
        return {field: value for field in FOUND if (value := getattr(self, field)) is not None}

    @property
    def believes_any_source(self) -> bool:
        """Whether it rests on what a token says, and any issuer might have said it.

        Where several sources of tokens stand in front, such a grant is an error: the least of them would give the role (LiteLLM's scope
        for admins is good from whichever issuer).
        """
        of_ours = self.method is not None and self.method not in NAMED_BY_OTHERS
        return self.issuer is None and not of_ours and any(getattr(self, field) is not None for field in _SAID_BY_A_SOURCE)

    def conditions(self, principal: Principal) -> list[Condition]:
        """Hold every condition against a caller, whoever that is."""
        held: list[Condition] = []
        for field, wanted in self.texts.items():
            found = FOUND[field](principal)
            held.append(Condition(field, wanted, found, wanted in found if isinstance(found, tuple) else wanted == found))
        if self.claims is not None:
            kept = dict(principal.claims)
            for name, value in self.claims.items():
                held.append(Condition(f"claims.{name}", value, kept.get(name), claim_holds(value, kept.get(name))))
        if self.assurance is not None:
            found, met = principal.assurance.name.lower(), principal.assurance >= self.assurance
            held.append(Condition("assurance", self.assurance.name.lower(), found, met))
        return held

    def holds(self, principal: Principal) -> bool:
        """Say whether the grant gives its role to this caller, who is somebody."""
        return all(condition.met for condition in self.conditions(principal))


def claim_holds(wanted: Simple, found: ClaimValue) -> bool:
    """Say whether a kept claim is this value, or a list that has it. True is not 1, as it is to Python."""
    if isinstance(found, tuple):
        return any(claim_holds(wanted, entry) for entry in found)
    return found is not None and isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def domain_of(email: str | None) -> str | None:
    """Return the one domain of an address in lower case, or None where it has not exactly one (GHSA-c5c4-8r6x-56w3)."""
    local, _, domain = (email or "").partition("@")
    # Not every sign whose lower case is an ASCII letter is one itself.
    return domain.lower() if local and domain and "@" not in domain and domain.isascii() else None


def _checked_claims(claims: Any) -> dict[str, Simple]:
    given: Mapping[Any, Any] = claims
    if not isinstance(claims, Mapping) or not given:
        raise ConfigurationError("claims", "takes claims and their values, such as {'department': 'research'}")
    for name, value in given.items():
        check_name("claims", name, of="has a name that")
        if not isinstance(value, str | int | float) or value != value:  # noqa: PLR0124 - NaN is the one that differs from itself
            raise ConfigurationError("claims", f"{name!r} is compared with one text, number or boolean, not {value!r}")
    return {name: given[name] for name in sorted(given)}


def _set(grant: Grant, field: str, value: Any) -> None:
    msgspec.structs.force_setattr(grant, field, value)
