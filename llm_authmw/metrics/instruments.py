"""The instruments: each once, with its unit, its labels and what it means. The exporters and their page are made from this table."""

from typing import Final, Literal, NamedTuple, TypeAlias, get_args

import msgspec

from llm_authmw.reasons import REASONS
from llm_authmw.telemetry import AlertKind
from llm_authmw.trail.record import End, Outcome

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

OTHER: Final = "other"
"""Stands for every value that is not told apart."""
NONE: Final = "none"
"""Stands for no value."""
MAX_SERIES: Final = 1000
"""Combinations of labels that one instrument tells apart."""


class Label(NamedTuple):
    """A label.

    Attributes:
        name: Its name.
        values: All that it can be, beside `other` and `none`; None where the configuration decides, and nothing is known of it here.
    """

    name: str
    values: frozenset[str] | None = None


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """One instrument.

    Attributes:
        name: Its name without `llm_authmw.`, in the way of OpenTelemetry.
        kind: "counter" for what only grows, "gauge" for what stands at a figure, "histogram" for a distribution.
        unit: The unit (UCUM): "s", "{request}".
        meaning: What it says, in one sentence.
        labels: By what its figures are told apart.
        buckets: The bounds of a histogram's buckets, in its unit.
        read: Whether it is read when somebody asks for it, and not made of events.
        convention: Whether it is one of OpenTelemetry's semantic conventions: name and labels are theirs, and only that exporter has it.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[Label, ...] = ()
    buckets: tuple[float, ...] = ()
    read: bool = False
    convention: bool = False

    @property
    def opentelemetry_name(self) -> str:
        """What OpenTelemetry calls it."""
        return self.name if self.convention else f"llm_authmw.{self.name}"

    @property
    def prometheus_name(self) -> str:
        """What Prometheus calls it: with its unit, where that is one, and `_total` behind a counter."""
        unit = {"s": "_seconds", "By": "_bytes", "{usd}": "_usd"}.get(self.unit, "")
        name = f"llm_authmw_{self.reading_name.removesuffix(unit)}{unit}"
        return f"{name}_total" if self.kind == "counter" else name

    @property
    def reading_name(self) -> str:
        """What a `telemetry.Reading` of it is called."""
        return self.name.replace(".", "_")


def _of(name: str, values: object) -> Label:
    return Label(name, frozenset(get_args(values)))


_TENANT: Final = Label("tenant")
_TEAM: Final = Label("team")
_MODEL: Final = Label("model")
_OPERATION: Final = Label("operation")
_LAYER: Final = Label("layer")
_ISSUER: Final = Label("issuer")
_STORE: Final = Label("store")
_SINK: Final = Label("sink")
_CACHE: Final = Label("cache")
_WHAT: Final = Label("what", frozenset({"jwks", "discovery", "introspection", "userinfo"}))
_OUTCOME: Final = _of("outcome", Outcome)
_STATUS: Final = Label("status", frozenset({"1xx", "2xx", "3xx", "4xx", "5xx"}))

# Up to the ten minutes that a long answer takes.
_DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
_LAYER_TIMES: Final = (1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.5)
_QUESTIONS: Final = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

REQUESTS: Final = Instrument(
    name="requests",
    kind="counter",
    unit="{request}",
    meaning="Requests that are over, the denied ones too.",
    labels=(_OPERATION, _OUTCOME, _STATUS, _of("end", End)),
)
REQUEST_DURATION: Final = Instrument(
    name="request.duration",
    kind="histogram",
    unit="s",
    meaning="Time until an answer was over.",
    labels=(_OPERATION, _OUTCOME),
    buckets=_DURATIONS,
)
REQUEST_FIRST_BYTE: Final = Instrument(
    name="request.first_byte",
    kind="histogram",
    unit="s",
    meaning="Time until the first byte of an answer's body, of requests that were let through.",
    labels=(_OPERATION,),
    buckets=_DURATIONS,
)
STORE_TROUBLE: Final = Instrument(
    name="requests.store_trouble",
    kind="counter",
    unit="{request}",
    meaning="Requests about which a store did not answer in time, by what became of them.",
    labels=(_OUTCOME,),
)
DECISIONS: Final = Instrument(
    name="decisions",
    kind="counter",
    unit="{decision}",
    meaning="Decisions of layers. `shadowed` ones would have been denials.",
    labels=(
        _LAYER,
        Label("outcome", frozenset({"allowed", "denied", "passed", "shadowed"})),
        Label("reason", frozenset(REASONS)),
    ),
)
LAYER_DURATION: Final = Instrument(
    name="layer.duration",
    kind="histogram",
    unit="s",
    meaning="Time from the decision before, or from the coming of the request, to a layer's own.",
    labels=(_LAYER,),
    buckets=_LAYER_TIMES,
)
TOKENS: Final = Instrument(
    name="tokens",
    kind="counter",
    unit="{token}",
    meaning="Tokens of requests (`input`) and of answers (`output`).",
    labels=(_TENANT, _TEAM, _MODEL, Label("type", frozenset({"input", "output"}))),
)
COST: Final = Instrument(
    name="cost",
    kind="counter",
    unit="{usd}",
    meaning="What requests cost, in US dollars.",
    labels=(_TENANT, _TEAM, _MODEL),
)
FETCH_DURATION: Final = Instrument(
    name="fetch.duration",
    kind="histogram",
    unit="s",
    meaning="Time that an issuer took to answer. `skipped`: it was not asked, since it had failed a moment before.",
    labels=(_WHAT, _ISSUER, Label("outcome", frozenset({"ok", "failed", "skipped"}))),
    buckets=_QUESTIONS,
)
STORE_DURATION: Final = Instrument(
    name="store.duration",
    kind="histogram",
    unit="s",
    meaning="Time that a store took to answer. `late`: not within the deadline. `skipped`: it was not asked, since it had failed often.",
    labels=(_STORE, _OPERATION, Label("outcome", frozenset({"ok", "late", "failed", "skipped"}))),
    buckets=_QUESTIONS,
)
ALERTS: Final = Instrument(
    name="alerts",
    kind="counter",
    unit="{alert}",
    meaning="Occasions to look at something, before those that say the same are told once.",
    labels=(_of("kind", AlertKind),),
)

_EVENTS: Final = (
    *(REQUESTS, REQUEST_DURATION, REQUEST_FIRST_BYTE, STORE_TROUBLE, DECISIONS, LAYER_DURATION),
    *(TOKENS, COST, FETCH_DURATION, STORE_DURATION, ALERTS),
)


def _reading(name: str, kind: Kind, unit: str, meaning: str, *labels: Label) -> Instrument:
    return Instrument(name=name, kind=kind, unit=unit, meaning=meaning, labels=labels, read=True)


_READINGS: Final = (
    _reading(
        "cache.lookups",
        "counter",
        "{lookup}",
        "Answers that were at hand (`hit`) and that had to be found (`miss`).",
        _CACHE,
        Label("result", frozenset({"hit", "miss"})),
    ),
    _reading("cache.entries", "gauge", "{entry}", "Answers that are kept.", _CACHE),
    _reading("store.breaker.open", "gauge", "{breaker}", "Whether a store is left alone but for a call now and then.", _STORE),
    _reading("issuer.breaker.open", "gauge", "{breaker}", "Whether an issuer is left alone for a while.", _ISSUER, _WHAT),
    _reading("ledger.reservations.open", "gauge", "{reservation}", "Reservations that requests hold.", _STORE),
    _reading("ledger.settlements.waiting", "gauge", "{settlement}", "Settlements that the store has not confirmed yet.", _STORE),
    _reading(
        "ledger.settlements.given_up", "counter", "{settlement}", "Settlements that the store never took: their estimates stand.", _STORE
    ),
    _reading(
        "ledger.reservations.forgotten",
        "counter",
        "{reservation}",
        "Reservations that the store granted and later knew nothing of.",
        _STORE,
    ),
    _reading("ledger.leases.lapsed", "counter", "{lease}", "Leases that ended while their requests ran.", _STORE),
    _reading("audit.queue.length", "gauge", "{record}", "Records that wait to be written.", _SINK),
    _reading("audit.records.written", "counter", "{record}", "Records that a sink has taken.", _SINK),
    _reading("audit.records.lost", "counter", "{record}", "Records that are in no sink.", _SINK),
    _reading("audit.spool.bytes", "gauge", "By", "What waits on the disk for a sink that is down.", _SINK),
    _reading("alerts.told", "counter", "{alert}", "Alerts that were handed over."),
    _reading("alerts.lost", "counter", "{alert}", "Alerts that could not be handed over."),
    _reading("alerts.waiting", "gauge", "{alert}", "Alerts that wait to be handed over."),
)

_METHOD: Final = Label(
    "http.request.method", frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE", "_OTHER"})
)
_SCHEME: Final = Label("url.scheme", frozenset({"http", "https", "ws", "wss"}))
_STATUS_CODE: Final = Label("http.response.status_code", frozenset(map(str, range(100, 600))))
_ERROR: Final = Label("error.type", frozenset({*map(str, range(400, 600)), "_OTHER"}))
_VERSION: Final = Label("network.protocol.version", frozenset({"1.0", "1.1", "2", "3"}))
_GEN_AI: Final = (
    Label("gen_ai.operation.name"),
    Label("gen_ai.provider.name"),
    Label("gen_ai.request.model"),
    Label("gen_ai.response.model"),
)
_HTTP_TIMES: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_MODEL_TIMES: Final = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKEN: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

HTTP_DURATION: Final = Instrument(
    name="http.server.request.duration",
    kind="histogram",
    unit="s",
    meaning="Duration of HTTP server requests, where nothing outside of this package measures them.",
    labels=(_METHOD, _SCHEME, _STATUS_CODE, _ERROR, _VERSION),
    buckets=_HTTP_TIMES,
    convention=True,
)
TOKEN_USAGE: Final = Instrument(
    name="gen_ai.client.token.usage",
    kind="histogram",
    unit="{token}",
    meaning="Number of input and output tokens used.",
    labels=(*_GEN_AI, Label("gen_ai.token.type", frozenset({"input", "output"}))),
    buckets=tuple(float(4**power) for power in range(14)),
    convention=True,
)
MODEL_DURATION: Final = Instrument(
    name="gen_ai.server.request.duration",
    kind="histogram",
    unit="s",
    meaning="Generative AI server request duration, of requests that were let through to a model.",
    labels=(*_GEN_AI, _ERROR),
    buckets=_MODEL_TIMES,
    convention=True,
)
FIRST_TOKEN: Final = Instrument(
    name="gen_ai.server.time_to_first_token",
    kind="histogram",
    unit="s",
    meaning="Time to the first token of streams that succeeded, as their first byte tells it.",
    labels=_GEN_AI,
    buckets=_FIRST_TOKEN,
    convention=True,
)

CONVENTIONS: Final = (HTTP_DURATION, TOKEN_USAGE, MODEL_DURATION, FIRST_TOKEN)
"""Those of OpenTelemetry's semantic conventions."""

INSTRUMENTS: Final[tuple[Instrument, ...]] = (*_EVENTS, *_READINGS)
"""Every instrument of our own."""

READ: Final[dict[str, Instrument]] = {instrument.reading_name: instrument for instrument in _READINGS}
"""Those that are read when somebody asks, by the names of their readings."""
