"""What passes between a client and an app, and what was reserved for it: one object for all the layers that count."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import anyio
import msgspec

from llm_authmw.call import Usage
from llm_authmw.context import RequestContext
from llm_authmw.errors import InvalidValueError
from llm_authmw.ledger.buckets import BucketRef, Measure
from llm_authmw.ledger.contract import Settlement
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.limits.outcome import SERVER_ERRORS, Facts, combined
from llm_authmw.llm.meter import Meter
from llm_authmw.llm.tally import Tally

logger: Final = logging.getLogger("llm_authmw")

Actual: TypeAlias = Callable[["Exchange"], Mapping[Measure, int]]
"""Says what a hold is settled at once the answer is over: by measure, those left out staying as they were estimated."""
Settled: TypeAlias = Callable[[Settlement | None], None]
"""Told what the ledger answered; None where that is not known yet."""

RELEASED: Final[Mapping[Measure, int]] = {"tokens": 0, "input tokens": 0, "output tokens": 0, "nano_usd": 0}
"""What a request that came to nothing is settled at. It stays counted as a request."""

_DONE: Final = b'"response.done"'


class _Held(msgspec.Struct, eq=False):
    """One layer's hold, and how it is settled; or a layer that holds nothing, and only wants to know what was used."""

    actual: Actual
    handle: LedgerHandle | None = None
    hold: Hold | None = None
    settled: Settled | None = None

    async def settle(self, actual: Mapping[Measure, int]) -> None:
        """Settle it."""
        if self.handle is not None and self.hold is not None:
            answer = await self.handle.settle(self.hold, actual)
            if self.settled is not None:
                self.settled(answer)


class Exchange:
    """One request on its way through the layers that count it.

    The outermost of them opens it (`Exchange.of`), each adds its hold, and the innermost, which sees the app's own bytes first, shows them
    to the meter. Once the answer is over all holds are settled, each exactly once.

    Args:
        context: The request's.

    Attributes:
        context: The request's.
        watch: The innermost layer's; it alone writes down what happens.
        meter: Of the answer, once that has begun and there is something to meter.
        status: The status of the answer, once that has begun.
        flowing: Whether some of its body has passed.
        closing: Whether its last chunk is on the way: a client that has that may be gone before it is known here that it was sent.
        ended: Whether the app has sent it to the end.
        left: Whether the client left before that.
        raised: Whether the app raised an error, or was cancelled.
        cut: Whether the answer was ended by a layer that counts, so that what the app does after it is of no consequence.
        drain: Seconds for which the app runs on without knowing that the client has left; 0 where it is told at once.
        over: Set when the answer has ended; None where nobody waits for that.
        epilogue: Sends what comes behind the answer's last chunk once all is settled, and ends the answer; None where that has ended it.
    """

    __slots__ = (
        "_facts",
        "_frames",
        "_holds",
        "_layers",
        "_settled",
        "closing",
        "context",
        "cut",
        "drain",
        "ended",
        "epilogue",
        "flowing",
        "left",
        "meter",
        "over",
        "raised",
        "status",
        "watch",
    )

    def __init__(self, context: RequestContext) -> None:
        self.context: Final = context
        self.watch: object = None
        self.meter: Meter | None = None
        self.status: int | None = None
        self.flowing: bool = False
        self.closing: bool = False
        self.ended: bool = False
        self.left: bool = False
        self.raised: bool = False
        self.cut: bool = False
        self.drain: float = 0
        self.over: anyio.Event | None = None
        self.epilogue: Callable[[], Awaitable[None]] | None = None
        self._facts: Facts | None = None
        self._frames: Usage | None = None
        self._holds: Final[list[_Held]] = []
        self._layers: Final[list[object]] = []
        self._settled = False

    @classmethod
    def found(cls, context: RequestContext, layer: object = None) -> "Exchange | None":
        """Find the request's exchange, as far as a layer counts in it.

        A layer that counts in it already, or comes when all in it is settled, was asked twice: by something further out that tries again
        or hedges, or by an app that asks itself. That is another execution, with holds and an answer of its own.
        """
        exchange: Exchange | None = context.exchange
        return None if exchange is None or (layer is not None and exchange.is_closed_to(layer)) else exchange

    @classmethod
    def of(cls, context: RequestContext, layer: object = None) -> "Exchange":
        """Find the request's exchange as `found` does, or open it. A layer that is given counts in it from now on."""
        exchange = cls.found(context, layer)
        if exchange is None:
            exchange = context.exchange = cls(context)
        if layer is not None:
            exchange._layers.append(layer)
        return exchange

    def is_closed_to(self, layer: object) -> bool:
        """Say whether a layer counts in it already, or too late."""
        return self._settled or any(one is layer for one in self._layers)

    @property
    def facts(self) -> Facts:
        """How the request ended, or stands."""
        if self._facts is not None:
            return self._facts
        meter = self.meter
        usage = self._frames if meter is None else meter.usage
        if meter is not None and usage is not None and self.flowing and meter.hides and not (usage.complete or usage.input or usage.output):
            # Nothing seen is not nothing used, where nothing can be seen.
            usage = None
        return Facts(
            status=self.status,
            flowing=self.flowing,
            ended=self.ended,
            left=self.left,
            raised=self.raised,
            failed=meter is not None and meter.failed,
            seen=0 if meter is None else meter.output_seen,
            usage=usage,
        )

    def add(self, handle: LedgerHandle, hold: Hold, actual: Actual, settled: Settled | None = None) -> None:
        """Take a hold, which is settled with the request.

        Args:
            handle: Whose it is.
            hold: What was granted.
            actual: Says at what it is settled.
            settled: Told of the ledger's answer.
        """
        self._holds.append(_Held(actual, handle, hold, settled))
        self.context.holds.append(hold)

    def buckets(self, handle: LedgerHandle) -> frozenset[BucketRef]:
        """Return the buckets of one ledger in which the request is counted already."""
        held = (one.hold for one in self._holds if one.handle is handle and one.hold is not None)
        return frozenset(claim.bucket.ref for hold in held for claim in hold.claims)

    def account(self, actual: Actual) -> None:
        """Take a function that is called once the request is over, where nothing is held for it."""
        self._holds.append(_Held(actual))

    async def release(self) -> None:
        """Settle all holds as released: a layer does this before it sends its denial, since the app will not run."""
        self._settled = True
        while self._holds:
            held = self._holds.pop()
            try:
                await held.settle(RELEASED)
            finally:
                await self.release()

    async def settle(self) -> None:
        """Settle all holds at what was used. Calling it again does nothing."""
        while self._holds:
            # Taken out first: whoever calls this meanwhile does not find it again.
            held = self._holds.pop()
            try:
                await held.settle(self._actual(held))
            finally:
                # Where this task is cancelled, each of the others is settled all the same, as the handle shields it.
                await self.settle()

    def _actual(self, held: _Held) -> Mapping[Measure, int]:
        try:
            return held.actual(self)
        except Exception:
            logger.exception("what request %s used could not be found out, so its estimate stands", self.context.request_id)
            return {}

    def let_go(self) -> None:
        """Forget what refers back to it: neither it nor the body of its request is to wait until garbage is collected."""
        self.watch = None
        if self.context.exchange is self:
            self.context.exchange = None

    # What the innermost layer sees.

    def begin(self, watch: object) -> None:
        """Begin to watch the app; a layer further in takes over, and so does the same one where the app is called again."""
        self.watch = watch
        self.status = None
        self.meter = self._frames = self._facts = None
        self.flowing = self.closing = self.ended = self.left = self.raised = False

    def start(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Take the beginning of an answer."""
        if self.status is not None:
            # An answer begins once, and no server sends another beginning.
            return
        self.status = status
        call = self.context.call
        if call is not None and call.needs_model:
            self.meter = meter = Meter(call)
            meter.start([(name.lower(), value) for name, value in headers])

    def take(self, chunk: bytes) -> None:
        """Take a chunk of an answer's body, after it went out."""
        self.flowing = True
        if self.meter is not None:
            try:
                self.meter.feed(chunk)
            except Exception:
                # What passes is not to suffer from what is made of it.
                logger.exception("the answer to request %s could not be metered", self.context.request_id)
                self.meter = None

    def take_frame(self, frame: bytes) -> None:
        """Take what a socket's app sends: the event that ends a response says what that used."""
        self.flowing = True
        if _DONE not in frame:
            return
        tally = Tally("realtime")
        tally.read(frame)
        usage = tally.usage()
        if usage is not None:
            try:
                self._frames = usage if self._frames is None else combined(self._frames, usage)
            except InvalidValueError:
                logger.warning("the counts of request %s are beyond all sense", self.context.request_id)

    def _close_meter(self) -> None:
        """Tell the meter that no more will come."""
        if self.meter is not None:
            try:
                # What was handed over to the end was the whole answer, though its client may not have taken it.
                if self.ended or self.closing:
                    self.meter.end()
                else:
                    self.meter.break_off()
            except Exception:
                logger.exception("the answer to request %s could not be metered", self.context.request_id)
                self.meter = None

    def _known(self) -> Facts:
        try:
            return self.facts
        except Exception:
            logger.exception("the answer to request %s could not be metered", self.context.request_id)
            self.meter = None
            return self.facts

    def pass_unseen(self) -> None:
        """Take a part of an answer of which no bytes pass here."""
        self.flowing = True
        self.meter = None

    async def end(self) -> None:
        """Take the end of an answer, and settle."""
        if self.ended:
            return
        self.ended = True
        self._close_meter()
        if self.over is not None:
            self.over.set()
        # An error page may be the app's own, and then the error itself comes behind it.
        if self.status is None or self.status < SERVER_ERRORS:
            await self.finish()

    async def finish(self) -> None:
        """Settle, and say what is known of the use to everybody."""
        self._settled = True
        if self._holds:
            if not self.ended:
                self._close_meter()
            self._facts = facts = self._known()
            if facts.usage is not None:
                self.context.usage = facts.usage
            self.context.answer_failed = facts.failed
            await self.settle()
        if self.epilogue is not None:
            epilogue, self.epilogue = self.epilogue, None
            await epilogue()


def raw_frame(message: Mapping[str, Any]) -> bytes:
    """Return what a message of a socket holds."""
    text = message.get("text")
    return (message.get("bytes") or b"") if text is None else text.encode("utf-8", "surrogatepass")
