"""Who is told of what: each thing once a day, and of a flood of them no more than a few."""

from typing import Any, Final

from llm_authmw.brute_force.networks import UNKNOWN
from llm_authmw.brute_force.waits import ADDRESS, Refused, Subject
from llm_authmw.clock import Clock
from llm_authmw.context import logger
from llm_authmw.dates import day_text, rfc3339
from llm_authmw.telemetry import Alert, emit

MAX_TOLD: Final = 4096
"""Occasions that are remembered as told."""
MOST_IN_AN_HOUR: Final = 20
"""Alerts of single subjects in an hour, of one process. What comes beyond them is told of as one."""
_HOUR: Final = 3600.0
_DAY: Final = 86_400.0

_WORDS: Final = {
    "address": "The network {name} is locked out: too many credentials that are not valid came from there.",
    "address+credential": "One credential is locked out from one network, where it was not valid too often: {name}.",
    "credential": "Somebody guesses at the credential {name}: too many wrong ones claimed to be it. It stays good for whoever has it.",
    "caller": "Credentials of {name} that hold no more were used too often. Others of theirs stay good.",
    "global": "Too many credentials that are not valid came from anywhere: it may be guessing from many networks.",
}
_NOBODY_KNOWS: Final = (
    "Whoever comes from an address that nobody knows is locked out together. Where that is everybody, as behind a UNIX socket that "
    "trusted_proxies does not name, name it there."
)


class Alarms:
    """Emits `telemetry.Alert` for what should be looked at.

    Args:
        clock: Gives the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._now: Final = clock.now
        self._told: Final[set[tuple[str, str]]] = set()
        self._hour: float = 0.0
        self._in_the_hour: int = 0
        self._warned = False

    def look_at(self, scope: Any) -> None:
        """Tell, once, of a request from nobody knows where, if that is how all of them come."""
        if not self._warned and not scope.get("client"):
            self._warned = True
            logger.error(
                "Requests come without an address, as by a UNIX socket, so that all clients are one network, and any of them can have the "
                "others locked out: say TrustedProxies(unix_socket=True), or let the server listen on a port"
            )

    def tell(self, refused: Refused) -> None:
        """Tell of too many failures, unless that was told today, or too much was told within the hour."""
        now = self._now()
        today = day_text(int(now // _DAY))
        subject = f"{refused.subject.dimension}:{refused.subject.name}" if refused.subject.name else refused.subject.dimension
        if (subject, today) in self._told:
            return
        if now // _HOUR != self._hour:
            self._hour, self._in_the_hour = now // _HOUR, 0
        self._in_the_hour += 1
        if self._in_the_hour > MOST_IN_AN_HOUR + 1:
            return
        if self._in_the_hour > MOST_IN_AN_HOUR:
            emit(
                Alert(
                    kind="lockout",
                    tenant="*",
                    subject="*",
                    message=f"More than {MOST_IN_AN_HOUR} lockouts were told of within an hour, and no more are until the next one begins.",
                    occasion=rfc3339(int(self._hour * _HOUR)),
                )
            )
            return
        if len(self._told) >= MAX_TOLD:
            self._told.clear()
        self._told.add((subject, today))
        emit(
            Alert(
                kind="lockout",
                tenant="*",
                subject=subject,
                message=_message(refused.subject),
                details={"limit": str(refused.limit), "seconds": refused.wait, "bucket": refused.rule},
                occasion=today,
            )
        )


def _message(subject: Subject) -> str:
    if subject == (ADDRESS, UNKNOWN):
        return _NOBODY_KNOWS
    return _WORDS[subject.dimension].format(name=subject.name)
