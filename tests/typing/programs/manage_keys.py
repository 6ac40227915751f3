"""A script that manages keys and accounts."""

from typing import assert_type

import anyio

from llm_authmw import (
    AccountRecord,
    Budget,
    ConflictError,
    CreatedKey,
    KeyRecord,
    KeyService,
    Limit,
    NotFoundError,
    StoreError,
    open_store,
)


async def retire_unused(keys: KeyService, *, since: float) -> list[KeyRecord]:
    retired: list[KeyRecord] = []
    after: str | None = None
    while True:
        page = await keys.unused(since=since, after=after)
        retired += [await keys.revoke(record.id, tenant=record.tenant, actor="janitor") for record in page.keys]
        after = page.next
        if after is None:
            return retired


async def main() -> None:
    async with open_store("memory://", bound=0.5) as store:
        created = await store.keys.create(
            name="laptop",
            user="ada",
            team="blue",
            models=["gpt-4o*"],
            limits=["60 requests/minute"],
            budgets=[Budget.parse("50 usd/month")],
        )
        assert_type(created, CreatedKey)
        assert_type(created.key, str | None)
        rotated = await store.keys.rotate(created.id, grace=3_600.0)
        record = await store.keys.update(rotated.id, limits=[Limit.parse("4 concurrent")], tags={"paid"})
        assert_type(record, KeyRecord)
        assert_type(record.limits, tuple[Limit, ...])
        assert_type(await store.accounts.create("team", "blue", models=None), AccountRecord)
        await store.accounts.block("team", "blue")
        try:
            await store.keys.get("nobody")
        except (NotFoundError, ConflictError, StoreError) as error:
            assert_type(error, NotFoundError | ConflictError | StoreError)
        await retire_unused(store.keys, since=0.0)


if __name__ == "__main__":
    anyio.run(main)
