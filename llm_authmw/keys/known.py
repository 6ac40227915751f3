"""What is known of one presented text: whose key it is, or why it is none."""

import math
from collections.abc import Collection
from typing import Final

import msgspec

from llm_authmw.accounts.records import AccountRef, accounts_of
from llm_authmw.keys.records import KeyRecord
from llm_authmw.network import Network, parse_network
from llm_authmw.patterns import RoutePattern
from llm_authmw.principal import ANONYMOUS, Principal


class KnownKey(msgspec.Struct, eq=False, gc=False):
    """What is known of one presented text: whose key it is, or why it is none.

    Attributes:
        principal: Who is calling; anonymous where the text is no key.
        key_id: The id of the key that was proven.
        claimed_id: The id of the key that the text claims to be, for the record.
        refused: The reason code that refuses the text for good, or None.
        begins: Seconds since 1970 from which it is valid.
        ends: Seconds since 1970 at which key or secret ends.
        ends_by: The reason code after `ends`.
        networks: The networks that it may come from, or None.
        routes: The routes that it may be used for, or None.
        mark: What a reader of the record should notice, or None.
        imported: Whether the text was made elsewhere, and counts only where imported keys are accepted.
        current: Whether nothing has changed since this was loaded; an open stream looks at it.
        touch_due: When the next use is to be noted, seconds since 1970.
    """

    refused: str | None
    key_id: str | None = None
    claimed_id: str | None = None
    principal: Principal = ANONYMOUS
    begins: float = -math.inf
    ends: float = math.inf
    ends_by: str = "key_expired"
    networks: tuple[Network, ...] | None = None
    routes: tuple[RoutePattern, ...] | None = None
    mark: str | None = None
    imported: bool = False
    current: bool = True
    touch_due: float = -math.inf

    @classmethod
    def of_record(cls, record: KeyRecord) -> "KnownKey":
        """Return what is known of a text that was proven to be this key."""
        status = {"active": None, "blocked": "key_blocked", "revoked": "key_revoked"}[record.status]
        known = cls(status, key_id=record.id, claimed_id=record.id, principal=record.principal())
        if record.not_before is not None:
            known.begins = record.not_before
        if record.expires_at is not None:
            known.ends = record.expires_at
        if record.networks is not None:
            known.networks = tuple(parse_network(text) for text in record.networks)
        if record.routes is not None:
            known.routes = tuple(RoutePattern.parse(text) for text in record.routes)
        return known

    def __repr__(self) -> str:
        return f"KnownKey(key_id={self.key_id!r}, refused={self.refused!r})"

    def refusal(self, now: float, blocked: Collection[AccountRef]) -> str | None:
        """Return the reason code that refuses the key at this moment, or None."""
        if self.refused is not None:
            return self.refused
        if now >= self.ends:
            return self.ends_by
        if now < self.begins:
            return "key_not_yet_valid"
        if blocked and any(ref in blocked for ref in accounts_of(self.principal)):
            return "account_blocked"
        return None


MALFORMED: Final = KnownKey("key_malformed")
UNKNOWN: Final = KnownKey("key_unknown")
