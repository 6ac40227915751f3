"""An entry: a record as it is written, in its place in a writer's chain."""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

from llm_authmw.trail.record import Record

Format: TypeAlias = Literal["json", "ocsf"]

CLOSING: Final[Mapping[Format, int]] = {"json": 1, "ocsf": 2}
"""Before how many closing brackets of a line its place in the chain stands: in OCSF that is in `unmapped`, the last member."""


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record as it is written.

    Attributes:
        writer: Whose chain it is in: an id of one sink in one process, 16 hexadecimal digits.
        sequence: Its place there, from 0 on, without a gap.
        hash: What ties it to the entry before: SHA-256, 64 hexadecimal digits.
        sealed: The record but for the person, as one line of ASCII JSON without a line break: what the hash is of. It holds a commitment to
            the person's part.
        person: The person's part, with the salt of its commitment, as ASCII JSON; None where there is none, or it is forgotten.
        record: The record itself, for whoever sorts entries by what they say.
        format: How it is written.
    """

    writer: str
    sequence: int
    hash: str
    sealed: bytes
    person: bytes | None
    record: Record
    format: Format = "json"

    @property
    def line(self) -> bytes:
        """The whole entry as one line of ASCII JSON, without the line break: what files and collectors get."""
        end = -CLOSING[self.format]
        sealed, writer, digest = self.sealed[:end], self.writer.encode(), self.hash.encode()
        if self.person is None:
            return b'%b,"chain":{"writer":"%b","sequence":%d,"hash":"%b"}%b' % (sealed, writer, self.sequence, digest, b"}" * -end)
        return b'%b,"chain":{"writer":"%b","sequence":%d,"hash":"%b"},"person":%b%b' % (
            *(sealed, writer, self.sequence, digest, self.person),
            b"}" * -end,
        )
