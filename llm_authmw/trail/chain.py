"""A writer's chain: each entry's hash covers the hash of the one before, so that what was written cannot be changed unnoticed."""

import os
import secrets
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret
from llm_authmw.trail.checkpoints import SigningKey
from llm_authmw.trail.encoding import Salts, encode
from llm_authmw.trail.entry import CLOSING, Entry, Format
from llm_authmw.trail.ocsf import encode_ocsf
from llm_authmw.trail.record import Checkpoint, CheckpointState, Head, Record

START: Final = bytes(32)
"""The hash before the first entry."""

LONG_PAUSE: Final = 3_600.0
"""Seconds without an entry, after which a chain goes on with a checkpoint: whatever was before may have been removed by then, being old."""

MAX_SEEN: Final = 128
"""Of how many other writers a checkpoint tells, those that were named last."""


def link_hash(previous: bytes, writer: bytes, sequence: int, sealed: bytes) -> bytes:
    """Return the hash of an entry: SHA-256 of the hash before (32 bytes), the writer (16), the place (8, big-endian) and what is sealed."""
    return sha256(b"".join((previous, writer, sequence.to_bytes(8, "big"), sealed))).digest()


class Chain:
    """Gives records their place. One of a sink in one process, used by one caller at a time; it does no I/O.

    After a fork the child's is another writer, with a chain of its own.

    Args:
        signing_key: The private key that signs checkpoints, or a reference to it (`file:…`). None leaves them unsigned: then whoever can
            write the place can also write the whole chain anew.
        checkpoint_every: After how many entries a checkpoint is due.
        checkpoint_interval: After how many seconds one is, where there are entries since the last one.
        clock: Tells the time.
        format: How records are written: "json", or "ocsf", which keeps no person apart.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self,
        *,
        signing_key: SigningKey | Secret | str | None = None,
        checkpoint_every: int = 1_000,
        checkpoint_interval: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
        format: Format = "json",  # noqa: A002 - what every sink calls it
    ) -> None:
        if checkpoint_every < 1:
            raise ConfigurationError("checkpoint_every", "takes a whole number of entries, at least 1")
        if not checkpoint_interval > 0:
            raise ConfigurationError("checkpoint_interval", "takes a number of seconds above 0")
        self.signing_key: Final[SigningKey | None] = (
            signing_key if signing_key is None or isinstance(signing_key, SigningKey) else SigningKey(signing_key)
        )
        self._every: Final = checkpoint_every
        self._interval: Final = checkpoint_interval
        self._monotonic: Final = clock.monotonic
        self._clock: Final = clock
        self._format: Final[Format] = format
        self._closing: Final = CLOSING[format]
        self._shortest: Final = min(checkpoint_interval, LONG_PAUSE)
        self._begin()

    def _begin(self) -> None:
        self._process: int = _process
        self.writer: str = secrets.token_hex(8)
        self._writer: bytes = self.writer.encode()
        self._salts: Salts = Salts()  # a forked child would draw the same ones
        self._sequence: int = 0
        self._last: bytes = START
        self._time: int = 0
        self._since: int = 0
        self._checked: float = self._monotonic()
        self._seen: dict[str, Head] = {}

    @property
    def head(self) -> Head | None:
        """Where it stands; None where it has not begun."""
        return None if self._sequence == 0 else Head(self._sequence - 1, self._last.hex(), self._time)

    @property
    def due(self) -> bool:
        """Whether a checkpoint is due."""
        return self._since >= self._every or (self._since > 0 and self._monotonic() - self._checked >= self._interval)

    def link(self, record: Record) -> Entry:
        """Return the next entry."""
        if self._process != _process:
            self._begin()
        return self._linked(record, *self._encoded(record))

    def link_all(self, records: Sequence[Record]) -> list[Entry]:
        """Return the next entries with the checkpoints that are due: where the chain begins, or goes on after a pause, and now and then."""
        if self._process != _process:
            self._begin()
        if len(records) == 1 and self._sequence and self._since < self._every - 1 and self._monotonic() - self._checked < self._shortest:
            # Nearly always, where each record is written by itself: none is due.
            return [self._linked(records[0], *self._encoded(records[0]))]
        entries: list[Entry] = []
        paused = self._monotonic() - self._checked >= LONG_PAUSE
        for record in records:
            if self._sequence == 0 or paused:
                entries.append(self.checkpoint("running" if self._sequence else "opened"))
                paused = False
            entries.append(self._linked(record, *self._encoded(record)))
            if self._since >= self._every:
                entries.append(self.checkpoint())
        if self.due:
            entries.append(self.checkpoint())
        return entries

    def saw(self, heads: Mapping[str, Head]) -> None:
        """Let the next checkpoint tell where other writers' chains stand in the same place, so that what they wrote until now cannot go."""
        self._seen = {**self._seen, **{writer: head for writer, head in heads.items() if writer != self.writer}}

    def checkpoint(self, state: CheckpointState = "running") -> Entry:
        """Return an entry that says where the chain stands, signed where there is a key."""
        if self._process != _process:
            self._begin()
        seen = dict(list(self._seen.items())[-MAX_SEEN:])
        key = self.signing_key
        told = Checkpoint(state=state, previous=self._last.hex(), seen=seen, key=None if key is None else key.id)
        record = Record(time=int(self._clock.now() * 1_000_000), kind="checkpoint", checkpoint=told)
        sealed, _ = self._encoded(record)
        if key is not None:
            signature = key.sign(link_hash(self._last, self._writer, self._sequence, sealed)).hex()
            # The last field of all, so that it can be taken out again as it was put in: see `reading.unsigned`.
            end = -1 - self._closing
            sealed = b'%b,"signature":"%b"%b' % (sealed[:end], signature.encode(), sealed[end:])
            record = msgspec.structs.replace(record, checkpoint=msgspec.structs.replace(told, signature=signature))
        entry = self._linked(record, sealed, None)
        self._since, self._checked, self._seen = 0, self._monotonic(), {}
        return entry

    def _encoded(self, record: Record) -> tuple[bytes, bytes | None]:
        return encode(record, self._salts.draw()) if self._format == "json" else (encode_ocsf(record), None)

    def _linked(self, record: Record, sealed: bytes, person: bytes | None) -> Entry:
        sequence = self._sequence
        self._last = last = link_hash(self._last, self._writer, sequence, sealed)
        self._sequence = sequence + 1
        self._time = record.time
        self._since += 1
        return Entry(
            writer=self.writer, sequence=sequence, hash=last.hex(), sealed=sealed, person=person, record=record, format=self._format
        )


def _forked() -> None:
    global _process  # noqa: PLW0603 - of this process there is one
    _process += 1


_process = 0
# Counts forks, so that a chain notices one without asking the system for each record.

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
