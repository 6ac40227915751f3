"""What happens inside, told to whoever measures: one hook for events, and figures that are read when somebody asks.

It belongs to the process, as the registries of Prometheus and OpenTelemetry do. Where nobody listens an event costs one look at a tuple.
"""

import logging
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable
from weakref import WeakSet

import msgspec

from llm_authmw.errors import StoreError

T = TypeVar("T")

logger: Final = logging.getLogger("llm_authmw")

AlertKind: TypeAlias = Literal[
    "audit_loss", "budget_exhausted", "budget_soft", "issuer_outage", "key_expiring", "lockout", "refresh_failing", "store_outage"
]


class Fetched(msgspec.Struct, frozen=True, gc=False):
    """A document was asked for.

    Attributes:
        what: "jwks", "discovery", "introspection", "userinfo".
        issuer: Whose; of the configuration, and no request adds a new one.
        seconds: How long it took.
        outcome: "ok", "failed", or "skipped" where the issuer is left alone after failures.
    """

    what: str
    issuer: str
    seconds: float
    outcome: str


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A store was asked.

    Attributes:
        store: Which part of it: "keys", "accounts", "revocations", "changes", "ledger", "counters", "audit".
        operation: What for: "find", "reserve", "settle", "append".
        seconds: How long it took.
        outcome: "ok", "late" beyond the deadline, "failed", or "skipped" where it is left alone after failures.
    """

    store: str
    operation: str
    seconds: float
    outcome: str


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """Something that somebody should look at.

    Attributes:
        kind: What it is.
        tenant: Whose it is; "*" where it is nobody's or everybody's.
        subject: What it is about: "team:blue", a key's id, an issuer, a network, a sink. Never a secret.
        message: One sentence for a person.
        details: What a program reads from it.
        occasion: Tells one occurrence from the next: alerts of one kind, tenant, subject and occasion are told once.
    """

    kind: AlertKind
    tenant: str
    subject: str
    message: str
    details: dict[str, str | int | float | bool | None] = {}
    occasion: str = ""


class Reading(NamedTuple):
    """A figure, read now.

    Attributes:
        name: What is measured, one of `metrics.instruments.INSTRUMENTS` that are read: "ledger_reservations_open".
        value: The figure.
        labels: Names and values that tell it from others; all of the configuration, and no request adds a new one.
        counts_up: Whether it only ever grows while the process lives.
    """

    name: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    counts_up: bool = False


class Observer(Protocol):
    """Whoever measures: told of `Fetched`, `Asked`, `Alert`, of the `trail.record.Record` of each request, and of what else comes to be."""

    def observe(self, event: object) -> None:
        """Take an event. It neither waits nor fails; one that it does not know means nothing to it."""


@runtime_checkable
class Tracing(Protocol):
    """An observer that wants a span around each request, beside being told of its record. Nothing that it does reaches the request.

    `begin` and `end` are called in the request's own task and context, so that what `begin` makes current there is current for the app,
    and spans that the app opens become children. A request that is cancelled is ended, too.
    """

    def begin(self, scope: Any, context: Any) -> object:
        """Take note of a request that has come.

        Args:
            scope: The ASGI scope, of an "http" or a "websocket" connection.
            context: The request's `RequestContext`, in which nothing has been decided yet.

        Returns:
            What `end` and `trace_id` are to be told; None where the request is not to be traced, and neither is called.
        """
        ...

    def trace_id(self, token: object) -> str | None:
        """Return the id of the trace that the request is in, 32 hexadecimal digits, or None where it has none."""
        ...

    def end(self, token: object, record: object) -> None:
        """Take note of its end.

        Args:
            token: What `begin` has returned.
            record: Its `trail.record.Record`, or a `Deferred` that makes it; None where there is none.
        """
        ...


class Measured(Protocol):
    """An object that knows figures of its own. It is held weakly."""

    def readings(self) -> Iterable[Reading]:
        """Return them."""
        ...


_observers: tuple[Observer, ...] = ()
_failures: Final[Counter[tuple[str, str, str]]] = Counter()
# By types, of which a program has so many and no more.
_measured: Final[WeakSet[Measured]] = WeakSet()
# Exporters read in threads of their own, while objects are made in others.
_measuring: Final = threading.Lock()


def attach(observer: Observer) -> None:
    """Tell an observer of everything from now on; attaching it twice is attaching it once."""
    global _observers  # noqa: PLW0603 - a tuple that is replaced, so that an event is told without a lock
    if not any(one is observer for one in _observers):
        _observers = (*_observers, observer)


def detach(observer: Observer) -> None:
    """Tell it of nothing any more."""
    global _observers  # noqa: PLW0603 - as above
    _observers = tuple(one for one in _observers if one is not observer)


def observed() -> bool:
    """Say whether anybody listens: whoever has to take the time first asks this."""
    return bool(_observers)


def emit(event: object) -> None:
    """Tell every observer. It never fails."""
    for observer in _observers:
        try:
            observer.observe(event)
        except Exception as error:  # noqa: BLE001 - what is measured does not depend on who measures it
            _not_taken(observer, event, error)


def _not_taken(observer: Observer, event: object, error: Exception) -> None:
    """Say that an observer has failed: the first time, and then ever more seldom, since some events come with every request."""
    failure = type(observer).__name__, type(event).__name__, type(error).__name__
    _failures[failure] += 1
    times = _failures[failure]
    if times & (times - 1) == 0:
        # Not its text, which may quote the event.
        logger.error("%s could not take %s: %s (%d so far)", *failure, times)


async def asking(store: str, operation: str, call: Callable[[], Awaitable[T]], *, monotonic: Callable[[], float]) -> T:
    """Put a question to a store, and tell how long the answer took.

    Of one that is cancelled nothing is told: whoever has set a limit knows whether that was reached, and says "late" then.

    Args:
        store: See `Asked`; so is `operation`.
        operation: What for.
        call: The question.
        monotonic: Tells the time, in seconds.

    Raises:
        StoreError: as the question.
    """
    if not _observers:
        return await call()
    began = monotonic()
    try:
        answer = await call()
    except StoreError:
        emit(Asked(store, operation, monotonic() - began, "failed"))
        raise
    emit(Asked(store, operation, monotonic() - began, "ok"))
    return answer


def measure(measured: Measured) -> None:
    """Ask an object for its figures whenever somebody wants them, as long as it lives."""
    with _measuring:
        _measured.add(measured)


def readings() -> Iterator[Reading]:
    """Return the figures of all that are measured, those of one name and labels added up by whoever reads them."""
    with _measuring:
        objects = tuple(_measured)
    for measured in objects:
        try:
            found = list(measured.readings())
        except Exception as error:  # noqa: BLE001 - one that cannot be read must not hide the others
            logger.error("the figures of %s could not be read: %s", type(measured).__name__, type(error).__name__)  # noqa: TRY400 - as above
        else:
            yield from found
