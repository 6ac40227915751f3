"""`HTTPSink`: records in batches of JSON to an HTTP endpoint."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias, Unpack

from llm_authmw.clock import SYSTEM_CLOCK
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.secrets import Secret
from llm_authmw.sinks.batches import Batches, packed
from llm_authmw.sinks.http_calls import Answer, Collector
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.tls import Path, client_context
from llm_authmw.trail.entry import Entry

Body: TypeAlias = Literal["ndjson", "array"]

MAX_BODY: Final = 1024 * 1024
"""Bytes of a request's body, before it is compressed; Splunk's and most others' limits are at or above it."""

_REFUSED: Final = frozenset({400, 413, 414, 415, 422, 431})
"""Statuses that say something about what was sent, so that the same will be refused again. Others are about who sent it or where (401, 403,
404), which an operator mends without the records being lost meanwhile, or about the moment (408, 425, 429)."""


class HTTPSink(AuditSink):
    """Sends records in batches to an HTTP endpoint.

    A batch is taken once the endpoint answers with a status of 2xx. A batch that may have been taken already comes again with the same
    `Idempotency-Key`; each record says its place in the chain, which tells it from every other one.

    Args:
        url: Where batches are posted to: https, or http on this machine. It may hold a secret, and may be a reference to one.
        headers: Header fields of every request. A value may be a reference to a secret: `{"authorization": "env:COLLECTOR_AUTH"}`.
        body: "ndjson", one record on each line, or "array", one JSON array.
        compress: Whether the body is compressed with gzip.
        max_body: Bytes of a body at most, before it is compressed; larger batches are sent in several requests.
        ca_file: PEM with the authorities that the endpoint's certificate may come from. Left out: those that the system trusts.
        cert_file: PEM with a client certificate, for an endpoint that wants one, and what leads to its authority.
        key_file: PEM with its private key; left out: it is in `cert_file`.
        options: As for `AuditSink`.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        headers: Mapping[str, str | Secret] | None = None,
        body: Body = "ndjson",
        compress: bool = False,
        max_body: int = MAX_BODY,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        **options: Unpack[SinkOptions],
    ) -> None:
        if body not in {"ndjson", "array"}:
            raise ConfigurationError("body", "is 'ndjson' or 'array'")
        clock = options.get("clock", SYSTEM_CLOCK)
        tls = client_context(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        collector = Collector(url, headers=headers or {}, tls=tls, clock=clock)
        super().__init__(HTTPTransport(collector, body=body, compress=compress, max_body=max_body), **options)


class HTTPTransport:
    """One endpoint.

    Args:
        collector: Where it is.
        body: How a batch is written.
        compress: Whether it is compressed.
        max_body: Bytes of it at most.
    """

    def __init__(self, collector: Collector, *, body: Body, compress: bool, max_body: int) -> None:
        # A status of 2xx says that the endpoint has it.
        self.durable: Final[bool] = True
        self._collector: Final = collector
        self._body: Final[Body] = body
        self._compress: Final = compress
        self._batches: Final = Batches(max_body, lambda entry: entry.line)

    def __repr__(self) -> str:
        return f"http {self._collector.place}"

    async def write(self, entries: Sequence[Entry]) -> None:
        """Send entries.

        Raises:
            SinkError: they were not taken, or only some of them; which these are is remembered where the same are given again.
        """
        for batch in self._batches.of(entries):
            lines = self._body == "ndjson"
            content = b"\n".join(batch.texts) + b"\n" if lines else b"[" + b",".join(batch.texts) + b"]"
            headers = {
                "content-type": "application/x-ndjson" if lines else "application/json",
                # A string of structured fields (RFC 9651 §3.3.3), as the draft of the header has it.
                "idempotency-key": f'"{batch.key}"',
            }
            check(await self._collector.post(*await packed(content, headers, compress=self._compress)))
            self._batches.taken(batch.entries)
        self._batches.over(entries)

    async def start(self) -> None:
        """Do nothing: whether the endpoint is there shows when it is sent something."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._collector.aclose()

    def forked(self) -> None:
        """Forget the parent's connections."""
        self._collector.forked()


def check(answer: Answer) -> None:
    """Return if the status says that what was sent is taken.

    Raises:
        SinkError: it says something else.
    """
    if not 200 <= answer.status < 300:
        raise SinkError(f"answered with status {answer.status}", permanent=answer.status in _REFUSED)
