"""How many are judged at once: else a thousand guesses in one moment would all be judged before the first of them is counted."""

from collections import deque
from typing import Final, TypeAlias

import anyio
from anyio.lowlevel import EventLoopToken, current_token

Place: TypeAlias = tuple[EventLoopToken, str]
"""A place inside, which whoever has it gives back once."""


class _Lane:
    """Those of one network: how many are inside, and who waits for their turn."""

    __slots__ = ("inside", "waiting")

    def __init__(self) -> None:
        self.inside = 0
        self.waiting: deque[anyio.Event] = deque()


class Gate:
    """Lets so many of one network in at a time, the others in the order in which they came. Each event loop has its own."""

    __slots__ = ("_lanes",)

    def __init__(self) -> None:
        # An event belongs to one loop, and a process may run several.
        self._lanes: Final[dict[Place, _Lane]] = {}

    def __len__(self) -> int:
        return sum(lane.inside + len(lane.waiting) for lane in self._lanes.values())

    async def enter(self, network: str, at_once: int) -> Place:
        """Wait for a place, and return it. Nothing is held by whoever is cancelled meanwhile."""
        place = (current_token(), network)
        lane = self._lanes.setdefault(place, _Lane())
        if lane.inside < at_once:
            lane.inside += 1
            return place
        turn = anyio.Event()
        lane.waiting.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():
                self.leave(place)
            else:
                lane.waiting.remove(turn)
            raise
        return place

    def leave(self, place: Place) -> None:
        """Give a place to whoever waits for it, or back."""
        lane = self._lanes[place]
        if lane.waiting:
            lane.waiting.popleft().set()
            return
        lane.inside -= 1
        if not lane.inside:
            del self._lanes[place]
