"""One alert on its way to whoever is told."""

from typing import Any, Final, Protocol

import msgspec

from llm_authmw.dates import rfc3339
from llm_authmw.errors import AuthmwError
from llm_authmw.telemetry import Alert


class NotToldError(AuthmwError):
    """Somebody did not take an alert.

    Args:
        problem: What went wrong, without anything that they answered.
        permanent: Whether they will not take it later either.
    """

    def __init__(self, problem: str, *, permanent: bool = False) -> None:
        super().__init__(problem)
        self.permanent: Final = permanent


class Telling(msgspec.Struct, frozen=True, kw_only=True):
    """An alert, and when it was raised.

    Attributes:
        id: Tells it from all others; the same however often it has to be told.
        at: Seconds since 1970.
        alert: What is told.
        repeated: How often the same was raised before, and not told.
    """

    id: str
    at: float
    alert: Alert
    repeated: int = 0

    def payload(self) -> dict[str, Any]:
        """Return what a program is told."""
        alert = self.alert
        data: dict[str, Any] = {"tenant": alert.tenant, "subject": alert.subject, "message": alert.message, "details": alert.details}
        if self.repeated:
            data["repeated"] = self.repeated
        return {"type": alert.kind, "timestamp": rfc3339(int(self.at)), "data": data}


class Destination(Protocol):
    """Somebody who is told."""

    async def tell(self, telling: Telling) -> None:
        """Tell them.

        Raises:
            NotToldError: they did not take it.
        """

    async def aclose(self) -> None:
        """Close what is open."""
