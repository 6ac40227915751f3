"""`UsageService`: what `store.usage` is, the sums of what was used."""

from collections.abc import Sequence
from typing import Final

from llm_authmw.errors import InvalidValueError
from llm_authmw.trail.protocols import UsageQuery, UsageRow, UsageStore

MAX_ROWS: Final = 100_000
"""Rows that one question may be answered with."""


class UsageService:
    """What was used, by whom and of what, by day.

    It is summed up as records reach `store.audit`: what no `AuditMiddleware` with that sink has recorded is not in it.

    Args:
        store: Where the sums are kept.
    """

    def __init__(self, store: UsageStore) -> None:
        self._store: Final = store

    async def by(
        self,
        *dimensions: str,
        since: str | None = None,
        until: str | None = None,
        tenant: str | None = None,
        key: str | None = None,
        user: str | None = None,
        team: str | None = None,
        org: str | None = None,
        model: str | None = None,
        limit: int = 1000,
    ) -> Sequence[UsageRow]:
        """Return sums, those that cost most first. Every filter that is given must hold; a tenant of None means every one.

        Args:
            dimensions: What is told apart: "key", "user", "realm", "team", "org", "tenant", "model", "day", or the name of a field that an
                enrichment adds. None of them gives one sum of everything.
            since: The first day, "2026-11-01", in UTC.
            until: The last day.
            tenant: Of this tenant only.
            key: Of the API key with this id.
            user: Of this user.
            team: Of this team.
            org: Of this organisation.
            model: Of this model.
            limit: At most so many rows, 1 to 100,000.

        Raises:
            InvalidValueError: a day is no date, `limit` is out of range, or a dimension comes twice.
            StoreError: the store cannot be read.
        """
        if not 1 <= limit <= MAX_ROWS:
            raise InvalidValueError("limit is a number of rows from 1 to 100,000")
        if len(set(dimensions)) < len(dimensions):
            raise InvalidValueError("a dimension comes twice")
        query = UsageQuery(
            since=since, until=until, by=dimensions, tenant=tenant, key=key, user=user, team=team, org=org, model=model, limit=limit
        )
        return await self._store.usage(query)
