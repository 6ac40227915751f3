"""What a store must do for the audit trail, and for the sums that are made of it."""

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

import msgspec

from llm_authmw.trail.entry import Entry

Dimension: TypeAlias = Literal["key", "user", "realm", "team", "org", "tenant", "model", "day"]
"""What use can be summed up by; beside these the name of a field that an enrichment adds."""


class StoredEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An entry as a store gives it back.

    Attributes:
        position: Its place among all entries of the store, ever growing.
        line: The whole entry, as `Entry.line` writes it, but for a person who is forgotten.
    """

    position: int
    line: bytes


class RecordQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which records are wanted; what is left out matters not.

    Attributes:
        since: Microseconds since 1970; this moment and later.
        until: Microseconds since 1970; before this moment.
        kinds: Of these kinds.
        tenant: Of this tenant.
        principal: Whose user, client ("client:NAME") or key ("key:ID") this is.
        team: Of this team.
        reason: With this reason, of the denial or of any decision.
        model: That ask for this model, or were served by it.
        outcome: With this outcome.
        id: Of this request.
        after: Positions above this one.
        before: Positions below this one.
        newest_first: In which order.
        limit: At most so many.
    """

    since: int | None = None
    until: int | None = None
    kinds: tuple[str, ...] = ()
    tenant: str | None = None
    principal: str | None = None
    team: str | None = None
    reason: str | None = None
    model: str | None = None
    outcome: str | None = None
    id: str | None = None
    after: int | None = None
    before: int | None = None
    newest_first: bool = False
    limit: int = 1000


class AuditStore(Protocol):
    """The entries that a store keeps."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """Keep entries, and add them to the sums of use. Entries that are there already (by writer, sequence and hash) change nothing.

        Raises:
            StoreError: they are not kept.
            ConflictError: another entry stands in the place of one of them, and they are not kept.
        """

    async def search(self, query: RecordQuery) -> Sequence[StoredEntry]:
        """Return entries.

        Raises:
            StoreError: the store cannot be read.
        """
        ...

    async def forget(self, tenant: str, user: str, *, realm: str | None = None) -> int:
        """Take the person's part out of every entry whose user or end user this is, and the user out of the sums.

        Returns:
            Of how many entries.

        Raises:
            StoreError: the store cannot be written.
        """
        ...

    async def prune(self, before: int) -> int:
        """Remove entries of before a moment (microseconds since 1970), each writer's from its oldest on without a gap; return how many.

        Raises:
            StoreError: the store cannot be written.
        """
        ...


class UsageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which use is wanted.

    Attributes:
        since: The first day, "2026-11-01", UTC.
        until: The last day.
        by: What it is summed up by; nothing gives one sum.
        tenant, key, user, team, org, model: Only this one's.
        limit: At most so many rows, those that cost most first.
    """

    since: str | None = None
    until: str | None = None
    by: tuple[str, ...] = ()
    tenant: str | None = None
    key: str | None = None
    user: str | None = None
    team: str | None = None
    org: str | None = None
    model: str | None = None
    limit: int = 1000


class UsageRow(msgspec.Struct, frozen=True, kw_only=True):
    """What was used, by one combination of what was asked for.

    Attributes:
        by: The combination, in the order of the query; None where a request names none.
        requests: Requests, the denied ones too.
        denied: Those of them that were denied.
        failed: Those of them whose app failed, or answered with a status of 500 and above.
        input_tokens: Tokens of requests.
        output_tokens: Tokens of answers.
        cost: Nano-dollars.
        latency: Milliseconds within which a half, nine tenths, 95 and 99 of a hundred of the allowed requests were over; None where there
            were none.
        first_byte: The same until the first byte.
    """

    by: dict[str, str | None] = {}
    requests: int = 0
    denied: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: int = 0
    latency: dict[str, float] | None = None
    first_byte: dict[str, float] | None = None


class UsageStore(Protocol):
    """The sums of use that a store keeps, by day."""

    async def usage(self, query: UsageQuery) -> Sequence[UsageRow]:
        """Return sums.

        Raises:
            StoreError: the store cannot be read.
        """
        ...
