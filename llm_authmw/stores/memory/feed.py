"""What changed, kept beside what was changed."""

import threading
from collections import deque
from typing import Final, Literal

from llm_authmw.changes import Changes

MAX_NAMED_CHANGES: Final = 1000
"""Changes that an answer names one by one; beyond that, everything may have changed."""


class MemoryFeed:
    """The newest changes, oldest first, and how many there have ever been."""

    def __init__(self, lock: threading.Lock) -> None:
        self._lock: Final = lock
        self._newest: Final[deque[tuple[str, str]]] = deque(maxlen=MAX_NAMED_CHANGES)
        self._count = 0

    def append(self, facet: Literal["keys", "accounts", "revocations"], name: str) -> None:
        """Note a change; the caller holds the lock."""
        self._newest.append((facet, name))
        self._count += 1

    async def changes(self, since: int | None) -> Changes:
        """See `ChangeFeed`."""
        with self._lock:
            missed = None if since is None else self._count - since
            if missed is None or not 0 <= missed <= len(self._newest):
                return Changes.of_anything(self._count)
            changed = list(self._newest)[len(self._newest) - missed :]
            facets = {facet for facet, _ in changed}
            return Changes(
                cursor=self._count,
                keys=frozenset(name for facet, name in changed if facet == "keys"),
                accounts="accounts" in facets,
                revocations="revocations" in facets,
            )
