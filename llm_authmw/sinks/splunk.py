"""`SplunkSink`: records to a Splunk HTTP Event Collector (HEC)."""

import json
import secrets
import socket
import uuid
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar, Unpack

import anyio
import msgspec

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.sinks.batches import Batch, Batches, packed
from llm_authmw.sinks.http import MAX_BODY
from llm_authmw.sinks.http_calls import TIMEOUT, Answer, Collector
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.tls import Path, client_context
from llm_authmw.trail.entry import Entry

_EVENTS: Final = "/services/collector/event"
_ACKS: Final = "/services/collector/ack"

ACK_PATIENCE: Final = 120.0
"""Seconds after which records that no indexer has acknowledged are sent again."""
_ACK_PAUSE: Final = 0.5
"""Seconds between two questions whether it has."""

_CODES: Final[Mapping[int, str]] = {
    1: "its token is disabled",
    2: "it wants a token",
    3: "the authorization is not one that it reads",
    4: "its token is not valid",
    5: "no data came",
    6: "the data have a format that it does not read",
    7: "the index is not one that the token may write to",
    8: "it has an error of its own",
    9: "it is busy",
    10: "it wants a channel: acknowledgement is enabled for the token, and `acknowledge` is not set",
    11: "the channel is not valid",
    12: "an event is missing",
    13: "an event is blank",
    14: "acknowledgement is disabled for the token, and `acknowledge` is set",
    15: "the indexed fields are not ones that it takes",
    23: "it is shutting down",
}
"""What its error codes say. Its own texts are never quoted."""
_REFUSED: Final = frozenset({5, 6, 12, 13, 15})
"""Codes that say something about the records; the others are about the token, the index or the moment."""


_Form = TypeVar("_Form")


class _Reply(msgspec.Struct, frozen=True):
    code: int
    ack: int | None = msgspec.field(default=None, name="ackId")


class _Acks(msgspec.Struct, frozen=True):
    acks: dict[str, bool]


class _Awaited(msgspec.Struct, frozen=True):
    ack: int
    since: float


class SplunkSink(AuditSink):
    """Sends records to Splunk, each as the event of an envelope that says its time, host, source, source type and index.

    Args:
        url: Where the collector is: `https://HOST:8088`, with the path of its events or without one.
        token: Its token, or a reference to it: `env:SPLUNK_TOKEN`.
        index: The index; left out: the token's own.
        source: What `source` says.
        sourcetype: What `sourcetype` says.
        host: What `host` says; left out: this machine's name.
        fields: Indexed fields of every event.
        acknowledge: Whether a record counts as taken only once an indexer has it on disk, where the token has indexer acknowledgement.
            Else it does once the collector has it.
        compress: Whether the body is compressed with gzip.
        max_body: Bytes of a body at most, before it is compressed; larger batches are sent in several requests.
        ca_file: PEM with the authorities that the collector's certificate may come from. Left out: those that the system trusts.
        cert_file: PEM with a client certificate, for a collector that wants one, and what leads to its authority.
        key_file: PEM with its private key; left out: it is in `cert_file`.
        options: As for `AuditSink`.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self,
        url: str,
        token: str | Secret,
        *,
        index: str | None = None,
        source: str = "llm_authmw",
        sourcetype: str = "llm_authmw",
        host: str | None = None,
        fields: Mapping[str, str] | None = None,
        acknowledge: bool = False,
        compress: bool = False,
        max_body: int = MAX_BODY,
        ca_file: Path | None = None,
        cert_file: Path | None = None,
        key_file: Path | None = None,
        **options: Unpack[SinkOptions],
    ) -> None:
        secret = resolve_secret("token", token)
        tls = client_context(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
        clock = options.get("clock", SYSTEM_CLOCK)
        collector = Collector(url, headers={"authorization": Secret(f"Splunk {secret.reveal()}")}, tls=tls, clock=clock)
        said = {"host": host or socket.gethostname(), "source": source, "sourcetype": sourcetype, "index": index, "fields": fields}
        envelope = {name: value for name, value in said.items() if value}
        place = SplunkTransport(collector, envelope=envelope, acknowledge=acknowledge, compress=compress, max_body=max_body, clock=clock)
        super().__init__(place, **options)


class SplunkTransport:
    """One collector.

    Args:
        collector: Where it is.
        envelope: What the envelope of every event says beside its time.
        acknowledge: Whether an indexer's acknowledgement is waited for.
        compress: Whether bodies are compressed.
        max_body: Bytes of a body at most.
        clock: Tells the monotonic time.
        timeout: Seconds that one write waits for acknowledgements; one that has not come by then is asked for at the next.
        ack_pause: Seconds between two questions for them.

    Raises:
        ConfigurationError: the URL's path is not that of the collector's events.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        envelope: Mapping[str, object],
        acknowledge: bool,
        compress: bool,
        max_body: int,
        clock: Clock,
        timeout: float = TIMEOUT,
        ack_pause: float = _ACK_PAUSE,
    ) -> None:
        path = collector.path.removesuffix("/") or _EVENTS
        if not path.endswith(_EVENTS):
            raise ConfigurationError("url", f"has a path that does not end in {_EVENTS}; left out, it is that")
        # The collector's answer says that it has the events.
        self.durable: Final[bool] = True
        self._collector: Final = collector
        self._events: Final = collector.elsewhere(path)
        self._channel: Final = str(uuid.UUID(bytes=secrets.token_bytes(16), version=4)) if acknowledge else None
        self._acks: Final = collector.elsewhere(path.removesuffix(_EVENTS) + _ACKS, query=f"channel={self._channel}")
        # All of it but for the time before it and the event after it.
        self._envelope: Final = json.dumps(dict(envelope))[1:-1].encode()
        self._compress: Final = compress
        self._batches: Final = Batches(max_body, self._text)
        self._monotonic: Final = clock.monotonic
        self._timeout: Final = timeout
        self._ack_pause: Final = ack_pause
        self._awaited: Final[dict[str, _Awaited]] = {}

    def __repr__(self) -> str:
        return f"splunk {self._collector.place}"

    async def write(self, entries: Sequence[Entry]) -> None:
        """Send entries; with acknowledgement, wait for it.

        Raises:
            SinkError: they were not taken, or only some of them; which these are is remembered where the same are given again.
        """
        self._lose_patience()
        for batch in self._batches.of(entry for entry in entries if entry.hash not in self._awaited):
            ack = await self._send(batch)
            if self._channel is None:
                self._batches.taken(batch.entries)
            elif ack is None:
                raise SinkError("acknowledges nothing: indexer acknowledgement is not enabled for the token")
            else:
                self._awaited.update({entry.hash: _Awaited(ack, self._monotonic()) for entry in batch.entries})
        if self._channel is not None:
            await self._wait_for(entries)
        self._batches.over(entries)

    async def start(self) -> None:
        """Do nothing: whether the collector is there shows when it is sent something."""

    async def aclose(self) -> None:
        """Close the connections."""
        await self._collector.aclose()

    def forked(self) -> None:
        """Forget the parent's connections, and what it waits for."""
        self._collector.forked()
        self._awaited.clear()

    async def _send(self, batch: Batch) -> int | None:
        headers = {"content-type": "application/json"}
        if self._channel is not None:
            headers["x-splunk-request-channel"] = self._channel
        content, headers = await packed(b"\n".join(batch.texts), headers, compress=self._compress)
        answer = await self._collector.post(content, headers, url=self._events)
        reply = _decoded(answer, _Reply)
        if reply is None:
            raise SinkError(f"answered with status {answer.status}, and not as a collector of Splunk does")
        if answer.status != 200 or reply.code != 0:
            problem = _CODES.get(reply.code, f"code {reply.code}")
            raise SinkError(f"answered with status {answer.status}: {problem}", permanent=reply.code in _REFUSED)
        return reply.ack

    async def _wait_for(self, entries: Sequence[Entry]) -> None:
        """Return once all of them are acknowledged.

        Raises:
            SinkError: they are not yet.
        """
        with anyio.move_on_after(self._timeout):
            while wanted := sorted({self._awaited[entry.hash].ack for entry in entries if entry.hash in self._awaited}):
                body = json.dumps({"acks": wanted}).encode()
                answer = await self._collector.post(body, {"content-type": "application/json"}, url=self._acks)
                acks = _decoded(answer, _Acks)
                if answer.status != 200 or acks is None:
                    raise SinkError(f"answered with status {answer.status} when it was asked for acknowledgements")
                done = {ack for ack in wanted if acks.acks.get(str(ack)) is True}
                there = [entry for entry in entries if entry.hash in self._awaited and self._awaited[entry.hash].ack in done]
                self._batches.taken(there)
                for entry in there:
                    del self._awaited[entry.hash]
                if len(done) < len(wanted):
                    await anyio.sleep(self._ack_pause)
            return
        raise SinkError("has not acknowledged the records yet")

    def _lose_patience(self) -> None:
        """Forget what was to be acknowledged long ago: whoever was to do it may have been restarted since."""
        oldest = self._monotonic() - ACK_PATIENCE
        for late in [key for key, awaited in self._awaited.items() if awaited.since < oldest]:
            del self._awaited[late]

    def _text(self, entry: Entry) -> bytes:
        return b'{"time":%d.%06d,%b,"event":%b}' % (*divmod(entry.record.time, 1_000_000), self._envelope, entry.line)


def _decoded(answer: Answer, form: type[_Form]) -> _Form | None:
    try:
        return msgspec.json.decode(answer.body, type=form) if answer.whole else None
    except msgspec.DecodeError:
        return None
