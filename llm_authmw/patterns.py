"""The two pattern languages: routes and models. One parser each, for keys, roles, policies and configuration.

Routes: `[METHOD[,METHOD] ]/path`. `*` is one whole segment, a final `/**` is the rest and the prefix itself, a bare `*`
is every method and path. `WS` is the method of a WebSocket. A pattern without a method means every method, and `GET`
includes `HEAD`.

Models: a literal name, a name with one trailing `*`, or either with a leading `!` that excludes. A model is allowed when
some pattern includes it and none excludes it.
"""

import functools
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from llm_authmw.errors import InvalidValueError
from llm_authmw.names import name_problem

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"})

# What nearly every path is, read in one pass: segments that do not begin with a dot.
_PLAIN: Final = re.compile(r"(?:/[A-Za-z0-9_:@~-][A-Za-z0-9._:@~-]*)+")
_NOT_IN_A_PATH: Final = frozenset("\\#?;%\ufffd")
_REMEMBERED: Final = 512
"""Characters up to which a path is remembered: apps have few routes, and clients may ask for many that there are not."""
_ENCODED_SEPARATORS: Final = (b"%2f", b"%5c", b"%00")


class RoutePattern(msgspec.Struct, frozen=True):
    """One route pattern, parsed.

    Attributes:
        methods: The methods that it names; empty means every one.
        segments: The segments of its path, `*` standing for any one.
        rest: Whether it ends in `/**`, or is the bare `*`.
    """

    methods: frozenset[str]
    segments: tuple[str, ...]
    rest: bool

    @classmethod
    def parse(cls, text: str) -> "RoutePattern":
        """Read a route pattern.

        Raises:
            InvalidValueError: `text` is not a route pattern; says what is wrong with it.
        """
        if text == "*":
            return cls(frozenset(), (), rest=True)
        head, blank, path = text.rpartition(" ")
        methods = frozenset(head.split(",")) if blank else frozenset[str]()
        unknown = methods - METHODS
        if unknown:
            raise InvalidValueError(f"{text!r}: {min(unknown)!r} is not a method; expected one of {', '.join(sorted(METHODS))}")
        if "GET" in methods:
            methods |= {"HEAD"}
        segments = path.split("/")
        if segments[0] or len(segments) == 1:
            raise InvalidValueError(f"{text!r}: a route begins with '/', or is '*'")
        rest = segments[-1] == "**"
        segments = segments[1:-1] if rest else segments[1:]
        for segment in segments:
            if "*" in segment and segment != "*":
                raise InvalidValueError(f"{text!r}: '*' stands for one whole segment, and '**' only at the end")
        canonical = "/" + "/".join(segments)
        if not is_canonical(canonical) or (segments and not segments[-1] and rest):
            raise InvalidValueError(f"{text!r}: a route has no empty, '.' or '..' segment, and none of \\ # ? ; %")
        return cls(methods, tuple(segments), rest=rest)

    def matches(self, method: str, path: str) -> bool:
        """Say whether the pattern covers this method (`WS` for a WebSocket) and this canonical path."""
        if self.methods and method not in self.methods:
            return False
        given = path.split("/")[1:]
        if len(given) < len(self.segments) or (len(given) > len(self.segments) and not self.rest):
            return False
        return all(want == have or (want == "*" and have != "") for want, have in zip(self.segments, given, strict=False))

    def meet(self, other: "RoutePattern") -> "RoutePattern | None":
        """Return the pattern of what both cover, or None where that is nothing.

        All that a pattern covers is covered by another one as well exactly if what they meet in is the pattern itself.
        """
        methods = self.methods & other.methods if self.methods and other.methods else self.methods | other.methods
        if not methods and (self.methods or other.methods):
            return None
        longer, shorter = (self, other) if len(self.segments) >= len(other.segments) else (other, self)
        if len(longer.segments) > len(shorter.segments) and not shorter.rest:
            return None
        for one, another in zip(longer.segments, shorter.segments, strict=False):
            if one != another and not (one == "*" and another) and not (another == "*" and one):
                return None
        named = [one if another == "*" else another for one, another in zip(longer.segments, shorter.segments, strict=False)]
        segments = (*named, *longer.segments[len(named) :])
        return RoutePattern(methods, segments, rest=longer.rest and shorter.rest)

    def __str__(self) -> str:
        methods = self.methods - {"HEAD"} if "GET" in self.methods else self.methods
        path = "".join(f"/{segment}" for segment in self.segments) + ("/**" if self.rest else "")
        return f"{','.join(sorted(methods))} {path}" if methods else path


class ModelPattern(msgspec.Struct, frozen=True):
    """One model pattern, parsed: a name, whether it is a prefix, whether it excludes."""

    name: str
    prefix: bool
    excludes: bool

    @classmethod
    def parse(cls, text: str) -> "ModelPattern":
        """Read a model pattern.

        Raises:
            InvalidValueError: `text` is not a model pattern; says what is wrong with it.
        """
        name = text.removeprefix("!")
        prefix = name.endswith("*")
        name = name.removesuffix("*")
        if "*" in name or "!" in name:
            raise InvalidValueError(f"{text!r}: a model pattern has one '*' at its end at most, and one '!' at its start")
        if name_problem(name) is not None and not (prefix and name == ""):
            raise InvalidValueError(f"{text!r}: a model pattern names a model, such as 'gpt-4o' or 'gpt-4o*'")
        return cls(name, prefix, text.startswith("!"))

    def matches(self, model: str) -> bool:
        """Say whether the name is this one, or begins with it; whether it excludes is for the caller to look at."""
        return model.startswith(self.name) if self.prefix else model == self.name


def model_allowed(patterns: Iterable[ModelPattern], model: str) -> bool:
    """Say whether some pattern includes the model and none excludes it."""
    included = False
    for pattern in patterns:
        if pattern.matches(model):
            if pattern.excludes:
                return False
            included = True
    return included


def route_allowed(patterns: Sequence[RoutePattern], method: str, path: str) -> bool:
    """Say whether some pattern covers this method and canonical path."""
    return any(pattern.matches(method, path) for pattern in patterns)


def is_canonical(path: str) -> bool:
    r"""Say whether every server and router reads this decoded path in the same way.

    Refused, as two servers or a server and its app differ on them: no leading slash, control characters, `\ # ? ; %`
    and U+FFFD, empty segments, `.` and `..` (CVE-2019-9901, CVE-2021-32779 and their kin).
    """
    if _PLAIN.fullmatch(path) is not None:
        return True
    if not path.startswith("/") or not path.isprintable() or not _NOT_IN_A_PATH.isdisjoint(path):
        return False
    segments = path.split("/")
    # A trailing slash gives one empty segment at the end, which routers do tell apart; one in the middle is `//`.
    return "" not in segments[1:-1] and "." not in segments and ".." not in segments


def canonical_route(scope: Any) -> tuple[str, str] | None:
    """Return the method (`WS` for a WebSocket) and the path that the app will route on, or None where the path is ambiguous.

    The path is `scope["path"]` below `root_path`, never a URL rebuilt from the Host header (CVE-2026-48710). All of it must be
    canonical: a mount with a parameter puts what the client sent into `root_path`. An encoded separator survives only in
    `raw_path`, so that is looked at too.
    """
    given: str = scope["path"]
    raw: bytes = scope.get("raw_path") or b""
    below = _below_root if len(given) + len(raw) <= _REMEMBERED else _below_root.__wrapped__
    path = below(given, raw, scope.get("root_path") or "")
    if path is None:
        return None
    if scope["type"] == "websocket":
        return "WS", path
    method: str = scope["method"].upper()
    # HTTP lets a client invent methods, and one that he calls WS is not the word for a WebSocket.
    return ("ws" if method == "WS" else method), path


@functools.lru_cache(maxsize=1024)
def _below_root(path: str, raw: bytes, root: str) -> str | None:
    if not is_canonical(path):
        return None
    if b"%" in raw:
        lowered = raw.lower()
        if any(separator in lowered for separator in _ENCODED_SEPARATORS):
            return None
    if path == root or path.startswith(root + "/"):
        return path[len(root) :] or "/"
    return path
