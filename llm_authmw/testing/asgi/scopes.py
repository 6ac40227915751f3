"""The scopes that the driver gives to an app: those of uvicorn, and any member of them can be changed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias
from urllib.parse import unquote_to_bytes

RawHeaders: TypeAlias = Sequence[tuple[bytes, bytes]]
"""Header lines as they are on the wire: in order, in their own case, repeated where they are."""

# What uvicorn, the most used server, says of itself. Above 2.3, `send` raises once the client has gone.
_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def http_scope(target: str | bytes, *, headers: RawHeaders = (), changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the scope of an HTTP request.

    Args:
        target: A request line without its version, such as `POST /v1/embeddings?x=1`; bytes where they are not ASCII. The
            path is decoded as servers do, and `raw_path` keeps it as it is given.
        headers: Taken as they are; none is added.
        changes: Members to set, whatever they were: `{"client": ("203.0.113.7", 4711), "root_path": "/api"}`. `...` (the
            Ellipsis) as a value leaves the member out.

    Raises:
        ValueError: `target` is not a method, one blank and a path.
    """
    method, blank, path = _bytes(target).partition(b" ")
    if not method or not blank or not path:
        raise ValueError(f"{target!r} is not a request such as 'GET /v1/models'")
    return _scope({"type": "http", "method": method.decode("latin-1"), "scheme": "http"}, path, headers, {}, changes)


def websocket_scope(
    path: str | bytes,
    *,
    headers: RawHeaders = (),
    subprotocols: Sequence[str] = (),
    denial_response: bool = True,
    changes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the scope of a WebSocket handshake.

    Args:
        path: The path, with its query if there is one.
        headers: Taken as they are. Only the `sec-websocket-protocol` line is added, where subprotocols are offered, since
            servers show both.
        subprotocols: What the client offers.
        denial_response: Whether the server can answer a refused handshake with a whole HTTP response.
        changes: As for `http_scope`.
    """
    offered: RawHeaders = [(b"sec-websocket-protocol", ", ".join(subprotocols).encode("latin-1"))] if subprotocols else []
    members = {"type": "websocket", "scheme": "ws", "subprotocols": list(subprotocols)}
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial_response else {}
    return _scope(members, _bytes(path), [*headers, *offered], extensions, changes)


def _scope(
    members: dict[str, Any], target: bytes, headers: RawHeaders, extensions: dict[str, Any], changes: Mapping[str, Any] | None
) -> dict[str, Any]:
    path, _, query = target.partition(b"?")
    scope: dict[str, Any] = {
        **members,
        "asgi": dict(_ASGI),
        "http_version": "1.1",
        "path": unquote_to_bytes(path).decode("utf-8", "replace"),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(headers),
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 8_000),
        "extensions": extensions,
        **(changes or {}),
    }
    return {name: value for name, value in scope.items() if value is not ...}


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("ascii")
