"""Batches of entries: how much is sent at once, and which of them an earlier try has brought there already."""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final

import anyio
import msgspec

from llm_authmw.sinks.options import check_count
from llm_authmw.trail.entry import Entry

_LEAST_BODY: Final = 65_536
_MAX_REMEMBERED: Final = 10_000
"""Entries that were taken while others of their write were not; more than a sink gives at once."""
_LEVEL: Final = 6


class Batch(msgspec.Struct, frozen=True):
    """Entries that are sent in one request.

    Attributes:
        entries: The entries.
        texts: How each is written.
    """

    entries: Sequence[Entry]
    texts: Sequence[bytes]

    @property
    def key(self) -> str:
        """What tells it from every other one, the same whenever the same entries are sent together."""
        return sha256("".join(entry.hash for entry in self.entries).encode()).hexdigest()[:32]


class Batches:
    """Cuts what is to be sent into batches.

    Args:
        max_body: Bytes of a batch at most, one for each line break included.
        text: How an entry is written.

    Raises:
        ConfigurationError: `max_body` is less than the longest entry may have.
    """

    def __init__(self, max_body: int, text: Callable[[Entry], bytes]) -> None:
        self._max_body: Final = check_count("max_body", max_body, unit="bytes", least=_LEAST_BODY)
        self._text: Final = text
        # A dictionary, for its order.
        self._taken: Final[dict[str, None]] = {}

    def of(self, entries: Iterable[Entry]) -> Iterator[Batch]:
        """Yield batches of the entries, but for those that were taken already."""
        gathered: list[Entry] = []
        texts: list[bytes] = []
        size = 0
        for entry in entries:
            if entry.hash in self._taken:
                continue
            text = self._text(entry)
            if gathered and size + len(text) > self._max_body:
                yield Batch(gathered, texts)
                gathered, texts, size = [], [], 0
            gathered.append(entry)
            texts.append(text)
            size += len(text) + 1
        if gathered:
            yield Batch(gathered, texts)

    def taken(self, entries: Iterable[Entry]) -> None:
        """Remember that these were taken: what is given again, since others of them were not, is not sent again."""
        self._taken.update(dict.fromkeys(entry.hash for entry in entries))
        while len(self._taken) > _MAX_REMEMBERED:
            del self._taken[next(iter(self._taken))]

    def over(self, entries: Iterable[Entry]) -> None:
        """Forget these: all of them were taken, and none is given again."""
        for entry in entries:
            self._taken.pop(entry.hash, None)


async def packed(content: bytes, headers: Mapping[str, str], *, compress: bool) -> tuple[bytes, dict[str, str]]:
    """Return a body and its header fields, compressed if wanted: in a thread, since a megabyte takes some 20 ms."""
    if not compress:
        return content, dict(headers)
    return await anyio.to_thread.run_sync(gzip.compress, content, _LEVEL), {**headers, "content-encoding": "gzip"}
