import base64
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from llm_authmw.accounts.protocols import AccountPage, AccountQuery
from llm_authmw.accounts.records import AccountKind, AccountRecord, AccountRef
from llm_authmw.errors import InvalidValueError
from llm_authmw.history import HistoryEntry
from llm_authmw.quota import Budget, Limit
from llm_authmw.stores.store import Backend

pytestmark = pytest.mark.anyio

MakeAccount = Callable[..., AccountRecord]
MakeEntry = Callable[..., HistoryEntry]

EVERYTHING: dict[str, Any] = {
    "tenant": "acme",
    "kind": "user",
    "realm": "https://issuer.example",
    "status": "blocked",
    "limits": (Limit.parse("60 requests/minute"),),
    "budgets": (Budget.parse("500 usd/month, soft 80%"), Budget.parse("1 usd")),
    "models": ("gpt-4o*",),
    "roles": ("admin",),
    "metadata": {"cost centre": "4711"},
    "created_at": 1_800_000_000.000001,
}


def changed(record: AccountRecord, **fields: Any) -> AccountRecord:
    return msgspec.structs.replace(record, revision=record.revision + 1, **fields)


async def test_an_unknown_account_is_found_nowhere(backend: Backend, account: MakeAccount) -> None:
    assert await backend.accounts.find(account().ref) is None
    assert await backend.accounts.find(AccountRef("default", "team", "", "\udcff")) is None
    assert () == await backend.accounts.history(account().ref)
    assert () == await backend.accounts.history(AccountRef("default", "team", "", "\udcff"))
    assert AccountPage((), None) == await backend.accounts.query(AccountQuery())


async def test_an_account_is_found_as_it_was_written(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    for written in (account("ada", **EVERYTHING), account("blue"), account("shut", models=())):
        assert await backend.accounts.write(written, entry()) is True
        assert written == await backend.accounts.find(written.ref)


async def test_accounts_that_differ_in_one_part_of_their_name_are_different(
    backend: Backend, account: MakeAccount, entry: MakeEntry
) -> None:
    base = account("ada", kind="user", realm="keys")
    others = [
        msgspec.structs.replace(base, tenant="acme"),
        msgspec.structs.replace(base, kind="end_user"),
        msgspec.structs.replace(base, realm="sso"),
        msgspec.structs.replace(base, name="Ada"),
    ]
    await backend.accounts.write(base, entry())
    for other in others:
        assert await backend.accounts.find(other.ref) is None
        assert () == await backend.accounts.history(other.ref)
    for other in others:
        blocked = msgspec.structs.replace(other, status="blocked")
        assert await backend.accounts.write(blocked, entry()) is True
        assert blocked == await backend.accounts.find(other.ref)
    assert base == await backend.accounts.find(base.ref)


async def test_an_account_that_exists_is_not_made_again_and_nothing_is_written(
    backend: Backend, account: MakeAccount, entry: MakeEntry
) -> None:
    first = account("blue")
    await backend.accounts.write(first, entry())
    cursor = (await backend.feed.changes(None)).cursor
    assert await backend.accounts.write(account("blue", status="blocked"), entry("again")) is False
    assert first == await backend.accounts.find(first.ref)
    assert 1 == len(await backend.accounts.history(first.ref))
    assert (await backend.feed.changes(cursor)).accounts is False


@pytest.mark.parametrize("revision", [2, 3, 5])
async def test_a_change_of_another_revision_than_the_stored_one_writes_nothing(
    backend: Backend, account: MakeAccount, entry: MakeEntry, revision: int
) -> None:
    stored = account("blue")
    await backend.accounts.write(stored, entry())
    for _ in range(2):
        stored = changed(stored)
        assert await backend.accounts.write(stored, entry("update")) is True
    cursor = (await backend.feed.changes(None)).cursor
    assert await backend.accounts.write(account("blue", revision=revision, status="blocked"), entry("late")) is False
    assert stored == await backend.accounts.find(stored.ref)
    assert ["create", "update", "update"] == [noted.action for noted in await backend.accounts.history(stored.ref)]
    assert (await backend.feed.changes(cursor)).accounts is False


async def test_a_change_of_an_account_that_is_not_there_writes_nothing(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    assert await backend.accounts.write(account("blue", revision=2), entry("update")) is False
    assert await backend.accounts.find(account("blue").ref) is None


async def test_a_change_replaces_the_whole_record(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    await backend.accounts.write(account("ada", **EVERYTHING), entry())
    plain = account("ada", tenant="acme", kind="user", realm=EVERYTHING["realm"], revision=2, created_at=EVERYTHING["created_at"])
    assert await backend.accounts.write(plain, entry("update")) is True
    assert plain == await backend.accounts.find(plain.ref)


async def test_each_change_appends_to_the_history(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    first = entry("create", at=5.5, changes={"status": [None, "active"]})
    second = entry("update", at=2.0, actor="root", changes={"limits": [[], ["4 concurrent"]], "metadata": [{}, {"a": "b"}]})
    await backend.accounts.write(account("blue"), first)
    await backend.accounts.write(account("red"), entry("other"))
    await backend.accounts.write(changed(account("blue")), second)
    assert (first, second) == await backend.accounts.history(account("blue").ref)


async def test_what_a_caller_does_to_a_record_afterwards_changes_nothing_in_the_store(
    backend: Backend, account: MakeAccount, entry: MakeEntry
) -> None:
    metadata = {"a": "1"}
    await backend.accounts.write(account("blue", metadata=metadata), entry())
    metadata["a"] = "2"
    for _ in range(2):
        found = await backend.accounts.find(account("blue").ref)
        assert found is not None
        assert {"a": "1"} == found.metadata
        found.metadata["a"] = "3"
        (listed,) = (await backend.accounts.query(AccountQuery())).accounts
        assert {"a": "1"} == listed.metadata
        listed.metadata["a"] = "4"


async def names(backend: Backend, **filters: Any) -> list[str]:
    page = await backend.accounts.query(AccountQuery(**filters))
    assert page.next is None
    return [record.name for record in page.accounts]


SORTED: list[tuple[str, AccountKind, str, str]] = [
    ("acme", "end_user", "", "z"),
    ("acme", "org", "", "z"),
    ("acme", "team", "", "Z"),
    ("acme", "team", "", "a"),
    ("acme", "team", "", "ä"),
    ("acme", "team", "", "\U0001f511"),
    ("acme", "user", "a", "z"),
    ("acme", "user", "b", "a"),
    ("default", "end_user", "", "a"),
]


async def write_sorted(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    for tenant, kind, realm, name in SORTED[::2] + SORTED[1::2]:
        await backend.accounts.write(account(name, tenant=tenant, kind=kind, realm=realm), entry())


@pytest.mark.parametrize("size", [1, 2, 4, 9, 1000])
async def test_accounts_are_listed_by_tenant_kind_realm_and_name_in_pages(
    backend: Backend, account: MakeAccount, entry: MakeEntry, size: int
) -> None:
    await write_sorted(backend, account, entry)
    found: list[AccountRef] = []
    after: str | None = None
    while len(found) <= len(SORTED):
        page = await backend.accounts.query(AccountQuery(after=after, size=size))
        found += [record.ref for record in page.accounts]
        after = page.next
        if after is None:
            break
        assert size == len(page.accounts)
    assert found == SORTED


async def test_an_account_that_is_added_meanwhile_moves_no_page(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    for name in ("b", "d"):
        await backend.accounts.write(account(name), entry())
    first = await backend.accounts.query(AccountQuery(size=1))
    for name in ("a", "c"):
        await backend.accounts.write(account(name), entry())
    second = await backend.accounts.query(AccountQuery(after=first.next))
    assert ["b", "c", "d"] == [record.name for record in (*first.accounts, *second.accounts)]


async def test_every_filter_that_is_given_must_hold(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    await backend.accounts.write(account("Blue 100%", tenant="acme", status="blocked"), entry())
    await backend.accounts.write(account("blue other tenant", status="blocked"), entry())
    await backend.accounts.write(account("blue other kind", tenant="acme", kind="org", status="blocked"), entry())
    await backend.accounts.write(account("blue other status", tenant="acme"), entry())
    await backend.accounts.write(account("red", tenant="acme", status="blocked"), entry())
    assert ["Blue 100%"] == await names(backend, tenant="acme", kind="team", status="blocked", search="BLUE")
    assert ["Blue 100%", "blue other status", "red"] == await names(backend, tenant="acme", kind="team")
    assert ["Blue 100%"] == await names(backend, search="%")
    assert ["blue other status"] == await names(backend, status="active")
    assert [] == await names(backend, search="_")
    assert [] == await names(backend, search="\udcff")
    assert [] == await names(backend, tenant="Acme")


async def test_blocked_accounts_of_all_tenants_come_in_pages(backend: Backend, account: MakeAccount, entry: MakeEntry) -> None:
    for number in range(6):
        status = "blocked" if number % 2 else "active"
        await backend.accounts.write(account(f"n{number}", tenant=f"t{number % 3}", status=status), entry())
    first = await backend.accounts.query(AccountQuery(status="blocked", size=2))
    second = await backend.accounts.query(AccountQuery(status="blocked", size=2, after=first.next))
    assert ["n3", "n1", "n5"] == [record.name for record in (*first.accounts, *second.accounts)]
    assert second.next is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "not a cursor",
        "\udcff",
        base64.b64encode(b'[1.0, "k1"]').decode(),
        base64.b64encode(b'["t", "robot", "", "blue"]').decode(),
        base64.b64encode(b'["t", "team", ""]').decode(),
    ],
)
async def test_a_cursor_that_no_store_gave_is_refused(backend: Backend, cursor: str) -> None:
    with pytest.raises(InvalidValueError, match="cursor"):
        await backend.accounts.query(AccountQuery(after=cursor))
