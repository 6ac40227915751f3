"""`ClaimMap`: which claims become which fields of a principal. Nothing is granted that no mapping names."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from llm_authmw import fields
from llm_authmw.errors import AuthmwError, ConfigurationError, TokenInvalid
from llm_authmw.names import Names, name_problem, names
from llm_authmw.principal import ClaimValue
from llm_authmw.strict_json import is_array, is_object

MAX_ENTRIES: Final = 256
"""Entries of one list claim."""

_MAX_QUOTAS: Final = 32
_MAX_NUMBER: Final = 2**53

Reader: TypeAlias = Callable[[Any], Any]
"""From a claim's value to a field's; raises whatever `read` makes a refusal of."""


class Constant(msgspec.Struct, frozen=True):
    """A value that is the same for everybody whom the source vouches for: `team=Constant("contractors")`.

    Args:
        value: A text; for lists such as `groups`, a list of texts.
    """

    value: str | Names

    def __post_init__(self) -> None:
        if not isinstance(self.value, str):
            msgspec.structs.force_setattr(self, "value", names("Constant", self.value))


class EmailDomain(msgspec.Struct, frozen=True):
    """The domain of an e-mail claim, in lower case: `org=EmailDomain("email")`.

    Args:
        claim: The claim that holds the address.
        verified: Whether `email_verified` must be true (OIDC Core §5.1). Without it, whoever may type an address chooses the domain.
    """

    claim: str = "email"
    verified: bool = True


Source: TypeAlias = str | tuple[str, ...] | Constant | EmailDomain | None
"""Where a field comes from: a claim, by its name or a dotted path; the first of several that is there; a constant; a domain; nowhere."""


class ClaimMap(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Which claims become which fields of the principal.

    A claim is named by its name, or by a dotted path (`realm_access.roles`); a claim whose own name holds dots is found first. A
    claim that is not there leaves its field empty; one of the wrong type refuses the token (`token_claim_invalid`).
    Lists may also be texts of words between blanks, as OAuth writes scopes (RFC 6749 §3.3).

    Attributes:
        user: The person. A token without this claim has no user; it is refused unless `client` names somebody. One that is named by
            `email` is refused where `email_verified` says that the address is not theirs.
        email: The address; left out of the principal where `email_verified` says that it is not the user's.
        client: The OAuth client: `client_id` (RFC 9068 §2.2), `azp` or `appid`, as the issuer has it.
        team: The team that the use is counted to.
        org: The organisation.
        tenant: The tenant, where one issuer serves several.
        roles: Roles that the issuer names. They grant nothing until a rule of ours says so.
        scopes: OAuth scopes: `scope` (RFC 9068 §2.2.3), or `scp` as Entra ID and Okta write it.
        groups: Groups.
        tags: Labels.
        tier: The named set of limits.
        models: Model patterns that the token may use.
        limits: Rate limits, such as `["60 requests/minute"]`.
        budgets: Budgets, such as `["50 usd/month"]`.
        keep: Claims to keep on the principal, for grants that look at them; texts, numbers, booleans and lists of these.

    Raises:
        ConfigurationError: a path is not one, a field cannot come from there, or no field says who is calling.
    """

    user: Source = "sub"
    email: Source = None
    client: Source = None
    team: Source = None
    org: Source = None
    tenant: Source = None
    roles: Source = None
    scopes: Source = ("scope", "scp")
    groups: Source = None
    tags: Source = None
    tier: Source = None
    models: Source = None
    limits: Source = None
    budgets: Source = None
    keep: Names = ()

    def __post_init__(self) -> None:
        # Kept as a tuple: a map is shared by what was verified with it, and must not change behind that.
        msgspec.structs.force_setattr(self, "keep", tuple(sorted(names("keep", self.keep))))
        if self.user is None and self.client is None:
            raise ConfigurationError("user", "or client names a claim: a token that says nobody is calling is none")
        for name in READERS:
            _check_source(name, getattr(self, name))

    def read(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields of the principal that these claims give.

        Raises:
            TokenInvalid: a claim is of another type than its field, out of bounds, or none says who is calling.
        """
        try:
            given = {name: _field(name, source, reader, claims) for name, source, reader in self._named}
            kept = tuple((name, _kept(value)) for name in self.keep if (value := claim_at(claims, name)) is not None)
        except (AuthmwError, ValueError, TypeError):
            raise TokenInvalid("token_claim_invalid") from None
        found = {name: value for name, value in given.items() if value is not None}
        if "email" in found and not _vouched(claims, unless_said=True):
            del found["email"]
        if "user" not in found and "client" not in found:
            raise TokenInvalid("token_claim_missing")
        if kept:
            found["claims"] = kept
        return found

    @functools.cached_property
    def _named(self) -> tuple[tuple[str, Any, Reader], ...]:
        """The fields that come from somewhere: most maps name a few, and every token is read by one."""
        return tuple((name, getattr(self, name), reader) for name, reader in READERS.items() if getattr(self, name) is not None)


def _field(name: str, source: str | tuple[str, ...] | Constant | EmailDomain, reader: Reader, claims: Mapping[str, Any]) -> Any:
    if isinstance(source, Constant):
        return reader(list(source.value) if isinstance(source.value, tuple) else source.value)
    if isinstance(source, EmailDomain):
        return _domain(claims, source)
    for path in (source,) if isinstance(source, str) else source:
        value = claim_at(claims, path)
        if value is not None:
            if path == "email" and name != "email" and not _vouched(claims, unless_said=True):
                raise ValueError("nobody vouches for the address, so whoever typed it would be its owner")
            return reader(value)
    return None


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim of that name, else what the dotted path leads to, else None."""
    if path in claims or "." not in path:
        return claims.get(path)
    value: Any = claims
    for step in path.split("."):
        if value is not claims and not is_object(value):
            return None
        value = value.get(step)
    return value


def read_email(value: Any) -> str:
    """Return an address with one `@` and an ASCII domain in lower case (GHSA-c5c4-8r6x-56w3).

    Raises:
        ValueError: it is none.
    """
    local, at, domain = fields.text("email", value).partition("@")
    if not (local and at and domain) or not domain.isascii() or any(character in domain for character in '@ ,;<>"\\/'):
        raise ValueError("not an address")
    return f"{local}@{domain.lower()}"


def _vouched(claims: Mapping[str, Any], *, unless_said: bool) -> bool:
    # Some issuers write it as a text; 1, which Python takes for True, nobody does.
    said = claims.get("email_verified", unless_said)
    return said is True or said == "true"


def _domain(claims: Mapping[str, Any], source: EmailDomain) -> str | None:
    value = claim_at(claims, source.claim)
    if value is None:
        return None
    if source.verified and not _vouched(claims, unless_said=False):
        raise ValueError("nobody vouches for the address")
    return read_email(value).partition("@")[2]


def _words(value: Any) -> tuple[str, ...]:
    # RFC 6749 §3.3 has one blank between scopes, and some issuers end with one.
    return tuple(sorted(set(_texts(value.split(" ") if isinstance(value, str) else value))))


def _texts(value: Any) -> list[str]:
    if not is_array(value) or len(value) > MAX_ENTRIES:
        raise ValueError("not a list, or too long")
    return [fields.text("entry", entry) for entry in value if entry != ""]


def _models(value: Any) -> tuple[str, ...] | None:
    return fields.models("models", _texts([value] if isinstance(value, str) else value))


def _limits(value: Any) -> tuple[Any, ...]:
    return fields.limits("limits", _quotas(value))


def _budgets(value: Any) -> tuple[Any, ...]:
    return fields.budgets("budgets", _quotas(value))


def _quotas(value: Any) -> list[str]:
    found = _texts([value] if isinstance(value, str) else value)
    if len(found) > _MAX_QUOTAS:
        raise ValueError("too many")
    return found


def _kept(value: Any) -> ClaimValue:
    if is_array(value):
        if len(value) > MAX_ENTRIES or any(is_array(entry) or is_object(entry) for entry in value):
            raise ValueError("a kept claim is a list of simple values at most")
        return tuple(_kept(entry) for entry in value)
    if isinstance(value, str) and (value == "" or name_problem(value) is None):
        return value
    if isinstance(value, bool) or (isinstance(value, int | float) and abs(value) <= _MAX_NUMBER):
        return value
    raise ValueError("a kept claim is a text, a number, a boolean or a list of these")


def _text(value: Any) -> str:
    return fields.text("claim", value)


_LISTS: Final[dict[str, Reader]] = {
    "roles": _words,
    "scopes": _words,
    "groups": _words,
    "tags": _words,
    "models": _models,
    "limits": _limits,
    "budgets": _budgets,
}
READERS: Final[dict[str, Reader]] = {
    "user": lambda value: fields.user("user", value),
    "email": read_email,
    "client": _text,
    "team": _text,
    "org": _text,
    "tenant": _text,
    "tier": _text,
    **_LISTS,
}
"""How each field reads its value. Other sources than tokens read with these too, so that equal facts give equal principals."""


def _check_source(name: str, source: Any) -> None:
    if source is None:
        return
    if isinstance(source, EmailDomain):
        if name not in ("team", "org", "tenant"):
            raise ConfigurationError(name, "does not come from an e-mail domain; team, org and tenant may")
        source = source.claim
    if isinstance(source, Constant):
        try:
            READERS[name](list(source.value) if isinstance(source.value, tuple) else source.value)
        except (AuthmwError, ValueError, TypeError) as error:
            raise ConfigurationError(name, f"cannot be that constant: {error}") from None
        return
    paths: Any = source
    if not isinstance(source, tuple):
        paths = (source,)
    if not paths or any(not isinstance(path, str) or name_problem(path) is not None or "" in path.split(".") for path in paths):
        raise ConfigurationError(name, "takes the name of a claim such as 'sub', a path such as 'realm_access.roles', or Constant(…)")
