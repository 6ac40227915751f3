"""Copies of records: nobody outside may write into what is kept."""

from typing import TypeVar

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.keys.records import KeyRecord

Record = TypeVar("Record", KeyRecord, AccountRecord)


def copied(record: Record) -> Record:
    """Return a copy. Records are frozen, but their metadata is a dictionary."""
    return msgspec.structs.replace(record, metadata=dict(record.metadata))
