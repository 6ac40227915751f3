"""One writer's chain as it is read back: whether each entry is the one that followed."""

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Final

from llm_authmw.errors import InvalidValueError
from llm_authmw.trail.chain import START, link_hash
from llm_authmw.trail.checkpoints import VerifyingKey
from llm_authmw.trail.findings import Alarm, Finding, Notice, Place
from llm_authmw.trail.reading import Line, read_checkpoint, unsigned
from llm_authmw.trail.record import Checkpoint, Record

_WINDOW: Final = 8_192
"""So many of a writer's last hashes are remembered at least."""

_HASH: Final = re.compile(r"[0-9a-f]{64}")


class _Hashes:
    """The hashes of a writer's last entries, without those that are missing."""

    def __init__(self, first: int) -> None:
        self._first = first
        self._hashes = bytearray()

    def add(self, sequence: int, digest: bytes) -> None:
        if len(self._hashes) >= 64 * _WINDOW:
            del self._hashes[: 32 * _WINDOW]
            self._first += _WINDOW
        missing = sequence - self._first - len(self._hashes) // 32
        if missing > _WINDOW:
            self._hashes.clear()
            self._first, missing = sequence, 0
        self._hashes += bytes(32 * missing) + digest

    def at(self, sequence: int) -> bytes | None:
        start = (sequence - self._first) * 32
        found = bytes(self._hashes[start : start + 32]) if start >= 0 else b""
        return found if any(found) else None


class ChainCheck:
    """Checks one writer's chain.

    Args:
        writer: The writer.
        keys: Whose signatures count, by key id; without any, none is checked.
        since: Microseconds since 1970; entries of before may have been removed.

    Attributes:
        begins: Where the first entry is that is here.
        first: Its place in the chain.
        next: The place that the next entry has.
        signed: The last place that a right signature vouches for; -1 where there is none.
        signatures: How many signatures are right.
        ended: Whether it ends with a checkpoint that says so.
    """

    def __init__(self, writer: str, *, keys: Mapping[str, VerifyingKey], since: int | None) -> None:
        self.begins: Place | None = None
        self.first: int = 0
        self.next: int = 0
        self.signed: int = -1
        self.signatures: int = 0
        self.ended: bool = False
        self._writer: Final = writer
        self._keys: Final = keys
        self._since: Final = since
        self._last: bytes = START
        self._hashes: _Hashes = _Hashes(0)
        self._place: Place | None = None

    def hash_at(self, sequence: int) -> str | None:
        """Return the hash of an entry; None where it is missing, or was read too long ago."""
        found = self._hashes.at(sequence)
        return None if found is None else found.hex()

    def take(self, entry: Line, place: Place) -> tuple[list[Finding], Record | None]:
        """Check the next entry.

        Returns:
            What is to be said of it, and the record where it is a checkpoint with which nothing is wrong.
        """
        sequence = entry.sequence
        if self.begins is not None and sequence < self.next:
            return [self._seen_before(entry, place)], None
        findings: list[Finding] = []
        record: Record | None = None
        told: Checkpoint | None = None
        try:
            record = read_checkpoint(entry.sealed)
            told = None if record is None else record.checkpoint
            readable = record is None or (told is not None and _HASH.fullmatch(told.previous) is not None)
        except InvalidValueError:
            readable = False
        if not readable:
            record, told = None, None
            findings.append(self._finding("edited", place, sequence, "a checkpoint that cannot be read"))
        previous = bytes.fromhex(told.previous) if told is not None else None
        if self.begins is None:
            self.begins, self.first, self._hashes = place, sequence, _Hashes(sequence)
            if sequence > 0:
                findings.append(self._late(place, sequence, record))
            else:
                previous = START
        elif sequence > self.next:
            findings.append(self._gap(place, sequence))
        else:
            if previous not in (None, self._last):
                findings.append(self._finding("edited", place, sequence, "a checkpoint of another place in a chain"))
                record, told = None, None
            previous = self._last
        digest = bytes.fromhex(entry.hash)
        if previous is not None and link_hash(previous, entry.writer.encode(), sequence, entry.sealed) != digest:
            findings.append(self._finding("edited", place, sequence, "this entry, or the one before it, is not as it was written"))
            record, told = None, None
        if self.ended and not (told is not None and told.state == "opened"):
            findings.append(self._finding("after_end", place, sequence, "an entry after the checkpoint that ends the chain"))
        self._hashes.add(sequence, digest)
        self.next, self._last, self._place = sequence + 1, digest, place
        self.ended = told is not None and told.state == "closed"
        if told is not None and self._keys:
            wrong = self._unsigned(entry, told)
            if wrong is not None:
                return [*findings, self._finding(wrong[0], place, sequence, wrong[1])], None
            self.signed = sequence
            self.signatures += 1
        return findings, record

    def end(self) -> Iterator[Finding]:
        """Yield what is to be said once everything is read."""
        if self.begins is None or self._place is None:
            return
        last = self.next - 1
        if self._keys and self.signed < self.first:
            yield self._finding("unsigned", self.begins, self.first, "no checkpoint of this chain is signed with a key that was named")
        elif self._keys and self.signed < last:
            text = f"no signature vouches for entries {self.signed + 1} to {last}"
            yield self._finding("unchecked", self._place, last, text)
        if not self.ended:
            yield self._finding("open", self._place, last, "the chain has no end: its writer runs, or was killed, or its end was cut off")

    def _seen_before(self, entry: Line, place: Place) -> Finding:
        sequence = entry.sequence
        before = START if sequence == 0 else self._hashes.at(sequence - 1)
        if before is None or self._hashes.at(sequence) is None:
            return self._finding("moved", place, sequence, f"it stands after entry {self.next - 1}")
        digest = link_hash(before, entry.writer.encode(), sequence, entry.sealed)
        if digest.hex() == entry.hash == self.hash_at(sequence):
            return self._finding("repeated", place, sequence, "the same entry once more")
        return self._finding("edited", place, sequence, "another entry with the place of one that was there before")

    def _late(self, place: Place, sequence: int, record: Record | None) -> Finding:
        if record is not None and self._since is not None and record.time < self._since:
            return self._finding("begins_later", place, sequence, f"entries 0 to {sequence - 1} are not here; a checkpoint stands for them")
        return self._finding("missing", place, sequence, f"entries 0 to {sequence - 1} are not here")

    def _gap(self, place: Place, sequence: int) -> Finding:
        count = sequence - self.next
        what = f"entry {self.next} is" if count == 1 else f"entries {self.next} to {sequence - 1} are"
        return self._finding("missing", place, sequence, f"{what} missing before it")

    def _unsigned(self, entry: Line, told: Checkpoint) -> tuple[Alarm, str] | None:
        """Return what is wrong with a checkpoint's signature; None where it is right."""
        signed = unsigned(entry.sealed)
        if signed is None or told.key is None:
            return "unsigned", "a checkpoint without a signature"
        key = self._keys.get(told.key)
        if key is None:
            return "unknown_key", "a checkpoint is signed with a key that was not named"
        digest = link_hash(bytes.fromhex(told.previous), entry.writer.encode(), entry.sequence, signed[0])
        return None if key.verifies(signed[1], digest) else ("bad_signature", "the signature of a checkpoint is wrong")

    def _finding(self, kind: Alarm | Notice, place: Place, sequence: int, text: str) -> Finding:
        return place.finding(kind, text, writer=self._writer, sequence=sequence)


def person_is_altered(entry: Line) -> bool:
    """Say whether what an entry says of a person is not what it said when it was written."""
    return entry.person is not None and sha256(entry.person).hexdigest() != entry.commitment
