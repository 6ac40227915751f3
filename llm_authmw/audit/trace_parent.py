"""The trace that a request is in, as its `traceparent` says (W3C Trace Context §3.2)."""

import re
from collections.abc import Sequence
from typing import Final

HEADER: Final = b"traceparent"
MAX_LENGTH: Final = 512
"""Bytes of a value that is looked at. Those of the version that there is have 55."""

_VERSION_00_LENGTH: Final = 55
_VALUE: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?", re.DOTALL)


def trace_id_of(values: Sequence[bytes]) -> str | None:
    """Return the id of the trace, or None where there is not exactly one value that says so.

    Whoever sends a request may choose it: it ties a record to a trace, and proves nothing.
    """
    if len(values) != 1 or len(values[0]) > MAX_LENGTH:
        return None
    match = _VALUE.fullmatch(values[0])
    if match is None or match[1] == b"ff" or (match[1] == b"00" and len(values[0]) != _VERSION_00_LENGTH):
        return None
    # Ids of zeros alone are none (§3.2.2.3, §3.2.2.4).
    if not match[2].strip(b"0") or not match[3].strip(b"0"):
        return None
    return match[2].decode()
