"""Answers that are not passed as they are, where a budget is told to: streams that end when the money does, and last words on it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from llm_authmw.asgi import Message, Scope, Send
from llm_authmw.dialects import error_event
from llm_authmw.errors import Denial, StoreError
from llm_authmw.ledger.contract import Settlement
from llm_authmw.ledger.handle import Hold, LedgerHandle
from llm_authmw.limits.admission import Admission
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.pricing import Pricing
from llm_authmw.limits.spending import Spending, most_output
from llm_authmw.llm.usage_removal import UsageRemoval

OnExhausted: TypeAlias = Literal["finish", "extend", "cut"]
"""What becomes of a stream that has used up what was reserved for it."""

ON_EXHAUSTED: Final[tuple[str, ...]] = get_args(OnExhausted)

_CUT: Final = "the budget for this answer is used up"
_BOUNDARIES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
_BOUNDARY: Final = re.compile(b"|".join(_BOUNDARIES))
_LONGEST: Final = max(map(len, _BOUNDARIES))


class StreamCutError(OSError):
    """Raised into an app whose answer was cut; to the app, the client has gone."""


class Editor:
    """Stands between the server and an app whose answer may have to be changed. What is no stream of plain events passes as it is.

    Args:
        layer: The layer's name.
        send: The server's.
        scope: The connection.
        exchange: The request's.
        admission: How the request was admitted.
        spending: Its money.
        pricing: What more of it would cost.
        handle: Where more of it is reserved.
        on_exhausted: What becomes of the stream when it has used up what was reserved.
        final_event: Whether it ends with a comment that says what it cost.
    """

    def __init__(
        self,
        layer: str,
        send: Send,
        scope: Scope,
        exchange: Exchange,
        *,
        admission: Admission,
        spending: Spending,
        pricing: Pricing,
        handle: LedgerHandle,
        on_exhausted: OnExhausted,
        final_event: bool,
    ) -> None:
        self._layer: Final = layer
        self._send: Final = send
        self._scope: Final = scope
        self._exchange: Final = exchange
        self._admission: Final = admission
        self._spending: Final = spending
        self._pricing: Final = pricing
        self._handle: Final = handle
        self._on_exhausted: Final[OnExhausted] = on_exhausted
        self._final_event: Final = final_event
        self._removal: UsageRemoval | None = None
        self._edits = False
        self._ends = False
        self._sent = b""
        self._says_more = False
        self._left: int | None = None

    def settled(self, settlement: Settlement | None) -> None:
        """Take what the ledger answered to the truth."""
        if settlement is not None:
            self._left = min(balance.left for balance in settlement.balances)

    async def send(self, message: Message) -> None:
        """Send a message of the app.

        Raises:
            StreamCutError: the answer was cut, and the app goes on all the same.
        """
        if self._exchange.cut:
            raise StreamCutError(_CUT)
        kind = message["type"]
        if kind == "http.response.start":
            message = self._begin(message)
        elif kind == "http.response.body" and self._edits:
            await self._send_chunk(message)
            return
        await self._send(message)

    def _begin(self, message: Message) -> Message:
        headers: Sequence[tuple[bytes, bytes]] = [(name.lower(), value) for name, value in message.get("headers", ())]
        named: Mapping[bytes, bytes] = dict(headers)
        plain = named.get(b"content-encoding", b"identity").strip().lower() in {b"", b"identity"}
        self._edits = plain and named.get(b"content-type", b"").lower().startswith(b"text/event-stream")
        if not self._edits:
            return message
        if self._admission.adds_usage:
            self._removal = UsageRemoval()
        self._says_more = self._final_event and not message.get("trailers")
        # A length that was promised would be another one.
        return {**message, "headers": [line for line in headers if line[0] != b"content-length"]}

    async def _send_chunk(self, message: Message) -> None:
        chunk: bytes = message.get("body", b"")
        if self._on_exhausted != "finish" and (self._ends or (self._is_exhausted() and not await self._extend())):
            await self._cut(chunk)
        more = bool(message.get("more_body", False))
        if self._removal is not None:
            chunk = self._removal.feed(chunk) if more else self._removal.feed(chunk) + self._removal.finish()
        if chunk:
            self._sent = (self._sent + chunk)[-_LONGEST:]
        if more and not chunk:
            return
        if more or not self._says_more:
            await self._send({**message, "body": chunk})
            return
        if chunk:
            await self._send({**message, "body": chunk, "more_body": True})
        self._exchange.epilogue = self._say_what_it_cost

    def _is_exhausted(self) -> bool:
        meter = self._exchange.meter
        return meter is not None and meter.output_seen > most_output(self._spending.estimate)

    async def _extend(self) -> bool:
        """Reserve as much again for the answer; say whether it was granted."""
        admission, spending = self._admission, self._spending
        call, extent = self._exchange.context.call, admission.extent
        if self._on_exhausted != "extend" or call is None or extent is None:
            return False
        estimate = spending.estimate
        output = estimate.most.output
        try:
            more = self._pricing.estimate(call, extent, ceiling=2 * estimate.ceiling)
            if more.most.output <= output:
                return False
            if admission.hold is not None:
                answer = await admission.claim(more.charge.amount - estimate.charge.amount)
                if not isinstance(answer, Hold):
                    return False
                self._exchange.add(self._handle, answer, spending.slice_actual)
        except StoreError:
            self._exchange.context.store_trouble = True
            return False
        except Denial:
            return False
        spending.estimate = msgspec.structs.replace(more, capped=estimate.capped)
        return True

    async def _cut(self, chunk: bytes) -> None:
        """End the answer between two events: here, or where the one ends that has been begun, if that is in the next chunk.

        Raises:
            StreamCutError: it is ended; raised into the app.
        """
        exchange = self._exchange
        if not self._is_between_events():
            self._ends = True
            sent = len(self._sent)
            end = next((boundary.end() for boundary in _BOUNDARY.finditer(self._sent + chunk) if boundary.end() > sent), None)
            if end is None:
                return
            await self._send({"type": "http.response.body", "body": chunk[: end - sent], "more_body": True})
        denial = Denial("insufficient_quota", layer=self._layer, need="room in the budget for the rest of the answer")
        exchange.context.record(denial, credential_id=exchange.context.principal.credential_id)
        exchange.cut = True
        event = error_event(denial, self._scope, exchange.context.request_id)
        await self._send({"type": "http.response.body", "body": event, "more_body": False})
        raise StreamCutError(_CUT)

    async def _say_what_it_cost(self) -> None:
        """Send a comment, which every reader of events passes over, and end the answer."""
        charge = self._exchange.context.charge
        said: dict[str, Any] = {"charged_nano_usd": None if charge is None else charge.amount, "left_nano_usd": self._left}
        event = b": llm-authmw " + msgspec.json.encode(said) + b"\n\n"
        if not self._is_between_events():
            event = b"\n\n" + event
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def _is_between_events(self) -> bool:
        return not self._sent or self._sent.endswith(_BOUNDARIES)
