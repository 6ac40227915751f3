"""The record of a change that a service has made."""

from typing import Final

from llm_authmw.history import HistoryEntry
from llm_authmw.trail.record import Change, Person, Record, Who

_PERSONS: Final = frozenset({"user", "end_user"})


def change_record(what: str, target: str, entry: HistoryEntry, *, tenant: str, user: str | None = None, realm: str = "") -> Record:
    """Return the record; the arguments are those of `history.Recorder`.

    Whose account it is says who a person is: then the name stands in the person's part, and the target is only "user" or "end_user".
    """
    kind, _, name = target.partition(":")
    end_user = None
    if what == "account" and kind in _PERSONS:
        target = kind
        user, end_user = (name, None) if kind == "user" else (None, name)
    return Record(
        time=int(entry.at * 1_000_000),
        kind="change",
        who=Who(tenant=tenant, realm=realm),
        person=Person(user=user, end_user=end_user, actor=entry.actor, changes=entry.changes),
        change=Change(what=what, target=target, action=entry.action, fields=tuple(entry.changes)),
    )
