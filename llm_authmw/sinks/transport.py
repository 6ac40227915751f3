"""The seam to a place that records are written to."""

from collections.abc import Sequence
from typing import Protocol

from llm_authmw.trail.entry import Entry


class Transport(Protocol):
    """One place. Whoever calls it calls it once at a time, with entries in the order of their chain."""

    @property
    def durable(self) -> bool:
        """Whether what `write` has taken survives the end of this process, however it ends."""
        ...

    async def write(self, entries: Sequence[Entry]) -> None:
        """Take entries, all or none as far as can be known. Returning means that they are taken.

        Raises:
            SinkError: they are not, or it is not known whether they are; the same entries are given again later.
        """

    async def start(self) -> None:
        """Make it ready; starting twice is starting once, and `write` starts it by itself.

        Raises:
            SinkError: it cannot be.
        """

    async def aclose(self) -> None:
        """End it; the next use starts it again."""
