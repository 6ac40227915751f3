"""A recorded request, and the files that hold them."""

import base64
from pathlib import Path
from typing import Any, Final

import msgspec

FILES: Final = Path(__file__).parent / "shapes"


class Shape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request as an SDK sent it, with credentials, ids and dates replaced.

    Attributes:
        method: The method; "WS" for a WebSocket.
        path: The path, percent-encoded as it was sent.
        query: The query, without the question mark.
        headers: The header lines as they came.
        text: The body, where it is UTF-8.
        base64: The body, where it is not.
        frames: What the client of a WebSocket sent in it.
    """

    method: str
    path: str
    query: str = ""
    headers: list[tuple[str, str]]
    text: str = ""
    base64: str = ""
    frames: list[str] = []

    @property
    def body(self) -> bytes:
        """The body as it was sent, but for what was replaced."""
        return base64.b64decode(self.base64) if self.base64 else self.text.encode()

    @property
    def target(self) -> str:
        """Method, path and query."""
        return f"{self.method} {self.path}{'?' if self.query else ''}{self.query}"

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None."""
        return next((value for key, value in self.headers if key.lower() == name), None)


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What one client sent.

    Attributes:
        sdk: Which SDK, and its version.
        shapes: Each request, by the name of the call that made it.
    """

    sdk: str
    shapes: dict[str, Shape]


def recordings() -> dict[str, Recording]:
    """Return every recording, by the name of its file."""
    return {file.stem: msgspec.json.decode(file.read_bytes(), type=Recording) for file in sorted(FILES.glob("*.json"))}


def write(name: str, recording: Recording) -> Path:
    """Write a recording, so that a change shows as a small diff."""
    file = FILES / f"{name}.json"
    told: Any = msgspec.to_builtins(recording)
    file.write_bytes(msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n")
    return file
