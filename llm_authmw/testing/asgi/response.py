"""What a client sees of an answer, in the bytes that the app sent."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from llm_authmw.testing.asgi.conversation import Activity


@dataclass(kw_only=True)
class Response:
    """An answer. While a stream runs, it grows.

    Attributes:
        status: The status; 500 where the app raised before it sent one, as servers answer then.
        headers: The header lines as the app sent them.
        chunks: The body of each body message, empty ones included.
        trailers: The header lines after the body.
        activity: What the app did.
    """

    activity: Activity = field(repr=False)
    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])
    chunks: list[bytes] = field(default_factory=list[bytes])
    trailers: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])

    @property
    def body(self) -> bytes:
        """The whole body, so far."""
        return b"".join(self.chunks)

    @property
    def text(self) -> str:
        """The whole body, so far, as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """Return the value that the body holds.

        Raises:
            msgspec.DecodeError: it is not JSON.
        """
        return msgspec.json.decode(self.body)

    def header(self, name: str) -> str | None:
        """Return the value of a header, or None where it was not sent.

        Raises:
            AssertionError: it was sent more than once; see `header_lines`.
        """
        lines = self.header_lines(name)
        if len(lines) > 1:
            raise AssertionError(f"{name} was sent {len(lines)} times: {lines}")
        return lines[0] if lines else None

    def header_lines(self, name: str) -> list[str]:
        """Return every value of a header, in order."""
        wanted = name.lower().encode("latin-1")
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == wanted]
