"""What verifying a trail finds, and what it says of each writer."""

from typing import Final, Literal, NamedTuple, TypeAlias

import msgspec

Alarm: TypeAlias = Literal[
    "edited",
    "missing",
    "moved",
    "foreign",
    "person_altered",
    "after_end",
    "unsigned",
    "unknown_key",
    "bad_signature",
    "cut_off",
    "bad_anchor",
]
Notice: TypeAlias = Literal["torn", "repeated", "blank", "begins_later", "open", "unchecked"]

ALARMS: Final[dict[str, str]] = {
    "edited": "an entry is not as it was written",
    "missing": "entries were taken out",
    "moved": "an entry is not where it was written",
    "foreign": "a line that none of our writers wrote",
    "person_altered": "what an entry says of a person is not what it said",
    "after_end": "an entry after the end of its chain",
    "unsigned": "a chain that no key vouches for",
    "unknown_key": "a checkpoint is signed with a key that was not named",
    "bad_signature": "a checkpoint is not signed with the key that it names",
    "cut_off": "an entry that was there is not there any more",
    "bad_anchor": "an anchor that is no checkpoint",
}
"""By kind: what it means. Any of them means that the trail is not as it was written."""

NOTICES: Final[dict[str, str]] = {
    "torn": "a line that was not written to its end",
    "repeated": "an entry that was written twice",
    "blank": "an empty line",
    "begins_later": "a chain whose beginning is not here",
    "open": "a chain without an end: its writer runs, or was killed",
    "unchecked": "entries that no signature vouches for yet",
}
"""By kind: what it means. None of them says that anything was changed."""

MAX_FINDINGS: Final = 1_000
"""So many alarms are kept, and so many notices; the others are counted."""


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that was found.

    Attributes:
        kind: What: one of `ALARMS` or `NOTICES`.
        text: One sentence that says so.
        file: In which file; None for what is in a store.
        line: In which of its lines, from 1 on.
        position: At which position in the store.
        writer: In whose chain, where that is known.
        sequence: At which place there.
    """

    kind: Alarm | Notice
    text: str
    file: str | None = None
    line: int | None = None
    position: int | None = None
    writer: str | None = None
    sequence: int | None = None

    @property
    def is_alarm(self) -> bool:
        """Whether it means that the trail is not as it was written."""
        return self.kind in ALARMS


class Place(NamedTuple):
    """Where an entry stands.

    Attributes:
        file: In which file; None for a store.
        number: In which of its lines, from 1 on; at which position in the store.
    """

    file: str | None
    number: int

    def finding(self, kind: Alarm | Notice, text: str, *, writer: str | None = None, sequence: int | None = None) -> Finding:
        """Return what was found there."""
        line, position = (None, self.number) if self.file is None else (self.number, None)
        return Finding(kind=kind, text=text, file=self.file, line=line, position=position, writer=writer, sequence=sequence)


class Report(msgspec.Struct, kw_only=True):
    """What came of verifying a trail.

    Attributes:
        sound: Whether nothing was found that means a change.
        lines: Lines that were read.
        entries: Entries among them.
        writers: Chains that they are in.
        checkpoints: Checkpoints among the entries.
        signatures: Signatures that were checked and are right.
        forgotten: Entries whose person is forgotten.
        findings: What was found, in the order of the lines: at most 1,000 alarms and as many notices.
        more_alarms: Alarms beyond these.
        more_notices: Notices beyond these.
    """

    sound: bool = True
    lines: int = 0
    entries: int = 0
    writers: int = 0
    checkpoints: int = 0
    signatures: int = 0
    forgotten: int = 0
    findings: list[Finding] = []
    more_alarms: int = 0
    more_notices: int = 0

    @property
    def alarms(self) -> list[Finding]:
        """Those of the findings that mean a change."""
        return [finding for finding in self.findings if finding.is_alarm]

    @property
    def notices(self) -> list[Finding]:
        """The other ones: what is only to be known."""
        return [finding for finding in self.findings if not finding.is_alarm]

    def add(self, finding: Finding) -> None:
        """Add what was found."""
        self.sound = self.sound and not finding.is_alarm
        if sum(finding.is_alarm == kept.is_alarm for kept in self.findings) < MAX_FINDINGS:
            self.findings.append(finding)
        elif finding.is_alarm:
            self.more_alarms += 1
        else:
            self.more_notices += 1
