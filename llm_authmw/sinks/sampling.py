"""Which of the allowed requests a sink takes."""

from hashlib import blake2b
from typing import Final

from llm_authmw.sinks.only import Only
from llm_authmw.trail.record import Record

_ALL: Final = 2**64


class Choice:
    """Says which records a sink takes of those that it may leave out.

    A request is in the sample or not by its id, so that its intent shares its fate, and sinks with one share take the same ones.

    Args:
        only: The filter.
        sample: The share of the allowed requests.
    """

    def __init__(self, only: Only | None, sample: float) -> None:
        self._only: Final = only
        self._below: Final = int(sample * _ALL)
        self.complete: Final[bool] = only is None and sample >= 1

    def takes(self, record: Record) -> bool:
        """Say whether the sink takes a record."""
        if self.complete:
            return True
        if self._only is not None and not self._only.takes(record):
            return False
        # One that was let in may have been cut by a layer since, or answered with an error.
        ended_well = record.outcome == "allowed" and record.reason is None and record.end != "upstream_error"
        left_out = record.kind == "intent" or (record.kind == "request" and ended_well)
        return not left_out or record.id is None or _number(record.id) < self._below


def _number(request_id: str) -> int:
    return int.from_bytes(blake2b(request_id.encode(), digest_size=8).digest(), "big")
