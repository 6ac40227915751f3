"""Entries as syslog messages (RFC 5424), in the frames that TCP and TLS need (RFC 6587 §3.4.1, RFC 5425 §4.3). No I/O."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from typing import Final, Literal, TypeAlias

from llm_authmw.errors import ConfigurationError
from llm_authmw.trail.encoding import timestamp
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.parts import split
from llm_authmw.trail.record import Record

Facility: TypeAlias = Literal["auth", "authpriv", "audit", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"]

FACILITIES: Final[Mapping[str, int]] = {"auth": 4, "authpriv": 10, "audit": 13, **{f"local{number}": 16 + number for number in range(8)}}
"""Those that fit, by RFC 5424 §6.2.1 (table 1)."""

MAX_MESSAGE: Final = 8_000
"""Bytes in one message. A receiver takes 2,048 at least (RFC 5425 §4.3.1); rsyslog takes 8,096, unless it is told otherwise."""
_LEAST_MESSAGE: Final = 2_048

_PRINTABLE: Final = re.compile(r"[!-~]+")
_ERROR, _WARNING, _NOTICE, _INFORMATIONAL = 3, 4, 5, 6


def severity(record: Record) -> int:
    """Return how severe a record is (RFC 5424 §6.2.1, table 2)."""
    if record.outcome == "failed" or record.kind == "loss":
        return _ERROR
    if record.outcome == "denied":
        return _WARNING
    return _NOTICE if record.kind in {"change", "policy"} else _INFORMATIONAL


class SyslogFormat:
    """Writes entries as frames.

    Args:
        facility: The facility of all messages.
        app_name: What APP-NAME says.
        hostname: What HOSTNAME says; left out: this machine's name.
        max_message: Bytes in one message at most, its header included.

    Raises:
        ConfigurationError: an option is wrong.
    """

    def __init__(
        self, *, facility: Facility = "authpriv", app_name: str = "llm_authmw", hostname: str | None = None, max_message: int = MAX_MESSAGE
    ) -> None:
        if facility not in FACILITIES:
            raise ConfigurationError("facility", f"is one of {', '.join(FACILITIES)}")
        if type(max_message) is not int or max_message < _LEAST_MESSAGE:
            raise ConfigurationError("max_message", f"is a whole number of bytes, {_LEAST_MESSAGE} or more")
        self._facility: Final = FACILITIES[facility]
        self._app_name: Final = _name("app_name", app_name, 48)
        # A machine may have any name; the header may not.
        own = socket.gethostname()
        self._hostname: Final = _name("hostname", hostname, 255) if hostname is not None else own if _fits(own, 255) else "-"
        self._max_message: Final = max_message

    def frames(self, entry: Entry) -> Iterator[bytes]:
        """Yield the frames of one entry: one, or where it is too long as many as its parts need."""
        header = self._header(entry.record)
        line = entry.line
        room = self._max_message - len(header)
        if len(line) <= room:
            yield _frame(header + line)
            return
        for part in split(entry, room):
            yield _frame(header + part)

    def _header(self, record: Record) -> bytes:
        """Return PRI, VERSION, TIMESTAMP, HOSTNAME, APP-NAME, PROCID and MSGID, and no structured data.

        Of its elements the standard ones say nothing that is not in the message, and others need an enterprise's own number (§7.2.2).
        """
        priority = self._facility * 8 + severity(record)
        named = f"{self._hostname} {self._app_name} {os.getpid()} {record.kind} - "
        return b"<%d>1 %b %b" % (priority, timestamp(record.time), named.encode())


def _frame(message: bytes) -> bytes:
    # The receiver counts, so that nothing in a message can end it and begin another one.
    return b"%d %b" % (len(message), message)


def _fits(name: str, longest: int) -> bool:
    return len(name) <= longest and _PRINTABLE.fullmatch(name) is not None


def _name(option: str, name: str, longest: int) -> str:
    if not _fits(name, longest):
        raise ConfigurationError(option, f"takes 1 to {longest} printable ASCII characters without a blank (RFC 5424 §6)")
    return name
