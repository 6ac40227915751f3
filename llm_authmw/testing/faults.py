"""A ledger that fails as stores do, when a test says so."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Final, Literal, TypeAlias, TypeVar, get_args

import anyio

from llm_authmw.errors import AuthmwError, StoreUnavailableError
from llm_authmw.ledger.buckets import Bucket, Claim, Measure
from llm_authmw.ledger.contract import Balance, Ledger, Reservation, Settlement
from llm_authmw.ledger.recurring import Sleep

T = TypeVar("T")

Fault: TypeAlias = Literal["down", "answer lost", "silent", "frozen"]
"""What goes wrong: *down* refuses and does nothing; *answer lost* does it, and then the connection breaks; *silent* does it, and never
answers; *frozen* does nothing now, and everything that it was told as soon as it is thawed, whether or not anybody still waits."""

_FAULTS: Final[tuple[str, ...]] = get_args(Fault)


class FaultyLedger:
    """A ledger of yours with faults that come and go.

    Args:
        make: Makes the ledger that does the work; called again by `restart`.
        delay: Seconds that each call waits before it is carried out.
        sleep: Waits so long; a manual clock has a `sleep` of its own.

    Attributes:
        fault: What is wrong now; None where nothing is.
        times: Calls that meet the fault before it is over; None for all.
        delay: Seconds that each call waits before it is carried out.
        calls: The names of the methods that were called, in order.
    """

    def __init__(self, make: Callable[[], Ledger], *, delay: float = 0.0, sleep: Sleep = anyio.sleep) -> None:
        self.fault: Fault | None = None
        self.times: int | None = None
        self.delay: float = delay
        self.calls: list[str] = []
        self._make: Final = make
        self._sleep: Final = sleep
        self._inner: Ledger = make()
        self._frozen: list[tuple[Callable[[], Awaitable[object]], anyio.Event]] = []

    def __repr__(self) -> str:
        return f"FaultyLedger(fault={self.fault!r})"

    @property
    def waiting(self) -> int:
        """Calls that were frozen and not carried out yet."""
        return len(self._frozen)

    def fail(self, fault: Fault, *, times: int | None = None) -> None:
        """Let this go wrong from now on.

        Args:
            fault: What.
            times: For so many calls; None until `heal` or `thaw`.

        Raises:
            ValueError: there is no such fault.
        """
        if fault not in _FAULTS:
            raise ValueError(f"{fault!r} is not a fault: expected one of {', '.join(_FAULTS)}")
        self.fault, self.times = fault, times

    def heal(self) -> None:
        """Let nothing go wrong any more. What is frozen stays so until it is thawed."""
        self.fault = self.times = None

    async def thaw(self) -> None:
        """Carry out what was frozen, in order, and let nothing go wrong any more."""
        self.heal()
        frozen, self._frozen = self._frozen, []
        for call, done in frozen:
            await call()
            done.set()

    def restart(self) -> None:
        """Begin again with nothing in it, as a store does that was restarted without its data; what was frozen is lost."""
        self._inner = self._make()
        self._frozen = []

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        return await self._call("reserve", lambda: self._inner.reserve(reservation_id, claims, ttl=ttl))

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """See `Ledger`."""
        return await self._call("settle", lambda: self._inner.settle(reservation_id, actual))

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """See `Ledger`."""
        return await self._call("extend", lambda: self._inner.extend(reservation_ids, ttl=ttl))

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """See `Ledger`."""
        return await self._call("balance", lambda: self._inner.balance(buckets))

    async def _call(self, name: str, call: Callable[[], Awaitable[T]]) -> T:
        self.calls.append(name)
        if self.delay:
            await self._sleep(self.delay)
        fault = self._next_fault()
        if fault is None:
            return await call()
        if fault == "down":
            raise StoreUnavailableError("the store is down")
        if fault == "frozen":
            return await self._freeze(call)
        await call()
        if fault == "answer lost":
            raise StoreUnavailableError("the connection broke before the answer came")
        await anyio.Event().wait()
        raise AssertionError("nothing sets it")

    def _next_fault(self) -> Fault | None:
        fault = self.fault
        if fault is not None and self.times is not None:
            self.times -= 1
            if self.times <= 0:
                self.heal()
        return fault

    async def _freeze(self, call: Callable[[], Awaitable[T]]) -> T:
        answers: list[T] = []
        errors: list[AuthmwError] = []
        done = anyio.Event()
        self._frozen.append((partial(_keep, call, answers, errors), done))
        await done.wait()
        if errors:
            raise errors[0]
        return answers[0]


async def _keep(call: Callable[[], Awaitable[T]], answers: list[T], errors: list[AuthmwError]) -> None:
    try:
        answers.append(await call())
    except AuthmwError as error:
        errors.append(error)
