"""What stands until a date: the streams and sockets of a credential that can do nothing but expire."""

import msgspec

from llm_authmw.clock import Clock
from llm_authmw.errors import Denial

BOUND = 1.0
"""Seconds between two looks at what is open."""


class Expiry(msgspec.Struct, frozen=True):
    """The `Standing` of a credential with an end and nobody to ask.

    Attributes:
        layer: The name of the layer that judged the credential.
        ends: When it ends, seconds since 1970.
        clock: Tells whether that is over.
        reason: The reason code after the end.
        credential_id: The id of the credential, for the record.
    """

    layer: str
    ends: float
    clock: Clock
    reason: str = "token_expired"
    credential_id: str | None = None

    @property
    def bound(self) -> float:
        """Seconds within which the end takes effect."""
        return BOUND

    @property
    def due(self) -> float:
        """Seconds after which it is to be asked again, always above zero."""
        left = self.ends - self.clock.now()
        return min(BOUND, left) if left > 0 else BOUND

    def holds(self) -> bool:
        """Say whether it has not ended."""
        return self.clock.now() < self.ends

    def refusal(self) -> Denial | None:
        """Return the denial of a credential that has ended, or None."""
        if self.holds():
            return None
        denial = Denial(self.reason, layer=self.layer)
        denial.credential_id = self.credential_id
        return denial

    async def confirm(self) -> Denial | None:
        """Return why it stands no longer, or None."""
        return self.refusal()
