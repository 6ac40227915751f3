"""How many are judged at once: else a thousand guesses in one moment would all be judged before the first of them is counted."""

from collections import deque
from typing import Final, TypeAlias

import anyio
from anyio.lowlevel import EventLoopToken, current_token

Place: TypeAlias = tuple[EventLoopToken, str]
"""A place inside, which whoever has it gives back once."""

MAX_WAITING: Final = 1024
"""How many of one network wait for their turn at most."""
PATIENCE: Final = 10.0
"""Seconds that one of them waits. Nobody hears of a client that has gone meanwhile: without an end a flood would be held for ever."""


class _Lane:
    """Those of one network: how many are inside, and who waits for their turn."""

    __slots__ = ("inside", "waiting")

    def __init__(self) -> None:
        self.inside = 0
        self.waiting: deque[anyio.Event] = deque()


class Gate:
    """Lets so many of one network in at a time, the others in the order in which they came. Each event loop has its own.

    Args:
        patience: Seconds that somebody waits.
    """

    __slots__ = ("_lanes", "_patience")

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience: Final = patience
        # An event belongs to one loop, and a process may run several.
        self._lanes: Final[dict[Place, _Lane]] = {}

    def __len__(self) -> int:
        return sum(lane.inside + len(lane.waiting) for lane in self._lanes.values())

    async def enter(self, network: str, at_once: int) -> Place | None:
        """Wait for a place, and return it; None where too many wait, or none was free in time. Whoever is cancelled holds nothing."""
        place = (current_token(), network)
        lane = self._lanes.setdefault(place, _Lane())
        if lane.inside < at_once:
            lane.inside += 1
            return place
        if len(lane.waiting) >= MAX_WAITING:
            return None
        turn = anyio.Event()
        lane.waiting.append(turn)
        try:
            with anyio.move_on_after(self._patience):
                await turn.wait()
        except BaseException:
            if turn.is_set():
                self.leave(place)
            else:
                lane.waiting.remove(turn)
            raise
        if turn.is_set():
            return place
        lane.waiting.remove(turn)
        return None

    def leave(self, place: Place) -> None:
        """Give a place to whoever waits for it, or back."""
        lane = self._lanes[place]
        if lane.waiting:
            lane.waiting.popleft().set()
            return
        lane.inside -= 1
        if not lane.inside:
            del self._lanes[place]
