"""Who is calling: the one object that every layer shares, whatever the credential was."""

from enum import IntEnum
from typing import Final, TypeAlias

import msgspec
from starlette.authentication import BaseUser

from llm_authmw.errors import InvalidValueError
from llm_authmw.names import name_problem
from llm_authmw.quota import Budget, Limit

ClaimValue: TypeAlias = str | int | float | bool | tuple["ClaimValue", ...] | None

DEFAULT_TENANT: Final = "default"
KEYS_REALM: Final = "keys"
"""The realm of a key's user where the key names none: people whom only this key store knows."""
RESERVED_SUBJECTS: Final = ("client:", "key:")
"""Prefixes of subjects that are not users. No user name may begin so, or it would be taken for a client or a key."""
NAMED_BY_OTHERS: Final = frozenset({"jwt", "introspection", "header", "client_cert"})
"""Methods whose roles somebody else names: they mean nothing here before a rule of ours says what (`Grant(token_role=…)`)."""

_RESTRICTIONS: Final = ("models", "routes", "networks")
_TUPLES: Final = (
    *("roles", "scopes", "groups", "tags", "limits", "budgets", "claims", "amr", "actors", "confirmation"),
    *_RESTRICTIONS,
)


class Assurance(IntEnum):
    """How an identity was proven, in order; the weakest contributor decides."""

    ASSERTED = 0
    """Somebody says so."""
    PEER_TRUSTED = 1
    """A proven proxy in front says so."""
    SHARED_SECRET = 2
    """The caller knows a secret: an API key."""
    INTROSPECTED = 3
    """The issuer confirmed the token when asked (RFC 7662)."""
    SIGNED = 4
    """The issuer's signature was verified (RFC 7515)."""
    BOUND = 5
    """The caller also holds a private key: a certificate (RFC 8705) or DPoP (RFC 9449)."""


class Principal(BaseUser, msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """An immutable, hashable statement of who is calling.

    Identity is (tenant, realm, user): the same user name in two realms is two people. Lists whose order means nothing
    are sorted. `models`, `routes` and `networks` are restrictions of the credential itself: None is no restriction, an
    empty tuple allows nothing.

    Attributes:
        tenant: Never empty; "default" where there are none.
        realm: Where a user name means one person: an issuer's, a key store's, a proxy's.
        user: The person, if there is one.
        email: An address that the source vouches for.
        client: The OAuth client (RFC 6749 §1.1) that acts.
        team: The team that the use is counted to.
        org: The organisation.
        roles: Roles that our own records give, or that a source names where our mapping says so; what they grant, rules of ours say.
        scopes: OAuth scopes (RFC 6749 §3.3).
        groups: Groups that the source names.
        tags: Labels of the credential.
        tier: The named set of limits that applies.
        models: Model patterns that the credential may use.
        routes: Route patterns that the credential may use.
        networks: Networks (CIDR) that the credential may come from.
        limits: Rate limits of the credential's own.
        budgets: Budgets of the credential's own.
        claims: Claims that were kept, as (name, value) pairs.
        method: How the caller was authenticated: "anonymous", "key", "master_key", "jwt", "introspection", "header", "client_cert",
            "custom", or a word of the user's own function.
        issuer: Who issued the credential.
        credential_id: The id of the credential, never the credential.
        authenticated_at: When the caller last authenticated, seconds since 1970 (OIDC Core §2, auth_time).
        acr: Authentication context class (OIDC Core §2).
        amr: Authentication methods (RFC 8176).
        actors: Who acts on the subject's behalf, the nearest first (RFC 8693 §4.1).
        confirmation: What the credential is bound to, as (method, value) pairs (RFC 7800 cnf).
        expires_at: When the credential ends, seconds since 1970.
        assurance: How the identity was proven.

    Raises:
        InvalidValueError: A name is empty, holds control characters, a user is named like a client or a key, or several values
            are given as anything but a tuple.
    """

    tenant: str = DEFAULT_TENANT
    realm: str = ""
    user: str | None = None
    email: str | None = None
    client: str | None = None
    team: str | None = None
    org: str | None = None
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    tier: str | None = None
    models: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    networks: tuple[str, ...] | None = None
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    claims: tuple[tuple[str, ClaimValue], ...] = ()
    method: str = "anonymous"
    issuer: str | None = None
    credential_id: str | None = None
    authenticated_at: float | None = None
    acr: str | None = None
    amr: tuple[str, ...] = ()
    actors: tuple[str, ...] = ()
    confirmation: tuple[tuple[str, str], ...] = ()
    expires_at: float | None = None
    assurance: Assurance = Assurance.ASSERTED

    def __post_init__(self) -> None:
        for field in ("tenant", "realm", "user", "client", "team", "org", "credential_id"):
            value = getattr(self, field)
            if value is not None and (value or field != "realm"):
                problem = name_problem(value)
                if problem is not None:
                    raise InvalidValueError(f"a principal's {field} {problem}")
        for field in _TUPLES:
            value = getattr(self, field)
            # A bare string would be read letter by letter, and a list could be changed behind everybody's back.
            if type(value) is not tuple and not (value is None and field in _RESTRICTIONS):
                raise InvalidValueError(f"a principal's {field} is a tuple, not {type(value).__name__}")
        if self.user is not None and self.user.startswith(RESERVED_SUBJECTS):
            raise InvalidValueError("a user name must not begin with 'client:' or 'key:'")
        if self.method != "anonymous" and not (self.user or self.client or self.credential_id):
            raise InvalidValueError("an authenticated principal needs a user, a client or a credential id")

    @property
    def subject(self) -> str:
        """The user, else `client:<id>`, else `key:<id>`; "anonymous" where nobody is logged in."""
        if self.user is not None:
            return self.user
        if self.client is not None:
            return f"client:{self.client}"
        return f"key:{self.credential_id}" if self.credential_id is not None else "anonymous"

    @property
    def is_authenticated(self) -> bool:
        """Whether somebody is logged in."""
        return self.method != "anonymous"

    @property
    def display_name(self) -> str:
        """What a page would show: the e-mail address, else the subject."""
        return self.email or self.subject

    @property
    def identity(self) -> str:
        """`tenant/realm/subject`, with `/` and `%` in tenant and realm escaped, so that no two identities give one text."""
        return f"{_escape(self.tenant)}/{_escape(self.realm)}/{self.subject}"


ANONYMOUS: Final = Principal()
"""Nobody. It has no role and no scope, ever."""


def _escape(part: str) -> str:
    return part.replace("%", "%25").replace("/", "%2F")
