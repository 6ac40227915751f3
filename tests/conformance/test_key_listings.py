import base64
from collections.abc import Callable
from typing import Any

import pytest

from llm_authmw.errors import InvalidValueError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.protocols import KeyPage, KeyQuery
from llm_authmw.keys.records import KeyRecord, StoredKey
from llm_authmw.stores.store import Backend

pytestmark = pytest.mark.anyio

MakeKey = Callable[..., StoredKey]
MakeEntry = Callable[..., HistoryEntry]

NOW = 1000.0


async def ids(backend: Backend, *, now: float = NOW, **filters: Any) -> list[str]:
    page = await backend.keys.query(KeyQuery(now=now, **filters))
    assert page.next is None
    return [record.id for record in page.keys]


async def write_all(backend: Backend, entry: MakeEntry, *keys: StoredKey) -> None:
    for stored in keys:
        assert await backend.keys.write(stored, entry(), None) is True


async def test_an_empty_store_has_one_empty_page(backend: Backend) -> None:
    assert KeyPage((), None) == await backend.keys.query(KeyQuery(now=NOW))


async def test_keys_are_listed_whole_and_newest_first(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    old, new = key("b", created_at=1.0, tenant="t2", roles=("r",), metadata={"a": "b"}), key("a", created_at=2.0)
    await write_all(backend, entry, new, old, key("c", created_at=1.0))
    assert ["a", "c", "b"] == await ids(backend)
    assert [new.record, old.record] == [record for record in (await backend.keys.query(KeyQuery(now=NOW))).keys if record.id != "c"]


@pytest.mark.parametrize("field", ["tenant", "user", "team", "org"])
async def test_a_filter_finds_the_exact_value_only(backend: Backend, key: MakeKey, entry: MakeEntry, field: str) -> None:
    values = ["blue", "Blue", "blue2", "blu", "%", "b_ue"]
    await write_all(backend, entry, *(key(f"k{number}", **{field: value}) for number, value in enumerate(values)), key("none"))
    for number, value in enumerate(values):
        only: dict[str, Any] = {field: value}
        assert [f"k{number}"] == await ids(backend, **only)
    nobody: dict[str, Any] = {field: "nobody"}
    assert [] == await ids(backend, **nobody)


async def test_a_tag_is_found_among_several_as_a_whole(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await write_all(backend, entry, key("k1", tags=("prod", 'x","y')), key("k2", tags=("production",)), key("k3", tags=()))
    assert ["k1"] == await ids(backend, tag="prod")
    assert ["k1"] == await ids(backend, tag='x","y')
    assert [] == await ids(backend, tag="y")
    assert [] == await ids(backend, tag="%")


async def test_a_key_is_in_exactly_one_state_at_any_moment(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    keys = [
        key(f"{status}-{begins}-{ends}", status=status, not_before=begins, expires_at=ends)
        for status in ("active", "blocked", "revoked")
        for begins in (None, NOW - 1, NOW, NOW + 1)
        for ends in (None, NOW - 1, NOW, NOW + 1)
    ]
    await write_all(backend, entry, *keys)
    states = ("active", "blocked", "revoked", "expired", "not yet valid")
    for now in (NOW - 2, NOW - 1, NOW, NOW + 1):
        expected = {state: {stored.record.id for stored in keys if stored.record.state(now) == state} for state in states}
        assert expected == {state: set(await ids(backend, state=state, now=now)) for state in states}


async def test_unused_are_the_keys_that_nobody_used_since_a_moment_and_that_are_older_than_it(
    backend: Backend, key: MakeKey, entry: MakeEntry
) -> None:
    await write_all(
        backend,
        entry,
        key("never used", created_at=1.0),
        key("made then", created_at=500.0),
        key("made after", created_at=500.1),
        key("used before", created_at=1.0, last_used_at=499.9),
        key("used then", created_at=1.0, last_used_at=500.0),
        key("used after", created_at=1.0, last_used_at=700.0),
    )
    assert ["made then", "used before", "never used"] == await ids(backend, unused_since=500.0)


async def test_search_looks_for_a_part_of_the_name_or_the_beginning_of_the_id(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await write_all(
        backend,
        entry,
        key("aa01", name="Batch job", created_at=4.0),
        key("bb02", name="100%_sure \\ ok", created_at=3.0),
        key("cc03", name="Straße ÄÖÜ", created_at=2.0),
        key("dd04", name=None, created_at=1.0),
    )
    assert ["aa01"] == await ids(backend, search="BATCH")
    assert ["aa01"] == await ids(backend, search="h j")
    assert ["aa01"] == await ids(backend, search="AA0")
    assert ["dd04"] == await ids(backend, search="dd04")
    assert [] == await ids(backend, search="01")
    assert ["bb02"] == await ids(backend, search="%")
    assert ["bb02"] == await ids(backend, search="0%_")
    assert ["bb02"] == await ids(backend, search="\\")
    assert [] == await ids(backend, search="a_0")
    assert ["cc03"] == await ids(backend, search="äöü")
    assert ["cc03"] == await ids(backend, search="STRASSE")
    assert ["cc03"] == await ids(backend, search="straße")
    assert [] == await ids(backend, search="nothing")
    assert 4 == len(await ids(backend, search=""))


async def test_every_filter_that_is_given_must_hold(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    full: dict[str, Any] = {
        "tenant": "t", "user": "u", "team": "m", "org": "o", "tags": ("x",), "name": "n", "created_at": 1.0, "status": "blocked"
    }  # fmt: skip
    other: dict[str, Any] = {
        "tenant": "T", "user": "U", "team": "M", "org": "O", "tags": ("X",), "name": "-", "created_at": 600.0, "status": "active"
    }  # fmt: skip
    await write_all(backend, entry, key("right", **full), *(key(f"wrong {name}", **{**full, name: other[name]}) for name in full))
    filters: dict[str, Any] = {"tenant": "t", "user": "u", "team": "m", "org": "o", "tag": "x", "search": "n", "unused_since": 500.0}
    assert ["right"] == await ids(backend, state="blocked", **filters)


async def pages(backend: Backend, size: int, **filters: Any) -> list[list[KeyRecord]]:
    found: list[list[KeyRecord]] = []
    after: str | None = None
    while len(found) < 20:
        page = await backend.keys.query(KeyQuery(now=NOW, size=size, after=after, **filters))
        found.append(list(page.keys))
        after = page.next
        if after is None:
            return found
    pytest.fail("the pages have no end")


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 1000])
async def test_pages_together_are_the_whole_list_and_the_last_has_no_next(
    backend: Backend, key: MakeKey, entry: MakeEntry, size: int
) -> None:
    # Several keys of one moment, and one moment that no decimal number is.
    moments = [1.0, 1.0, 0.1 + 0.2, 5.0, 5.0, 5.0]
    await write_all(backend, entry, *(key(f"k{number}", created_at=moment) for number, moment in enumerate(moments)))
    found = await pages(backend, size)
    assert ["k5", "k4", "k3", "k1", "k0", "k2"] == [record.id for page in found for record in page]
    assert [size] * (len(found) - 1) == [len(page) for page in found[:-1]]
    assert 1 <= len(found[-1]) <= size


async def test_pages_keep_to_their_filters(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await write_all(backend, entry, *(key(f"k{number}", tenant="ab"[number % 2]) for number in range(7)))
    assert [["k5", "k3"], ["k1"]] == [[record.id for record in page] for page in await pages(backend, 2, tenant="b")]


async def test_a_key_that_is_added_meanwhile_moves_no_page(backend: Backend, key: MakeKey, entry: MakeEntry) -> None:
    await write_all(backend, entry, *(key(f"k{number}", created_at=float(number)) for number in range(1, 5)))
    first = await backend.keys.query(KeyQuery(now=NOW, size=2))
    await write_all(backend, entry, key("k9", created_at=9.0))
    second = await backend.keys.query(KeyQuery(now=NOW, size=2, after=first.next))
    assert ["k4", "k3", "k2", "k1"] == [record.id for record in (*first.keys, *second.keys)]
    assert second.next is None


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "not a cursor",
        "ä",
        "\udcff",
        "' OR 1=1 --",
        base64.b64encode(b"\xff").decode(),
        base64.b64encode(b"[]").decode(),
        base64.b64encode(b'["1", "k1"]').decode(),
        base64.b64encode(b"[NaN, 1]").decode(),
        base64.b64encode(b'["t", "team", "", "blue"]').decode(),
    ],
)
async def test_a_cursor_that_no_store_gave_is_refused(backend: Backend, cursor: str) -> None:
    with pytest.raises(InvalidValueError, match="cursor"):
        await backend.keys.query(KeyQuery(now=NOW, after=cursor))
