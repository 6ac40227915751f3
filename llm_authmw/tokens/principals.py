"""From verified claims to a principal: the same claims give the same principal, whichever way they came."""

from collections.abc import Callable, Mapping
from typing import Any, Final

from llm_authmw import fields
from llm_authmw.errors import AuthmwError, TokenInvalid
from llm_authmw.principal import Assurance, Principal
from llm_authmw.strict_json import is_array, is_object
from llm_authmw.tokens.claim_map import ClaimMap

MAX_ACTORS: Final = 8
_MAX_METHODS: Final = 16
_OF_THE_LOGIN: Final = frozenset({"auth_time", "acr", "amr", "act", "cnf"})


def principal_of(
    claims: Mapping[str, Any],
    *,
    mapping: ClaimMap,
    method: str,
    issuer: str | None,
    realm: str,
    tenant: str,
    assurance: Assurance,
    credential_id: str | None,
    expires_at: float | None,
    share: Callable[[Any], Any] | None = None,
) -> Principal:
    """Return who is calling.

    Args:
        claims: What the source says, verified.
        mapping: Which claims become which fields.
        method: How the caller was authenticated.
        issuer: Who says so.
        realm: Where the user's name means one person.
        tenant: The tenant, unless the mapping takes it from a claim.
        assurance: How it was proven.
        credential_id: The id of the credential.
        expires_at: When it ends, seconds since 1970.
        share: Returns the one object that stands for all that are equal, for principals that are remembered.

    Raises:
        TokenInvalid: a claim is of the wrong type or out of bounds, or none says who is calling.
    """
    try:
        named = mapping.read(claims)
        if share is not None:
            for name, value in named.items():
                # Not what is kept: to Python 1 and True are equal, and the one would stand for the other.
                if isinstance(value, tuple) and name != "claims":
                    named[name] = share(value)
        return Principal(
            tenant=named.pop("tenant", tenant),
            realm=realm,
            method=method,
            issuer=issuer,
            credential_id=credential_id,
            assurance=assurance,
            expires_at=expires_at,
            **named,
            **_login(claims),
        )
    except TokenInvalid:
        raise
    except (AuthmwError, ValueError):
        raise TokenInvalid("token_claim_invalid") from None


def _login(claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the claims say of how the caller logged in; most tokens say nothing."""
    if _OF_THE_LOGIN.isdisjoint(claims):
        return {}
    return {
        "authenticated_at": fields.moment("auth_time", claims.get("auth_time")),
        "acr": fields.text_or_none("acr", claims.get("acr")),
        "amr": _methods(claims.get("amr")),
        "actors": _actors(claims.get("act")),
        "confirmation": _confirmation(claims.get("cnf")),
    }


def _methods(amr: Any) -> tuple[str, ...]:
    if amr is None:
        return ()
    if not is_array(amr) or len(amr) > _MAX_METHODS:
        raise ValueError("`amr` is a list of texts (OIDC Core §2)")
    return tuple(fields.text("amr", entry) for entry in amr)


def _actors(act: Any) -> tuple[str, ...]:
    """Return who acts, the nearest first (RFC 8693 §4.1)."""
    actors: list[str] = []
    while act is not None:
        if not is_object(act) or len(actors) == MAX_ACTORS:
            raise ValueError("`act` is an object, nested a few levels at most")
        actors.append(fields.text("act", act.get("sub", act.get("client_id"))))
        act = act.get("act")
    return tuple(actors)


def _confirmation(cnf: Any) -> tuple[tuple[str, str], ...]:
    """Return what the credential is bound to (RFC 7800 §3.1)."""
    if cnf is None:
        return ()
    if not is_object(cnf):
        raise ValueError("`cnf` is an object")
    return tuple(sorted((fields.text("cnf", name), fields.text("cnf", value)) for name, value in cnf.items()))
