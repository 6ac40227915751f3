"""What is noted of a request while it passes: all that its record is made of, later, and off its path."""

from collections.abc import Sequence
from sys import getsizeof
from typing import Any, Final

import msgspec

from llm_authmw.audit.trace_parent import HEADER, MAX_LENGTH
from llm_authmw.call import Charge, LLMCall, Usage
from llm_authmw.context import Decision, RequestContext
from llm_authmw.lens import RequestLens
from llm_authmw.network import Address, TrustedProxies
from llm_authmw.principal import Principal
from llm_authmw.trail.record import Record, RecordKind

MAX_KEPT: Final = 4096
"""Characters of a text, and bytes of a header, that are kept until the record is made: what waits for a sink stays small."""
MAX_NAMES: Final = 64
"""Models, tools and decisions that one record tells; of more it says that there were more."""

_EMPTY: Final = 4_096
# Bytes that the notes of a request take in which nothing is long.

_FORWARDED: Final = frozenset({b"forwarded", b"x-forwarded-for"})


class Known(msgspec.Struct, frozen=True, eq=False, gc=False):
    """What the layers know of a request at one moment. It is taken out of the context, which may change, and holds more than is needed.

    Attributes:
        request: The number of which our own id of it is made.
        principal, roles, tier: Who is calling; see `RequestContext`.
        decisions, timings: What the layers have decided, and when.
        holds: What was reserved. How each of it was settled may come to be known later.
        store_trouble: Whether a store did not answer.
        usage, charge, answer_failed: What is known of the answer.
        call: What is asked for, where a layer has read it.
        address: The client's address, where a layer has asked for it.
        proxies: The one trusted-proxy setting.
        forwarded: The headers that it reads, where no layer has asked for the address.
        traced: The values of the header that names a trace.
    """

    request: int
    principal: Principal
    roles: tuple[str, ...]
    tier: str | None
    decisions: tuple[Decision, ...]
    timings: tuple[float, ...]
    holds: tuple[Any, ...]
    store_trouble: bool
    usage: Usage | None
    charge: Charge | None
    answer_failed: bool
    call: LLMCall | None
    address: Address | None
    proxies: TrustedProxies | None
    forwarded: Sequence[tuple[bytes, bytes]]
    traced: Sequence[bytes]

    @classmethod
    def of(cls, context: RequestContext, headers: Sequence[tuple[bytes, bytes]], client: Any) -> "Known":
        """Return what is known now.

        Args:
            context: The request's.
            headers: The headers that came with it.
            client: The connection's other end.
        """
        traced: list[bytes] | tuple[()] = ()
        for name, value in headers:
            if name == HEADER:
                traced = [*traced, value[: MAX_LENGTH + 1]]
        address, proxies = context.address, context.proxies
        forwarded: list[tuple[bytes, bytes]] | tuple[()] = ()
        if address is None and proxies is not None:
            forwarded = [line for line in headers if line[0].lower() in _FORWARDED]
            if sum(len(value) for _, value in forwarded) > MAX_KEPT:
                address, forwarded = context.client_address({"client": client, "headers": forwarded}), ()
        call = context.call
        return cls(
            context.request_number,
            context.principal,
            context.roles,
            context.tier,
            tuple(context.decisions),
            tuple(context.timings),
            tuple(context.holds) if context.holds else (),
            context.store_trouble,
            context.usage,
            context.charge,
            context.answer_failed,
            call if call is None or _is_small(call) else _small(call),
            address,
            proxies,
            forwarded,
            traced,
        )


class Notes(msgspec.Struct, eq=False, gc=False):
    """Notes of one request. Once they are closed nothing in them changes any more.

    Attributes:
        protocol: "http" or "websocket".
        method: The method, as the client wrote it.
        path, raw_path, root_path: Of the scope, taken at once: frameworks change them there.
        client: The connection's other end, as the server gives it.
        lens: Knows the operation where no layer has read it.
        began: When the request came, by the monotonic clock.
        time: The same, in seconds since 1970.
        kind: "request", or "intent" for one that is about to be let in.
        status: The status of the answer, once that has begun.
        taken: How many decisions there were then: a denial that comes later has cut the answer.
        first_byte: When the first byte of its body was sent.
        over: When it was sent to the end; None where it was not.
        left: Whether the client has gone before that.
        raised: Whether the app raised an error.
        killed: Whether its handler was cancelled.
        ended: When nothing more came.
        trace_id: The trace that an observer has put it into.
        known: What the layers know of it; None before anybody has asked.
    """

    protocol: str
    method: str
    path: str
    raw_path: bytes
    root_path: str
    client: Any
    lens: RequestLens
    began: float
    time: float
    kind: RecordKind = "request"
    status: int | None = None
    taken: int = 0
    first_byte: float | None = None
    over: float | None = None
    left: bool = False
    raised: bool = False
    killed: bool = False
    ended: float = 0.0
    trace_id: str | None = None
    known: Known | None = None
    _record: Record | None = None

    def __repr__(self) -> str:
        return f"Notes({self.protocol!r}, status={self.status})"

    def intent(self, known: Known) -> "Notes":
        """Return notes of the request as it is let in, with what the layers know then."""
        return Notes(
            self.protocol,
            self.method,
            self.path,
            self.raw_path,
            self.root_path,
            self.client,
            self.lens,
            self.began,
            self.time,
            "intent",
            trace_id=self.trace_id,
            known=known,
        )

    def weight(self) -> int:
        """Return about how many bytes they take while they wait to be written."""
        texts: list[str | bytes] = [self.path, self.raw_path, self.root_path]
        if self.known is not None:
            texts += [*self.known.traced, *(value for _, value in self.known.forwarded)]
            if self.known.call is not None:
                texts += [*self.known.call.models, *self.known.call.tools, self.known.call.end_user or ""]
        return _EMPTY + sum(map(getsizeof, texts))

    def record(self) -> Record:
        """Make the record, once: it is the same for every sink."""
        if self._record is None:
            from llm_authmw.audit.record_of import record_of  # noqa: PLC0415 - which reads notes itself

            self._record = record_of(self)
        return self._record


def _is_small(call: LLMCall) -> bool:
    return not (call.end_user or call.functions) and len(call.models) <= MAX_NAMES and len(call.tools) <= MAX_NAMES


def _small(call: LLMCall) -> LLMCall:
    """Return what a record has of a call, without what a client may have made large."""
    end_user = None if call.end_user is None else call.end_user[:MAX_KEPT]
    return msgspec.structs.replace(call, end_user=end_user, functions=(), models=few(call.models), tools=few(call.tools))


def few(names: Sequence[str]) -> tuple[str, ...]:
    """Return the first names of many, and how many more there were."""
    return tuple(names) if len(names) <= MAX_NAMES else (*names[:MAX_NAMES], f"and {len(names) - MAX_NAMES} more")
