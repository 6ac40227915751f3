"""A record in the words of OpenTelemetry's semantic conventions: HTTP, and generative AI (of status "development").

What says who a person is has no place here, and neither has any header: spans go to places that nobody guards as records are guarded.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeAlias, cast

from llm_authmw.asgi import Scope
from llm_authmw.call import UNLISTED
from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.metrics import instruments
from llm_authmw.metrics.instruments import NONE
from llm_authmw.metrics.measurements import MICRO, Measurement, Measurements
from llm_authmw.quota import NANO_USD
from llm_authmw.trail.record import Record

Attributes: TypeAlias = dict[str, str | int | float | bool | tuple[str, ...]]

_PROVIDERS: Final = {"openai": "openai", "anthropic": "anthropic", "gemini": "gcp.gemini", "bedrock": "aws.bedrock"}
_UNKNOWN: Final = "_OTHER"
# The first that has the name: where APIs share one, it began as that one's.
_DIALECTS: Final = {operation.name: operation.dialect for operation in reversed(BUILT_IN)}
_OPERATIONS: Final = {
    "messages": "chat",
    "responses": "chat",
    "converse": "chat",
    "completions": "text_completion",
    "embed_content": "embeddings",
}
_WITHOUT_MODEL: Final = frozenset({UNLISTED, "mcp", "models", "files", "uploads"})
_LONGEST: Final = 500
"""Characters of a text that are kept."""
_SERVER_ERRORS: Final = 500
"""The first status that says that an error was the server's (RFC 9110 §15.6)."""
_METHODS: Final = instruments.HTTP_DURATION.labels[0].values or frozenset()


def method_of(scope: Scope) -> str:
    """Return `http.request.method`: never one that a client made up."""
    method = str(scope.get("method", "GET"))
    return method if method in _METHODS else _UNKNOWN


def at_first(scope: Scope) -> Attributes:
    """Return what is known of a request when it comes, for whoever decides whether it is traced."""
    version = str(scope.get("http_version", ""))
    found: Attributes = {"http.request.method": method_of(scope), "url.scheme": str(scope.get("scheme", "http"))}
    if version:
        found["network.protocol.version"] = version
    return found


def at_last(record: Record) -> Attributes:
    """Return what a span says of a request that is over."""
    return {name: _clean(value) for name, value in _at_last(record) if value is not None}


def error_type(record: Record) -> str | None:
    """Return `error.type` of a request that failed, which a denial is not (HTTP spans, "Status")."""
    if record.status is not None and record.status >= _SERVER_ERRORS:
        return str(record.status)
    return _UNKNOWN if record.outcome == "failed" or record.end == "upstream_error" else None


def http_measurement(measurements: Measurements, scope: Scope, record: Record) -> Measurement | None:
    """Return the duration of an HTTP request."""
    if record.protocol != "http" or record.duration is None:
        return None
    first = at_first(scope)
    status = None if record.status is None else str(record.status)
    version = first.get("network.protocol.version")
    return measurements.of(
        instruments.HTTP_DURATION,
        record.duration * MICRO,
        method_of(scope),
        str(first["url.scheme"]),
        status,
        error_type(record),
        None if version is None else str(version),
    )


def model_measurements(measurements: Measurements, record: Record) -> Iterator[Measurement]:
    """Return what a request that was let through to a model took and used."""
    if record.kind != "request" or record.outcome == "denied" or record.operation is None or record.operation in _WITHOUT_MODEL:
        return
    if not record.models and record.usage is None:
        return
    model = measurements.model(record)
    # The name that the answer gives is told apart only where the price book knows it, too.
    served = record.served if record.served == model else None
    common = (operation_of(record.operation), provider_of(record.operation), None if model == NONE else model, served)
    if record.usage is not None:
        if record.usage.input:
            yield measurements.of(instruments.TOKEN_USAGE, record.usage.input, *common, "input")
        if record.usage.output:
            yield measurements.of(instruments.TOKEN_USAGE, record.usage.output, *common, "output")
    error = error_type(record) or (str(record.status) if record.status is not None and record.status >= 400 else None)
    if record.duration is not None:
        yield measurements.of(instruments.MODEL_DURATION, record.duration * MICRO, *common, error)
    if record.first_byte is not None and record.streaming and error is None:
        yield measurements.of(instruments.FIRST_TOKEN, record.first_byte * MICRO, *common)


def operation_of(operation: str) -> str:
    """Return `gen_ai.operation.name`: the one of the conventions' that it is, else our own."""
    return _OPERATIONS.get(operation, operation)


def provider_of(operation: str) -> str:
    """Return `gen_ai.provider.name`: whose API was spoken, which need not be who answered."""
    return _PROVIDERS.get(_DIALECTS.get(operation, ""), _UNKNOWN)


def _clean(value: Any) -> Any:
    """Return a value that can be sent: a text that is no UTF-8 would take everybody else's spans down with it."""
    if isinstance(value, tuple):
        return tuple(_clean(one) for one in cast("Sequence[Any]", value))
    return value[:_LONGEST].encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _at_last(record: Record) -> Iterator[tuple[str, Any]]:
    yield "http.response.status_code", record.status if record.protocol == "http" else None
    yield "url.path", record.path
    yield "error.type", error_type(record)
    for name in ("id", "outcome", "reason", "layer", "end"):
        yield f"llm_authmw.{'request.id' if name == 'id' else name}", getattr(record, name)
    yield "llm_authmw.store_trouble", record.store_trouble or None
    if record.who is not None:
        for name in ("tenant", "team", "org", "client", "tier", "method", "issuer", "assurance"):
            yield f"llm_authmw.{name}", getattr(record.who, name)
        yield "llm_authmw.credential.id", record.who.credential_id
        yield "llm_authmw.roles", record.who.roles or None
    if record.charge is not None:
        yield "llm_authmw.cost", record.charge.amount / NANO_USD
    if record.operation is not None and record.operation not in _WITHOUT_MODEL:
        yield from _of_model(record, record.operation)


def _of_model(record: Record, operation: str) -> Iterator[tuple[str, Any]]:
    yield "gen_ai.operation.name", operation_of(operation)
    yield "gen_ai.provider.name", provider_of(operation)
    yield "gen_ai.request.model", record.models[0] if record.models else None
    yield "gen_ai.response.model", record.served
    yield "gen_ai.request.stream", record.streaming or None
    if record.streaming and record.first_byte is not None:
        yield "gen_ai.response.time_to_first_chunk", record.first_byte * MICRO
    usage = record.usage
    if usage is not None:
        yield "gen_ai.usage.input_tokens", usage.input
        yield "gen_ai.usage.output_tokens", usage.output
        yield "gen_ai.usage.cache_read.input_tokens", usage.cached_input or None
        yield "gen_ai.usage.cache_creation.input_tokens", usage.cache_write or None
        yield "gen_ai.usage.reasoning.output_tokens", usage.reasoning or None
