"""Verifying a trail: whether it is as it was written, and where it is not.

What is verified is each writer's chain. Lines of different writers may change places among each other: no chain says how they stood.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from llm_authmw.trail.chain_check import ChainCheck, person_is_altered
from llm_authmw.trail.checkpoints import VerifyingKey
from llm_authmw.trail.encoding import MAX_LINE
from llm_authmw.trail.findings import Alarm, Finding, Notice, Place, Report
from llm_authmw.trail.reading import Line, behind_torn, is_checkpoint, is_torn, parse
from llm_authmw.trail.record import Head, Record

ANCHORS: Final = "anchors"
"""The name that findings give to where anchors are."""

_MAX_FRAGMENTS: Final = 64
"""So many torn lines are remembered, to tell which of them were written again."""


class _Witness(NamedTuple):
    """Somebody who saw an entry.

    Attributes:
        head: The entry.
        place: Where that is said.
        who: By whom, as a person reads it.
    """

    head: Head
    place: Place
    who: str


class Verifier:
    """Verifies a trail that is in one or several files.

    Args:
        keys: The public keys of those who may sign checkpoints. Without any, no signature is checked: then whoever can write to the files
            can also write all of them anew.
        anchors: The lines of checkpoints that were kept elsewhere.
        since: Microseconds since 1970; entries of before this moment may have been removed, up to a checkpoint of before it. None means
            that every chain has to be there from its beginning on.
    """

    def __init__(self, *, keys: Iterable[VerifyingKey] = (), anchors: Iterable[bytes] = (), since: int | None = None) -> None:
        self._keys: Final = {key.id: key for key in keys}
        self._since: Final = since
        self._counts: Final = Report()
        self._chains: Final[dict[str, ChainCheck]] = {}
        self._awaited: Final[dict[tuple[str, int], list[_Witness]]] = {}
        self._fragments: list[tuple[bytes, Place]] = []
        self._findings: Final[list[Finding]] = []
        self._files: Final[dict[str | None, int]] = {ANCHORS: -1}
        for number, line in enumerate(anchors, 1):
            self._anchor(line.removesuffix(b"\n"), Place(ANCHORS, number))

    def read(self, lines: Iterable[bytes], *, file: str = "") -> None:
        """Read the lines of a file, with or without their line breaks. Files are read in the order in which they were written."""
        for number, line in enumerate(lines, 1):
            self.add(line, file=file, number=number)

    def add(self, line: bytes, *, file: str | None, number: int) -> None:
        """Read one line, with or without its line break.

        Args:
            line: The line.
            file: The file that it is in; None for an entry of a store.
            number: Which of the file's lines it is, from 1 on, or the entry's position in the store.
        """
        self._files.setdefault(file, len(self._files))
        self._counts.lines += 1
        place = Place(file, number)
        line = line.removesuffix(b"\n")
        entry = parse(line) if len(line) <= MAX_LINE else None
        if entry is None:
            line, entry = self._odd(line, place)
        if entry is not None:
            if self._fragments:
                self._written_again(line)
            self._take(entry, place)

    def report(self) -> Report:
        """Return what was found, once everything is read."""
        for fragment, place in self._fragments:
            self._note("torn", place, f"{len(fragment)} bytes of an entry that was not written to its end")
        self._fragments.clear()
        for (writer, _), witnesses in self._awaited.items():
            for witness in witnesses:
                self._look_for(writer, witness)
        for chain in self._chains.values():
            self._findings.extend(chain.end())
        counts = self._counts
        report = Report(
            lines=counts.lines,
            entries=counts.entries,
            writers=len(self._chains),
            checkpoints=counts.checkpoints,
            signatures=sum(chain.signatures for chain in self._chains.values()),
            forgotten=counts.forgotten,
        )
        for finding in sorted(self._findings, key=lambda one: (self._files.get(one.file, 0), one.line or one.position or 0)):
            report.add(finding)
        return report

    def _take(self, entry: Line, place: Place) -> None:
        chain = self._chains.get(entry.writer)
        if chain is None:
            chain = self._chains[entry.writer] = ChainCheck(entry.writer, keys=self._keys, since=self._since)
        self._counts.entries += 1
        if entry.person is None:
            self._counts.forgotten += entry.commitment is not None
        elif person_is_altered(entry):
            self._note("person_altered", place, "what it says of a person is not what it said when it was written", entry)
        findings, record = chain.take(entry, place)
        self._findings.extend(findings)
        self._counts.checkpoints += is_checkpoint(entry.sealed)
        if record is not None and record.checkpoint is not None:
            for writer, head in record.checkpoint.seen.items():
                self._seen(writer, _Witness(head, place, f"a checkpoint of {entry.writer}"))
        witnesses = self._awaited.get((entry.writer, entry.sequence))
        if witnesses is not None:
            self._confirm(entry.writer, chain, witnesses)

    def _confirm(self, writer: str, chain: ChainCheck, witnesses: list[_Witness]) -> None:
        """Keep those witnesses only who saw another entry than the one that is there.

        That it was there when they looked is all that they say: not that it was its writer who wrote it.
        """
        sequence = witnesses[0].head.sequence
        others = [witness for witness in witnesses if witness.head.hash != chain.hash_at(sequence)]
        if others:
            self._awaited[writer, sequence] = others
        else:
            del self._awaited[writer, sequence]

    def _seen(self, writer: str, witness: _Witness) -> None:
        chain = self._chains.get(writer)
        sequence = witness.head.sequence
        self._awaited.setdefault((writer, sequence), []).append(witness)
        if chain is not None and sequence < chain.next and chain.hash_at(sequence) is not None:
            self._confirm(writer, chain, self._awaited[writer, sequence])

    def _look_for(self, writer: str, witness: _Witness) -> None:
        """Say what it means that an entry was seen, and was not read."""
        head = witness.head
        chain = self._chains.get(writer)
        if chain is None or chain.begins is None:
            if self._since is None or head.time >= self._since:
                self._cut_off(writer, witness, "all of the chain of this writer")
        elif head.sequence >= chain.next:
            self._cut_off(writer, witness, f"the end of the chain of this writer, from entry {chain.next} on,")
        elif chain.hash_at(head.sequence) is not None:
            text = f"{witness.who} saw another entry at this place"
            self._findings.append(witness.place.finding("edited", text, writer=writer, sequence=head.sequence))
        # Else it is known to be missing already, or was read too long ago to tell.

    def _cut_off(self, writer: str, witness: _Witness, what: str) -> None:
        sequence = witness.head.sequence
        text = f"{what} is not here; {witness.who} saw entry {sequence}"
        self._findings.append(witness.place.finding("cut_off", text, writer=writer, sequence=sequence))

    def _anchor(self, line: bytes, place: Place) -> None:
        entry = parse(line)
        record: Record | None = None
        if entry is not None:
            # As the first entry of a chain that may begin anywhere: its hash and its signature have to be right.
            findings, record = ChainCheck(entry.writer, keys=self._keys, since=1 << 63).take(entry, place)
            if any(finding.is_alarm for finding in findings):
                record = None
        if entry is None or record is None:
            self._note("bad_anchor", place, "no checkpoint, or not one that is signed with a key that was named", entry)
            return
        head = Head(entry.sequence, entry.hash, record.time)
        self._awaited.setdefault((entry.writer, entry.sequence), []).append(_Witness(head, place, "an anchor"))

    def _odd(self, line: bytes, place: Place) -> tuple[bytes, Line | None]:
        """Note a line that is no entry; return the entry that stands behind a torn one on the same line, where there is one."""
        if not line:
            self._note("blank", place, "an empty line")
            return line, None
        at = behind_torn(line)
        if at is not None:
            self._torn(line[:at], place)
            return line[at:], parse(line[at:])
        if len(line.strip(b"\0")) <= MAX_LINE and is_torn(line):
            self._torn(line, place)
        else:
            self._note("foreign", place, f"{len(line)} bytes that are no entry")
        return line, None

    def _torn(self, line: bytes, place: Place) -> None:
        fragment = line.rstrip(b"\0")
        if not fragment:
            self._note("torn", place, f"{len(line)} zeros in the place of what the disk has lost")
            return
        if len(self._fragments) == _MAX_FRAGMENTS:
            gone, there = self._fragments.pop(0)
            self._note("torn", there, f"{len(gone)} bytes of an entry that was not written to its end")
        self._fragments.append((fragment, place))

    def _written_again(self, line: bytes) -> None:
        for fragment, place in self._fragments:
            if line.startswith(fragment):
                self._note("torn", place, f"{len(fragment)} bytes of an entry; one that is whole begins with the same bytes")
        self._fragments = [(fragment, place) for fragment, place in self._fragments if not line.startswith(fragment)]

    def _note(self, kind: Alarm | Notice, place: Place, text: str, entry: Line | None = None) -> None:
        writer, sequence = (None, None) if entry is None else (entry.writer, entry.sequence)
        self._findings.append(place.finding(kind, text, writer=writer, sequence=sequence))


def verify(
    lines: Iterable[bytes],
    *,
    keys: Iterable[VerifyingKey] = (),
    anchors: Iterable[bytes] = (),
    since: int | None = None,
) -> Report:
    """Verify a trail that is in one place. See `Verifier`."""
    verifier = Verifier(keys=keys, anchors=anchors, since=since)
    verifier.read(lines)
    return verifier.report()
