"""Counting a failure: in the ledger, which all processes share, and here while that does not answer."""

from collections.abc import Sequence
from typing import Final

import anyio

from llm_authmw.brute_force.memory import Memory
from llm_authmw.brute_force.waits import Refused, Subject, Waits
from llm_authmw.clock import Clock
from llm_authmw.context import RequestContext
from llm_authmw.errors import StoreError
from llm_authmw.ledger.contract import Reservation
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService


class Counting:
    """Counts failures.

    Args:
        ledger: The counters.
        waits: The limits.
        memory: What this process remembers.
    """

    __slots__ = ("_clock", "_fallback", "_rates", "_waits")

    def __init__(self, ledger: LedgerService, waits: Waits, memory: Memory) -> None:
        self._rates: Final[LedgerHandle] = ledger.rates
        self._fallback: Final[LedgerHandle] = memory.fallback
        self._waits: Final = waits
        self._clock: Final[Clock] = ledger.clock

    async def count(self, subjects: Sequence[Subject], context: RequestContext) -> list[Refused]:
        """Count one failure for each subject that has not reached its limit; return what has.

        One that has reached it leaves the others to be counted all the same: else whoever fills one of them is counted nowhere. What is
        refused is none of the next step, so there are at most as many steps as subjects, and nearly always one.

        It is done whether or not the client waits for the answer, which else would be a way not to be counted.
        """
        refused: list[Refused] = []
        left = [subject for subject in subjects if self._waits.counts(subject.dimension)]
        with anyio.CancelScope(shield=True):
            while left:
                answer = await self._book(left, context)
                first, over = 0, len(refused)
                for subject in left:
                    one = self._waits.refused(subject, first, answer)
                    if one is not None:
                        refused.append(one)
                    first += self._waits.number(subject.dimension)
                if len(refused) == over:
                    break
                reached = {one.subject for one in refused}
                left = [subject for subject in left if subject not in reached]
        return refused

    async def _book(self, subjects: Sequence[Subject], context: RequestContext) -> Reservation:
        now = self._clock.now()
        claims = [claim for subject in subjects for claim in self._waits.claims(subject, now)]
        began = self._clock.monotonic()
        try:
            hold = await self._rates.reserve(claims, waited=context.store_waited)
            if isinstance(hold, Reservation):
                return hold
            # At once, since a failure is over as soon as it is counted: there is no truth that could come later.
            await self._rates.settle(hold, {})
        except StoreError:
            context.store_trouble = True
            hold = await self._fallback.reserve(claims)
            if isinstance(hold, Reservation):
                return hold
            await self._fallback.settle(hold, {})
        finally:
            context.store_waited += self._clock.monotonic() - began
        return hold.reservation
