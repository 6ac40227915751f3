"""A reservation that was granted, in the hands of the request that it was made for."""

import msgspec

from llm_authmw.ledger.buckets import Claim
from llm_authmw.ledger.contract import Reservation, Settlement


class Hold(msgspec.Struct, eq=False, weakref=True):
    """What was granted, until it is settled.

    Attributes:
        id: The reservation's id.
        claims: What was claimed.
        reservation: The store's answer.
        settled: Whether the truth was given; a second one is not taken.
        settlement: The store's answer to that, once it is known.
    """

    id: str
    claims: tuple[Claim, ...]
    reservation: Reservation
    settled: bool = False
    settlement: Settlement | None = None
