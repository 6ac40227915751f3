"""Tells of keys that are used and are about to end, while there is time to do something about it."""

import math
from typing import Final

from llm_authmw.keys.known import KnownKey
from llm_authmw.telemetry import Alert, emit, observed

NOTICE: Final = 7 * 86_400.0
"""Seconds before its end in which the use of a key is told of."""
_DAY: Final = 86_400.0
_REMEMBERED: Final = 10_000
"""Keys that were told of today; beyond that, all of them may be told of again."""


class ExpiryNotices:
    """Emits an alert when a key, or the secret that a rotation replaces, is used within a week of its end: once a day for each."""

    def __init__(self) -> None:
        self._told: Final[dict[str, int]] = {}
        """The day, counted from 1970, by key."""

    def look(self, known: KnownKey, now: float) -> None:
        """Take note of a key that is used now.

        Args:
            known: The key, which is valid.
            now: Seconds since 1970.
        """
        if known.ends - now > NOTICE or known.key_id is None or known.ends == math.inf or not observed():
            return
        today = int(now // _DAY)
        if self._told.get(known.key_id) == today:
            return
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[known.key_id] = today
        replaced = known.ends_by == "key_rotated"
        what = "A secret that a rotation has replaced" if replaced else "A key"
        emit(
            Alert(
                kind="key_expiring",
                tenant=known.principal.tenant,
                subject=known.key_id,
                message=f"{what} is still in use, and ends within {math.ceil((known.ends - now) / _DAY)} days.",
                details={"team": known.principal.team, "expires_at": known.ends, "replaced_secret": replaced},
                # Every process that sees the key this day means the same.
                occasion=f"{known.ends:.0f} {today}",
            )
        )
