"""`LedgerHandle`: a store's counters as layers use them. Quick or refused, settled once, and nothing that was lost stays booked."""

import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import anyio

from llm_authmw.background import logger
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, InvalidValueError, StoreError, StoreUnavailableError
from llm_authmw.ledger.breaker import Breaker
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Measure
from llm_authmw.ledger.contract import MAX_TTL, Balance, Ledger, Reservation, Settlement
from llm_authmw.ledger.hold import Hold
from llm_authmw.ledger.journal import Journal
from llm_authmw.ledger.recurring import Sleep
from llm_authmw.ledger.renewer import Renewer
from llm_authmw.telemetry import Alert, Asked, Reading, emit, measure, observed

__all__ = ["Hold", "LedgerHandle"]

T = TypeVar("T")


class LedgerHandle:
    """One ledger, for any number of layers, in any number of event loops.

    Args:
        ledger: The store's counters.
        deadline: Seconds that one call may take in all; None for a ledger that never waits, such as one in memory.
        lease: Seconds for which a reservation is held without a sign of life. A request that runs for longer has it renewed.
        breaker: Leaves a store alone that failed several times.
        name: What it is called where it is measured: "ledger", or "counters" for one that holds rates only.
        clock: Gives the monotonic time.
        sleep: Waits in the background.

    Raises:
        ConfigurationError: `deadline` or `lease` is out of range.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        deadline: float | None = 0.25,
        lease: float = 30.0,
        breaker: Breaker | None = None,
        name: str = "ledger",
        clock: Clock = SYSTEM_CLOCK,
        sleep: Sleep = anyio.sleep,
    ) -> None:
        if deadline is not None and not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        if not 0 < lease <= MAX_TTL // SECOND:
            raise ConfigurationError("lease", "is a number of seconds above zero, and at most a day")
        self._ledger: Final = ledger
        self._deadline: Final = deadline
        self._ttl: Final = round(lease * SECOND)
        self._name: Final = name
        self._monotonic: Final = clock.monotonic
        # The probe has its answer, or has failed, before the next one may go out.
        interval = max(0.5, deadline or 0.0)
        self._breaker: Final = breaker or Breaker(interval=interval, max_interval=max(5.0, interval), clock=clock)
        self._renewer: Final = Renewer(self._extend, lease=lease, clock=clock, sleep=sleep)
        self._journal: Final = Journal(self._settle, lease=lease, clock=clock, sleep=sleep)
        measure(self)

    @property
    def held(self) -> int:
        """Reservations that requests of this process hold now."""
        return len(self._renewer)

    @property
    def unsettled(self) -> int:
        """Settlements and releases that the store has not confirmed."""
        return len(self._journal.entries)

    @property
    def given_up(self) -> int:
        """Settlements that the store never took, so that their estimates stand."""
        return self._journal.given_up

    @property
    def forgotten(self) -> int:
        """Reservations that the store granted and later knew nothing of."""
        return self._journal.forgotten

    @property
    def lapsed(self) -> int:
        """Leases that ended while their requests ran."""
        return self._renewer.lapsed

    @property
    def breaker_open(self) -> bool:
        """Whether the store is left alone but for a probe now and then."""
        return self._breaker.open

    def readings(self) -> Iterator[Reading]:
        """Return what is held, what is not settled, and what went wrong."""
        store = (("store", self._name),)
        yield Reading("ledger_reservations_open", self.held, store)
        yield Reading("ledger_settlements_waiting", self.unsettled, store)
        yield Reading("ledger_settlements_given_up", self.given_up, store, counts_up=True)
        yield Reading("ledger_reservations_forgotten", self.forgotten, store, counts_up=True)
        yield Reading("ledger_leases_lapsed", self.lapsed, store, counts_up=True)
        yield Reading("store_breaker_open", self.breaker_open, store)

    async def reserve(self, claims: Sequence[Claim], *, waited: float = 0.0) -> Hold | Reservation:
        """Book all claims or none.

        Args:
            claims: What is wanted.
            waited: Seconds for which the request has waited for the store before: the deadline is for all of its questions.

        Returns:
            What is to be settled once the request is over, or the answer that refuses it.

        Raises:
            InvalidValueError: there is no claim or there are too many, or two are on one bucket.
            StoreError: the store did not answer within the deadline, or has failed too often to be asked. If it carries
                the reservation out all the same, that is undone.
        """
        if self._journal.entries:
            self._journal.wake()
        self._check_patience(waited)
        turn = self._enter("reserve")
        reservation_id = secrets.token_hex(16)
        claims = tuple(claims)
        try:
            reservation = await self._ask(
                "reserve", turn, partial(self._ledger.reserve, reservation_id, claims, ttl=self._ttl), waited=waited
            )
        except InvalidValueError:
            raise
        except BaseException:
            # Also where the request was cancelled: whether the store has booked it is not known, or whether it will.
            self._journal.add(reservation_id, _nothing(claims), granted=False)
            raise
        if reservation.refusals:
            return reservation
        hold = Hold(reservation_id, claims, reservation)
        self._renewer.add(hold)
        return hold

    async def settle(self, hold: Hold, actual: Mapping[Measure, int]) -> Settlement | None:
        """Replace the estimate by the truth, once: a second call returns what is known of the first.

        It never fails, and a request that is cancelled does not cut it short. What the store does not take now is said
        again in the background. A truth that cannot be counted leaves the estimate as it is.

        Args:
            hold: What was reserved.
            actual: What was used, by measure. One that is left out stays as it was estimated.

        Returns:
            None where the store has not answered yet, or knows nothing of the reservation.
        """
        if hold.settled:
            return hold.settlement
        hold.settled = True
        self._renewer.drop(hold.id)
        try:
            hold.settlement = await self._settle(hold.id, actual)
        except StoreError:
            self._journal.add(hold.id, actual, granted=True)
            return None
        except BaseException:
            # The cancellation of an asyncio task that is not one of a scope's passes through every shield.
            self._journal.add(hold.id, actual, granted=True)
            raise
        if hold.settlement is None:
            self._journal.note_forgotten(hold.id)
        return hold.settlement

    async def balance(self, buckets: Sequence[Bucket], *, waited: float = 0.0) -> tuple[Balance, ...]:
        """Return what the buckets stand at now, in their order.

        Args:
            buckets: The buckets.
            waited: As for `reserve`.

        Raises:
            StoreError: the store did not answer within the deadline, or has failed too often to be asked.
        """
        self._check_patience(waited)
        return await self._ask("balance", self._enter("balance"), partial(self._ledger.balance, buckets), waited=waited)

    async def aclose(self) -> None:
        """Settle what is left, within 2 seconds, and log what could not be. The handle may be used again."""
        await self._renewer.aclose()
        self._breaker.allow_probe()
        await self._journal.aclose()

    def _check_patience(self, waited: float) -> None:
        if self._deadline is not None and waited >= self._deadline:
            raise StoreUnavailableError("the request has waited for the store as long as it may")

    async def _settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        return await self._ask("settle", self._enter("settle"), partial(self._settle_or_keep, reservation_id, actual), shield=True)

    async def _settle_or_keep(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        try:
            return await self._ledger.settle(reservation_id, actual)
        except InvalidValueError as error:
            logger.error("reservation %s keeps its estimate: %s", reservation_id, error)
            return await self._ledger.settle(reservation_id, {})

    async def _extend(self, reservation_ids: Collection[str]) -> frozenset[str]:
        return await self._ask("extend", self._enter("extend"), partial(self._ledger.extend, reservation_ids, ttl=self._ttl))

    def _enter(self, operation: str) -> int:
        try:
            return self._breaker.enter()
        except StoreUnavailableError:
            emit(Asked(self._name, operation, 0.0, "skipped"))
            raise

    async def _ask(self, operation: str, turn: int, call: Callable[[], Awaitable[T]], *, waited: float = 0.0, shield: bool = False) -> T:
        """Put one question to the store, and tell the breaker, and whoever measures, what came of it."""
        began = self._monotonic() if observed() else None
        try:
            answer = await (call() if self._deadline is None else _within(self._deadline - waited, call, shield=shield))
        except InvalidValueError:
            self._breaker.succeeded(turn)
            self._tell(operation, began, "ok")
            raise
        except StoreError as error:
            self._tell(operation, began, "late" if isinstance(error, _LateError) else "failed")
            self._failed(turn, error)
            raise
        except Exception as error:
            self._tell(operation, began, "failed")
            self._failed(turn, error)
            logger.exception("a ledger failed with what is no StoreError")
            raise StoreError("the ledger failed in a way that it does not know itself") from error
        self._tell(operation, began, "ok")
        was_open = self._breaker.open
        self._breaker.succeeded(turn)
        if was_open and not self._breaker.open:
            logger.warning("the ledger answers again")
        return answer

    def _failed(self, turn: int, error: Exception) -> None:
        was_open = self._breaker.open
        self._breaker.failed(turn)
        if self._breaker.open and not was_open:
            # Once, however many requests are denied meanwhile.
            logger.warning("the ledger has failed several times in a row, and is left alone but for a call now and then: %s", error)
            emit(
                Alert(
                    kind="store_outage",
                    tenant="*",
                    subject=self._name,
                    message="The store of limits and budgets has failed several times in a row, and is hardly asked any more.",
                    occasion=f"{self._monotonic():.3f}",
                )
            )

    def _tell(self, operation: str, began: float | None, outcome: str) -> None:
        if began is not None:
            emit(Asked(self._name, operation, self._monotonic() - began, outcome))


class _LateError(StoreUnavailableError):
    """The deadline has come before the answer."""


async def _within(seconds: float, call: Callable[[], Awaitable[T]], *, shield: bool) -> T:
    with anyio.move_on_after(seconds, shield=shield):
        return await call()
    raise _LateError("the ledger did not answer in time")


def _nothing(claims: Sequence[Claim]) -> dict[Measure, int]:
    """Return the truth of a request that never was."""
    return {claim.bucket.measure: 0 for claim in claims if claim.bucket.measure != "concurrent"}
