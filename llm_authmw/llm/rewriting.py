"""The two changes to a body that an operator may ask for: a lower ceiling, and a wish to be told what was used.

What is not changed keeps its bytes: members are taken apart and put together again as they are.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from llm_authmw.errors import Denial
from llm_authmw.llm.ceilings import names_ceiling
from llm_authmw.llm.json_body import NULL, OBJECT, begins, members_of
from llm_authmw.llm.operation import Found
from llm_authmw.llm.requests import read_request

_TRUE: Final = Raw(b"true")
_STREAM: Final = "stream"
_OPTIONS: Final = "stream_options"
_USAGE: Final = "include_usage"
_OF_MANY_APIS: Final = frozenset({"invoke", "invocations"})
"""Operations that are sent on to models of several APIs: where no ceiling is there, none is known to be right."""

_encode: Final = msgspec.json.Encoder().encode


def with_usage_asked(body: bytes) -> bytes | None:
    """Return the body of a chat or completion of OpenAI's with the wish that its stream ends with what was used.

    Args:
        body: The JSON object that the lens has read.

    Returns:
        None where nothing is to be changed: no stream is asked for, or the caller wishes it already; also where the body is none that
        such an API takes, as then it will not answer with a stream.
    """
    try:
        members = members_of(body)
        options = members.get(_OPTIONS, NULL)
        if members.get(_STREAM) != _TRUE or not (options == NULL or begins(options) == OBJECT):
            return None
        asked = {} if options == NULL else members_of(bytes(options))
    except ValueError:
        return None
    if asked.get(_USAGE) == _TRUE:
        return None
    return _written({**members, _OPTIONS: Raw(_written({**asked, _USAGE: _TRUE}))})


def with_ceiling(found: Found, body: bytes, ceiling: int) -> bytes | None:
    """Return a body whose answers can have no more than so many tokens each.

    Args:
        found: The operation that it is for.
        body: The JSON object that the lens has read.
        ceiling: Tokens of an answer, 1 or more.

    Returns:
        None where it is not known how to say that, or where it is said already. What is returned reads as the same request, but for
        its ceiling.
    """
    operation = found.operation
    ceilings = tuple(operation.ceilings or ())
    if ceiling < 1 or operation.body != "json" or not ceilings:
        return None
    try:
        members = members_of(body)
        named = [path for path in ceilings if names_ceiling(members, (path,))]
        if not named:
            if operation.name in _OF_MANY_APIS:
                return None
            named = [_first_to_write(members, ceilings)]
        lowered = members
        for path in named:
            lowered = _with(lowered, path.split("."), ceiling)
        written = _written(lowered)
        # A ceiling may stand in places that are merged into the body, or in a settings object of another API's.
        call = read_request(found, content_type=None, body=written, allowed_fields=members)
    except (ValueError, Denial):
        return None
    return written if call.max_output_tokens is not None and call.max_output_tokens <= ceiling and lowered != members else None


def _first_to_write(members: Mapping[str, Raw], ceilings: tuple[str, ...]) -> str:
    """Return the first of some ceilings whose settings are there already, else the first of all: an API may take one spelling only."""
    return next((path for path in ceilings if "." in path and path.split(".")[0] in members), ceilings[0])


def _with(members: Mapping[str, Raw], path: list[str], ceiling: int) -> dict[str, Raw]:
    name, *inside = path
    value = members.get(name, NULL)
    if inside:
        inner = {} if value == NULL else members_of(bytes(value))
        lowered = _with(inner, inside, ceiling)
        return dict(members) if lowered == inner else {**members, name: Raw(_written(lowered))}
    if value != NULL and msgspec.json.decode(value, type=int) <= ceiling:
        return dict(members)
    return {**members, name: Raw(b"%d" % ceiling)}


def _written(members: Mapping[str, Raw]) -> bytes:
    return b"{%b}" % b",".join([b"%b:%b" % (_encode(name), value) for name, value in members.items()])
