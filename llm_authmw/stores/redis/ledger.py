"""Counters in Redis or Valkey. Each step is one script, so all of it happens or nothing, and one round trip."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from llm_authmw.clock import Clock
from llm_authmw.errors import ConfigurationError, StoreCorruptError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Measure
from llm_authmw.ledger.contract import Balance, Reservation, Settlement, check_actual, check_reservation, check_ttl, is_id
from llm_authmw.secrets import Secret
from llm_authmw.stores.redis.answers import Answer, balances_of, failure_of, refusals_of
from llm_authmw.stores.redis.client import RedisClient
from llm_authmw.stores.redis.scripts import ACKNOWLEDGE, BALANCE, EXTEND, RESERVE, SETTLE, Script

_PREFIX: Final = "{llm-authmw}:"
"""Of every key. A cluster puts keys with the same text in braces on one node, so that one script can see all of them."""
_AT_ONCE: Final = 500
"""Reservations that are extended, and buckets that are read, in one script: about 2 ms in which the server does nothing else."""
_PATIENCE: Final = 5.0
"""Seconds for which a person waits, or a process that starts."""

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Answer).decode


class _Asked(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What a script is given."""

    claims: Sequence[Any] = ()
    ttl: int = 0
    actual: Mapping[Measure, int] | None = None
    acknowledge: bool = False
    now: int | None = None
    mark: int | None = None
    prefix: str | None = None


class RedisLedger:
    """See `Ledger`. It needs asyncio.

    Args:
        url: `redis://HOST:PORT/DATABASE`, `rediss://…` for TLS, or `unix:///PATH?db=DATABASE`; or a reference to a secret.
        whole: Money is counted here too. The server must write to its disk then, and nothing is granted by a ledger that has lost
            what was counted, or is new, until somebody has acknowledged that. Otherwise it holds what may be lost: rates and
            concurrency.
        deadline: Seconds that a call may take in all; None for a caller that has a deadline of its own, as a `LedgerHandle` has.
        connections: Connections at the same time, for each event loop.
        option: What the URL was given as, for errors.
        clock: Gives the time instead of the server's own clock: for tests.

    Raises:
        ConfigurationError: the URL is none, or has an option that is not taken; or a number is out of range.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        whole: bool = False,
        deadline: float | None = 0.25,
        connections: int = 16,
        option: str = "url",
        clock: Clock | None = None,
    ) -> None:
        if deadline is not None and not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        self._client: Final = RedisClient(url, option=option, whole=whole, connections=connections)
        self._deadline: Final = deadline
        self._option: Final = option
        self._clock: Final = clock
        # None: there is none to look after. Else the highest that any answer showed.
        self._mark: int | None = 0 if whole else None

    def __repr__(self) -> str:
        return f"RedisLedger({self._client.place!r}, whole={self._mark is not None})"

    async def start(self) -> None:
        """Connect now instead of on first use, and look whether the server can be relied upon.

        Raises:
            StoreError: it cannot be reached, may drop what it is given, or has lost it; says why.
        """
        await self._run(BALANCE, [_PREFIX.encode()], _Asked(), deadline=_PATIENCE)

    async def aclose(self) -> None:
        """Close this event loop's connections; the next use opens new ones."""
        await self._client.aclose()

    async def acknowledge(self) -> None:
        """Go on with what the server holds, though it is less than it was, or nothing: what was lost counts as not used.

        Raises:
            ConfigurationError: the ledger holds only what may be lost.
            StoreError: the server cannot be written.
        """
        if self._mark is None:
            raise ConfigurationError(self._option, "holds counters that may be lost: there is nothing to acknowledge")
        await self._run(ACKNOWLEDGE, [f"{_PREFIX}mark".encode()], _Asked(acknowledge=True), deadline=_PATIENCE)

    async def reserve(self, reservation_id: str, claims: Sequence[Claim], *, ttl: int) -> Reservation:
        """See `Ledger`."""
        check_reservation(reservation_id, claims, ttl)
        answer = await self._run(RESERVE, [_key(reservation_id)], _Asked(claims=_flat(claims), ttl=ttl))
        return Reservation(answer.at, balances_of(answer), refusals_of(answer, claims))

    async def settle(self, reservation_id: str, actual: Mapping[Measure, int]) -> Settlement | None:
        """See `Ledger`."""
        check_actual(actual)
        if not is_id(reservation_id):
            return None
        answer = await self._run(SETTLE, [_key(reservation_id)], _Asked(actual=actual))
        return None if answer.status == "unknown" else Settlement(answer.at, answer.late, balances_of(answer))

    async def extend(self, reservation_ids: Collection[str], *, ttl: int) -> frozenset[str]:
        """See `Ledger`."""
        check_ttl(ttl)
        living: set[str] = set()
        ids = [reservation_id for reservation_id in reservation_ids if is_id(reservation_id)]
        for first in range(0, len(ids), _AT_ONCE):
            some = ids[first : first + _AT_ONCE]
            answer = await self._run(EXTEND, [_key(name) for name in some], _Asked(ttl=ttl))
            living.update([name for name, held in zip(some, answer.numbers, strict=True) if held])
        return frozenset(living)

    async def balance(self, buckets: Sequence[Bucket]) -> tuple[Balance, ...]:
        """See `Ledger`."""
        balances: list[Balance] = []
        for first in range(0, len(buckets), _AT_ONCE):
            some = buckets[first : first + _AT_ONCE]
            balances += balances_of(
                await self._run(BALANCE, [_PREFIX.encode()], _Asked(claims=_flat([Claim(bucket, 1) for bucket in some])))
            )
        return tuple(balances)

    async def _run(self, script: Script, keys: Sequence[bytes], asked: _Asked, *, deadline: float | None = None) -> Answer:
        if self._mark is not None:
            asked.mark, asked.prefix = self._mark, _PREFIX
        if self._clock is not None:
            asked.now = round(self._clock.now() * SECOND)
        said = await self._client.run(script, keys, _encode(asked), deadline=deadline or self._deadline)
        if isinstance(said, list):
            said, mark = cast("tuple[bytes, int]", said)
            self._mark = max(self._mark or 0, mark)
        try:
            answer = _decode(said)
        except (msgspec.DecodeError, TypeError) as error:
            raise StoreCorruptError(f"{self._client.place} holds something else where the ledger should be") from error
        failure = failure_of(answer, self._client.place)
        if failure is not None:
            raise failure
        return answer


def _flat(claims: Sequence[Claim]) -> list[Any]:
    """Return what a script is told of claims, one after another in one list: it reads that twice as fast as objects."""
    flat: list[Any] = []
    for claim in claims:
        bucket = claim.bucket
        # Neither name holds a tab: all of their characters print.
        key = f"{_PREFIX}{bucket.kind}:{bucket.tenant}\t{bucket.name}"
        flat += (bucket.kind, bucket.measure, key, claim.amount, bucket.limit, bucket.burst, bucket.period, bucket.spans)
    return flat


def _key(reservation_id: str) -> bytes:
    return f"{_PREFIX}reservation:{reservation_id}".encode()
