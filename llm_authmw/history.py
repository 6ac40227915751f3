"""What was done to a key or an account, by whom and when."""

from typing import Any, Protocol

import msgspec


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a key or an account.

    Attributes:
        at: Seconds since 1970.
        action: What was done: "create", "update", "rotate", …
        actor: Who did it.
        changes: The fields that changed, as [before, after]; never a secret.
    """

    at: float
    action: str
    actor: str
    changes: dict[str, Any] = {}


class Recorder(Protocol):
    """Told of every change, after it was made. It neither waits nor fails."""

    def __call__(self, what: str, target: str, entry: HistoryEntry, *, tenant: str, user: str | None = None, realm: str = "") -> None:
        """Take one change.

        Args:
            what: Of what kind of thing: "key", "account", "revocation", "ledger".
            target: Its id; for an account "team:blue".
            entry: What was done.
            tenant: Whose it is.
            user: The person whose it is, or whom it is about, so that the change can be forgotten with them.
            realm: Where that name means one person.
        """


def unrecorded(what: str, target: str, entry: HistoryEntry, *, tenant: str, user: str | None = None, realm: str = "") -> None:
    """Take a change that nobody records."""
