"""The dimensions of a scope: each reads from a request whose, or of what, one part of its use is.

A reader returns the subjects: several where a request names several models, none where the dimension is not about it, and None
where it is about the request, and missing.
"""

import ipaddress
from collections.abc import Callable
from typing import Final, TypeAlias

from llm_authmw.call import UNLISTED
from llm_authmw.errors import InvalidValueError
from llm_authmw.limits.asked import Asked
from llm_authmw.limits.model_groups import ModelGroups
from llm_authmw.llm.resemblance import resembles_an_api
from llm_authmw.network import in_networks, parse_network
from llm_authmw.patterns import ModelPattern, RoutePattern
from llm_authmw.principal import Principal

DIMENSIONS: Final = {
    "global": "everybody",
    "tenant": "tenant",
    "org": "organisation",
    "team": "team",
    "member": "team member",
    "user": "user",
    "caller": "caller",
    "key": "API key",
    "tag": "tag",
    "end_user": "end user",
    "model": "model",
    "model_group": "model group",
    "route": "kind of request",
    "address": "network address",
}
"""Every dimension, in the order in which a scope has them, and what a client is told it is."""

OF_THE_CALL: Final = frozenset({"end_user", "model", "model_group"})
"""Dimensions that only what the request asks for can tell."""
CHOSEN_BY_CALLERS: Final = frozenset({"end_user", "tag"})
"""Dimensions of which a caller may have, or make up, any number: they limit nobody but beside a scope without them."""

Subjects: TypeAlias = tuple[str, ...]
Reader: TypeAlias = Callable[[Asked], Subjects | None]

_KEYS: Final = frozenset({"key", "master_key"})
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_ESCAPED: Final = str.maketrans({"%": "%25", "+": "%2B", "/": "%2F", ":": "%3A"})
_HOST_BITS: Final = (1 << 64) - 1


def reader_of(dimension: str, value: str | None, groups: ModelGroups) -> Reader:
    """Return what reads the subjects of one dimension.

    Raises:
        InvalidValueError: the value is none that this dimension has.
    """
    match dimension:
        case "model":
            return _models if value is None else _models_like(value)
        case "model_group":
            if value is not None and value not in groups.names:
                raise InvalidValueError(f"'model_group:{value}' is not in model_groups")
            return _groups(groups, value)
        case "route":
            return _operation if value is None else _covered(value)
        case "address":
            return _address if value is None else _within(value)
        case "end_user":
            return _end_user if value is None else _only("end_user", value, _end_user)
        case _:
            return _ours(_OF_PRINCIPALS[dimension]) if value is None else _named(dimension, value)


def escaped(name: str) -> str:
    """Return a name as it stands in a subject."""
    return name.translate(_ESCAPED)


def own_subject(principal: Principal) -> str | None:
    """Return whose buckets a caller's own limits are counted in: the key's that has them, else the caller's; None for nobody."""
    if not principal.is_authenticated:
        return None
    if principal.method in _KEYS and principal.credential_id is not None:
        return f"key:{escaped(principal.credential_id)}"
    return _caller(principal)


def _caller(principal: Principal) -> str:
    return f"caller:{escaped(principal.realm)}/{escaped(principal.subject)}"


def _ours(read: Callable[[Principal], Subjects | None]) -> Reader:
    def subjects(asked: Asked) -> Subjects | None:
        return read(asked.principal)

    return subjects


def _named(dimension: str, value: str) -> Reader:
    if dimension in _WITHOUT_VALUE:
        raise InvalidValueError(f"'{dimension}:{value}': {dimension} has no value here: {_WITHOUT_VALUE[dimension]}")
    read = _OF_PRINCIPALS[dimension]

    def subjects(asked: Asked) -> Subjects | None:
        # Who is in no team is not in this one. Who is not known may be.
        return (read(asked.principal) or ()) if asked.principal.is_authenticated else None

    return _only(dimension, value, subjects)


def _only(dimension: str, value: str, read: Reader) -> Reader:
    wanted = f"{dimension}:{escaped(value)}"

    def subjects(asked: Asked) -> Subjects | None:
        found = read(asked)
        return found if not found else (wanted,) if wanted in found else ()

    return subjects


def _of_keys(principal: Principal) -> Subjects | None:
    if principal.method in _KEYS and principal.credential_id is not None:
        return (f"key:{escaped(principal.credential_id)}",)
    # A limit per key binds keys only.
    return () if principal.is_authenticated else None


def _of_members(principal: Principal) -> Subjects | None:
    if principal.team is None or principal.user is None:
        return None
    return (f"member:{escaped(principal.team)}/{escaped(principal.realm)}/{escaped(principal.user)}",)


def _one(dimension: str, name: str | None) -> Subjects | None:
    return None if name is None else (f"{dimension}:{escaped(name)}",)


_OF_PRINCIPALS: Final[dict[str, Callable[[Principal], Subjects | None]]] = {
    "global": lambda _: ("global",),
    "tenant": lambda principal: _one("tenant", principal.tenant) if principal.is_authenticated else None,
    "org": lambda principal: _one("org", principal.org),
    "team": lambda principal: _one("team", principal.team),
    "member": _of_members,
    "user": lambda principal: None if principal.user is None else (f"user:{escaped(principal.realm)}/{escaped(principal.user)}",),
    "caller": lambda principal: (_caller(principal),) if principal.is_authenticated else None,
    "key": _of_keys,
    "tag": lambda principal: tuple(f"tag:{escaped(tag)}" for tag in dict.fromkeys(principal.tags)) or None,
}
_WITHOUT_VALUE: Final = {
    "global": "it is one for all",
    "key": "give the key limits of its own",
    "caller": "give its key or its account limits of their own",
    "user": "give the user's account limits of its own",
    "member": "write team:NAME+user, which is each member of one team",
}


def _runs_something(asked: Asked) -> bool:
    """Say whether the request runs a model, as far as anybody can tell: a route that looks like one of an LLM API may."""
    call = asked.call
    if call is None or call.needs_model or call.models:
        return True
    return call.operation == UNLISTED and asked.method not in _WITHOUT_BODY and resembles_an_api(asked.path)


def _named_models(asked: Asked) -> Subjects | None:
    call = asked.call
    if call is None or call.leaves_choice:
        return None
    if call.models:
        # Some of those who serve models take letters alike in both cases: each has one bucket whichever way it is spelt.
        return tuple(dict.fromkeys(model.lower() for model in call.models))
    return None if _runs_something(asked) else ()


def _models(asked: Asked) -> Subjects | None:
    found = _named_models(asked)
    return found if not found else tuple(f"model:{escaped(model)}" for model in found)


def _models_like(value: str) -> Reader:
    pattern = ModelPattern.parse(value.lower())
    if pattern.excludes:
        raise InvalidValueError(f"'model:{value}' excludes, which is for model_groups")
    subject = f"model:{escaped(value.lower())}"

    def subjects(asked: Asked) -> Subjects | None:
        found = _named_models(asked)
        return found if not found else (subject,) if any(map(pattern.matches, found)) else ()

    return subjects


def _groups(groups: ModelGroups, wanted: str | None) -> Reader:
    def subjects(asked: Asked) -> Subjects | None:
        found = _named_models(asked)
        if not found:
            return found
        if wanted is not None:
            return (f"model_group:{escaped(wanted)}",) if any(wanted in groups.of(model) for model in found) else ()
        of_each = [groups.of(model) for model in found]
        # A model in no group would be in no bucket.
        return tuple(dict.fromkeys(f"model_group:{escaped(name)}" for names in of_each for name in names)) if all(of_each) else None

    return subjects


def _end_user(asked: Asked) -> Subjects | None:
    call = asked.call
    if call is not None and call.end_user is not None:
        return (f"end_user:{escaped(call.end_user)}",)
    return None if _runs_something(asked) else ()


def _operation(asked: Asked) -> Subjects | None:
    # Never the path: whoever may put ids into it would have a bucket for each.
    return (f"route:{escaped(asked.operation)}",)


def _covered(value: str) -> Reader:
    pattern = RoutePattern.parse(value)
    subject = f"route:{escaped(str(pattern))}"

    def subjects(asked: Asked) -> Subjects | None:
        return (subject,) if pattern.matches(asked.method, asked.path) else ()

    return subjects


def _address(asked: Asked) -> Subjects | None:
    address = asked.address
    if isinstance(address, ipaddress.IPv6Address):
        # Whoever has one of these has all of its /64 (RFC 6177).
        address = ipaddress.IPv6Address(int(address) & ~_HOST_BITS)
    return None if address is None else (f"address:{escaped(str(address))}",)


def _within(value: str) -> Reader:
    network = parse_network(value)
    subject = f"address:{escaped(str(network))}"

    def subjects(asked: Asked) -> Subjects | None:
        if asked.address is None:
            return None
        return (subject,) if in_networks(asked.address, (network,)) else ()

    return subjects
