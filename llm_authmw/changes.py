"""How a process learns what others did: it asks the store for changes, lazily, at most once per stated bound.

Whatever a handle has cached may be used while the follower is fresh. A poll that fails leaves it stale, so that a cached
answer is never older than the bound.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import anyio

from llm_authmw.cache import SingleFlight
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, StoreError, StoreUnavailableError
from llm_authmw.telemetry import Alert, Asked, asking, emit


class Changes(NamedTuple):
    """What changed in a store since a cursor.

    Attributes:
        cursor: Where to ask from the next time.
        keys: The ids of the API keys that changed; None when they are too many to name, and everything may have.
        accounts: Whether an account changed.
        revocations: Whether a token, a subject or an issuer's key was revoked, or such a revocation was lifted.
    """

    cursor: int
    keys: frozenset[str] | None = frozenset()
    accounts: bool = False
    revocations: bool = False

    @classmethod
    def of_anything(cls, cursor: int) -> "Changes":
        """Return what a store answers that cannot say what changed: everything may have."""
        return cls(cursor=cursor, keys=None, accounts=True, revocations=True)


class ChangeFeed(Protocol):
    """A store's record of its own changes."""

    async def changes(self, since: int | None) -> Changes:
        """Return what changed after `since`; for None just the present cursor, and that everything may have.

        Raises:
            StoreError: the store cannot be read.
        """
        ...


Listener = Callable[[Changes], None]


class ChangeFollower:
    """Follow one store's changes.

    Args:
        feed: The store's feed.
        bound: Seconds within which a change by another process takes effect here.
        deadline: Seconds that one poll may take.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: `bound` or `deadline` is not above zero.
    """

    def __init__(self, feed: ChangeFeed, *, bound: float = 1.0, deadline: float = 0.25, clock: Clock = SYSTEM_CLOCK) -> None:
        if not (0 < bound < math.inf):
            raise ConfigurationError("bound", "is a number of seconds above zero")
        if not (0 < deadline < math.inf):
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        self.bound: Final = bound
        self.fresh_until: float = -math.inf
        """Monotonic seconds until which cached answers may be used."""
        self._feed: Final = feed
        self._deadline: Final = deadline
        self._monotonic: Final = clock.monotonic
        self._listeners: Final[list[Listener]] = []
        self._cursor: int | None = None
        self._flight: Final[SingleFlight[None, Changes]] = SingleFlight()
        self._failing_since: float | None = None

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with every change from now on. It must not fail and must not wait."""
        self._listeners.append(listener)

    def announce(self, changes: Changes) -> None:
        """Tell the listeners of a change that this process made itself, so that it takes effect at once here."""
        for listener in self._listeners:
            listener(changes)

    async def refresh(self) -> None:
        """Ask the store unless what is known is fresh; callers at the same time share one question.

        Raises:
            StoreUnavailableError: the store did not answer within the deadline. What is cached stays unusable.
            StoreError: the store cannot be read.
        """
        if self.fresh_until <= self._monotonic():
            await self._flight.run(None, self._poll)

    async def _poll(self) -> Changes:
        # Fresh from when the question was put: what happens while it is under way may be missing from the answer.
        asked = self._monotonic()
        try:
            with anyio.fail_after(self._deadline):
                changes = await asking("changes", "poll", lambda: self._feed.changes(self._cursor), monotonic=self._monotonic)
        except TimeoutError:
            emit(Asked("changes", "poll", self._deadline, "late"))
            self._failed(asked)
            raise StoreUnavailableError("the store did not answer in time") from None
        except StoreError:
            self._failed(asked)
            raise
        self._failing_since = None
        self._cursor = changes.cursor
        self.announce(changes)
        self.fresh_until = asked + self.bound
        return changes

    def _failed(self, asked: float) -> None:
        """Alert of the first poll of a row that fails; one that succeeds ends the row."""
        if self._failing_since is None:
            self._failing_since = asked
            emit(
                Alert(
                    kind="refresh_failing",
                    tenant="*",
                    subject="changes",
                    message="The store cannot be asked what has changed, so that nothing that is remembered of it may be used.",
                    # Of the process's own clock, which is all that tells one row of failures from the next.
                    occasion=f"{asked:.3f}",
                )
            )
