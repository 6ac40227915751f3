"""The answer to `GET /v1/models`, with the models left out that the caller may not use.

It is a convenience and no defence: who may use a model is decided where the model is used. So whatever is not a plain, readable list
passes as it came, and it is one of the three places where bytes of an answer are changed at all (design §2, rule 5).
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, TypeAlias

import msgspec

from llm_authmw.asgi import Message, Scope, Send
from llm_authmw.llm.operations import Found

MAX_LIST: Final = 4 * 2**20
"""Bytes of an answer that are held back at most; a longer list passes as it came."""

Allowed: TypeAlias = Callable[[Sequence[str]], Collection[str]]
"""From names of models to those of them that the caller may use."""

_OPERATION: Final = "models"
# With these the app would answer with a part, with nothing, or with what nobody here can read.
_NARROWING: Final = frozenset({b"accept-encoding", b"if-none-match", b"if-modified-since", b"if-range", b"range"})
# What holds of the bytes as the app has sent them, and of no others (RFC 9421, RFC 9530).
_SEALS: Final = frozenset(
    {b"content-encoding", b"content-range", b"signature", b"signature-input", b"digest", b"content-digest", b"repr-digest", b"content-md5"}
)
_REPLACED: Final = frozenset({b"content-length", b"etag", b"last-modified"})
_CACHING: Final = b"cache-control"
_MEMBERS: Final = ("data", "models")
_GEMINI_PREFIX: Final = "models/"


class _Entry(msgspec.Struct):
    id: str | None = None
    name: str | None = None


_read_list: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_read_entries: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_entry: Final = msgspec.json.Decoder(_Entry).decode
_encode: Final = msgspec.json.Encoder().encode


def lists_models(method: str, found: Found | None) -> bool:
    """Say whether a request asks for the list of models; one that names a model asks for that one."""
    return method == "GET" and found is not None and found.operation.name == _OPERATION and not found.models


def asking_for_all(scope: Scope) -> dict[str, Any]:
    """Return a copy of the scope in which nothing asks for less than the whole list, uncompressed."""
    return {**scope, "headers": [line for line in scope["headers"] if line[0].lower() not in _NARROWING]}


class ModelListAnswer:
    """The `send` for an app that answers with the list: holds the answer back until it is whole, and sends what may be seen of it.

    Args:
        send: Where the answer goes.
        allowed: Tells which models the caller may use.
    """

    __slots__ = ("_allowed", "_held", "_passing", "_send", "_size")

    def __init__(self, send: Send, allowed: Allowed) -> None:
        self._send: Final = send
        self._allowed: Final = allowed
        self._held: Final[list[Message]] = []
        self._size = 0
        self._passing = False

    async def __call__(self, message: Message) -> None:
        """Take a message of the app."""
        kind = message["type"]
        if self._passing or not (self._held or kind == "http.response.start"):
            await self._send(message)
            return
        self._held.append(message)
        if kind == "http.response.start":
            if not _readable(message):
                await self._release()
            return
        self._size += len(message.get("body", b""))
        if kind != "http.response.body" or self._size > MAX_LIST:
            await self._release()
        elif not message.get("more_body", False):
            await self._finish()

    async def _release(self) -> None:
        """Send on what was held back, and everything from here on as it comes."""
        self._passing = True
        for message in self._held:
            await self._send(message)
        self._held.clear()

    async def _finish(self) -> None:
        start, *parts = self._held
        filtered = without_others(b"".join(part.get("body", b"") for part in parts), self._allowed)
        if filtered is not None:
            headers = [*_kept_headers(start.get("headers", ())), (b"content-length", b"%d" % len(filtered))]
            last = {key: value for key, value in parts[-1].items() if key != "body"}
            self._held[:] = [{**start, "headers": headers}, {**last, "body": filtered}]
        await self._release()


def _readable(start: Message) -> bool:
    """Say whether an answer that begins so may be read, and changed."""
    if start["status"] != 200 or start.get("trailers"):
        return False
    is_json = False
    for name, value in start.get("headers", ()):
        lowered = name.lower()
        if lowered in _SEALS or (lowered == _CACHING and b"no-transform" in value.lower()):
            return False
        if lowered == b"content-type":
            is_json = value.partition(b";")[0].strip().lower() == b"application/json"
    return is_json


def _kept_headers(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    kept = [line for line in headers if line[0].lower() not in _REPLACED]
    caching = b",".join(value.lower() for name, value in kept if name.lower() == _CACHING)
    if b"no-store" in caching:
        return kept
    # The list is this caller's, and no cache may give it to another one (RFC 9111 §5.2.2.7).
    return [*(line for line in kept if line[0].lower() != _CACHING), (_CACHING, b"private")]


def without_others(body: bytes, allowed: Allowed) -> bytes | None:
    """Return a list of models without those that are not allowed, or None where it cannot be read for certain.

    The lists of OpenAI and Anthropic are `{"data": [{"id": …}]}`, Gemini's `{"models": [{"name": "models/…"}]}`; some servers answer
    with both at once. What stays keeps its bytes.
    """
    try:
        document = _read_list(body)
        lists = {member: _entries(document[member]) for member in _MEMBERS if member in document}
        if not lists:
            return None
        names = list(dict.fromkeys(name for entries in lists.values() for name, _ in entries))
        kept_names = frozenset(allowed(names))
        kept = {member: [entry for entry in entries if entry[0] in kept_names] for member, entries in lists.items()}
        for member, entries in kept.items():
            document[member] = msgspec.Raw(b"[" + b",".join(bytes(raw) for _, raw in entries) + b"]")
        if "data" in kept:
            _mend_cursors(document, [name for name, _ in kept["data"]])
        return _encode(document)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _entries(given: msgspec.Raw) -> list[tuple[str, msgspec.Raw]]:
    """Return the entries of a list with the names of their models.

    Raises:
        ValueError: an entry has none.
    """
    found: list[tuple[str, msgspec.Raw]] = []
    for raw in _read_entries(given):
        entry = _read_entry(raw)
        name = entry.id or entry.name
        if not name:
            raise ValueError("an entry that names no model")
        found.append((name.removeprefix(_GEMINI_PREFIX), raw))
    return found


def _mend_cursors(document: dict[str, msgspec.Raw], kept: list[str]) -> None:
    """Let the ends of a page (Anthropic's) name what it begins and ends with now.

    A page of which nothing is left keeps them where more pages follow: they are the only way there.
    """
    if not kept and bytes(document.get("has_more", b"")) == b"true":
        return
    ends = (kept[0], kept[-1]) if kept else (None, None)
    for member, name in zip(("first_id", "last_id"), ends, strict=True):
        if member in document:
            document[member] = msgspec.Raw(_encode(name))
