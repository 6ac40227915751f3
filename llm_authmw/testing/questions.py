"""The smallest request that a route's API takes, with a model in the place where that API names it."""

from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import quote, urlencode

import msgspec

from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.llm.operations import Found
from llm_authmw.patterns import canonical_route
from llm_authmw.testing.asgi.scopes import RawHeaders, http_scope, websocket_scope

Place: TypeAlias = Literal["path", "query", "json", "form"]
"""Where a request names its model."""
Find: TypeAlias = Callable[[str, str], Found | None]
"""From a method and a canonical path to the operation, as a lens finds it."""

_MODEL: Final = "{model}"
_WITH_A_BODY: Final = frozenset({"POST", "PUT", "PATCH"})
_BOUNDARY: Final = b"policy-test"
_LIST_TOOLS: Final = b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}'


class Question(NamedTuple):
    """A request that was made up for a test.

    Attributes:
        method: Its method, "WS" for a WebSocket.
        path: Its path, with its query.
        headers: What says how its body is read.
        body: Its body; of a WebSocket, its first message.
    """

    method: str
    path: str
    headers: RawHeaders = ()
    body: bytes = b""

    @property
    def target(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"

    def scope(self, *, headers: RawHeaders = (), changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the scope that a layer sees."""
        if self.method == "WS":
            return websocket_scope(self.path, headers=headers, changes=changes)
        return http_scope(self.target, headers=headers, changes=changes)

    @property
    def route(self) -> tuple[str, str] | None:
        """Method and path as the layers read them; None where the path is ambiguous."""
        return canonical_route(self.scope())


def read_target(target: str, model: str | None = None, query: str = "") -> Question:
    """Return the request for a target, without a body.

    Raises:
        ConfigurationError: it is no method and path.
    """
    method, blank, path = target.partition(" ")
    if not blank or not method.isupper() or not path.startswith("/") or not path.isascii():
        raise ConfigurationError("target", f"{target!r} is not a method and a path in ASCII, such as 'POST /v1/chat/completions'")
    if model is not None:
        # A slash within a model's name is one in the path too: the APIs let a model take several segments.
        path = path.replace(_MODEL, quote(model, safe="/:@+=~"))
    if query:
        path += ("&" if "?" in path else "?") + query
    return Question(method, path)


def place_of(target: str, find: Find) -> Place | None:
    """Return where a request for this target names its model, or None where it has no place for one.

    Args:
        target: Method and path; `{model}` in it stands for the model.
        find: What is known of routes.

    Raises:
        ConfigurationError: `target` is no method and path.
    """
    asked = read_target(target)
    found = _found(asked, find)
    if _MODEL in target or (found is not None and found.models):
        return "path"
    if asked.method == "WS":
        return "query"
    if asked.method not in _WITH_A_BODY:
        return None
    kind = "json" if found is None else found.operation.body
    return "json" if kind == "json" else "form" if kind == "multipart" else None


def make_question(
    target: str, find: Find, *, model: str | None, json: Mapping[str, Any] | None, body: bytes | None, query: str = ""
) -> Question:
    """Return the request for this target that names this model.

    Args:
        target: Method and path, such as `POST /v1/chat/completions`, `WS /v1/realtime` or `POST /model/{model}/invoke`.
        find: What is known of routes.
        model: The model.
        json: Further members of the body.
        body: The body itself.
        query: The query, or more of it.

    Raises:
        ConfigurationError: the target is no method and path, or the request has no place for what is given.
    """
    if body is not None and json is not None:
        raise ConfigurationError("body", "and json exclude each other")
    if model is None and _MODEL in target:
        raise ConfigurationError("model", f"is left out, and {target!r} has a place for it")
    asked = read_target(target, model, query)
    found = _found(asked, find)
    if model is not None:
        place = place_of(target, find)
        if place is None:
            raise ConfigurationError("model", f"has no place in {target!r}: write {_MODEL} where the path names one, or give the body")
        if place == "path":
            if found is not None and model not in found.models:
                raise ConfigurationError("model", f"is another one than {target!r} names: write {_MODEL} in its place")
        elif place == "query":
            asked = read_target(asked.target, query=urlencode({"model": model}))
        elif body is not None or "model" in (json or ()):
            raise ConfigurationError("model", "is given twice: the body that is given names its own")
        else:
            json = {"model": model, **(json or {})}
    if asked.method == "WS" or body is not None:
        return asked._replace(body=body if body is not None else b"" if json is None else msgspec.json.encode(json))
    return _with_body(asked, "json" if found is None else found.operation.body, json)


def _with_body(asked: Question, kind: str, json: Mapping[str, Any] | None) -> Question:
    if json is None and (asked.method not in _WITH_A_BODY or kind == "none"):
        return asked
    content_type = b"application/json"
    if kind == "multipart":
        content_type, body = b"multipart/form-data; boundary=" + _BOUNDARY, _form(json or {})
    elif json is None and kind == "mcp":
        body = _LIST_TOOLS
    else:
        body = msgspec.json.encode(json or {})
    return asked._replace(headers=[(b"content-type", content_type), (b"content-length", b"%d" % len(body))], body=body)


def _form(fields: Mapping[str, Any]) -> bytes:
    """Return the fields as a form (RFC 7578), whatever is no text as JSON."""
    parts: list[bytes] = []
    for name, value in fields.items():
        text = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        parts.append(b'--%s\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (_BOUNDARY, name.encode(), text))
    return b"".join([*parts, b"--%s--\r\n" % _BOUNDARY])


def _found(asked: Question, find: Find) -> Found | None:
    """Return the operation as the layers find it; None also where they refuse the path, which is theirs to say."""
    route = asked.route
    try:
        return None if route is None else find(*route)
    except Denial:
        return None
