"""What was done to a key or an account, by whom and when."""

from typing import Any

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
