"""The seam to a place that records are written to."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

from llm_authmw.trail.entry import Entry
from llm_authmw.trail.record import Head


class Transport(Protocol):
    """One place. Whoever calls it calls it once at a time, with entries in the order of their chain.

    Its event loop may change between two calls: what belongs to a loop that has ended is made anew.
    """

    @property
    def durable(self) -> bool:
        """Whether what `write` has taken survives the end of this process, however it ends."""
        ...

    async def write(self, entries: Sequence[Entry]) -> None:
        """Take entries, all or none as far as can be known. Returning means that they are taken.

        A call that takes too long is cancelled, and means the same as one that fails.

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

    def forked(self) -> None:
        """Forget connections, threads and locks without using them: this is the child of a fork, and they are its parent's."""


@runtime_checkable
class ImmediateTransport(Transport, Protocol):
    """One that can also write without waiting for anything: a request that must be recorded then waits for no task."""

    def write_now(self, entries: Sequence[Entry]) -> None:
        """Take entries, as `write` does.

        Raises:
            SinkError: as there.
        """


class Begun(NamedTuple):
    """A place that was begun.

    Attributes:
        moved: Whether another one was written to before.
        heads: Where others' chains stood there: the next checkpoint tells of them.
    """

    moved: bool
    heads: Mapping[str, Head]


@runtime_checkable
class MovingTransport(Protocol):
    """One whose place may be moved away: what is written after that begins with a checkpoint, so that it can be verified by itself."""

    def take_begun(self) -> Begun | None:
        """Return what is new of the place since the last time that this was asked; None where nothing is."""
        ...
