"""`store.audit`: the audit trail in the store itself, and what the store's own changes leave in it."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from llm_authmw import open_store
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.sinks.function import FunctionSink
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.stores import Store
from llm_authmw.telemetry import Asked, attach, detach
from llm_authmw.testing import ManualClock
from llm_authmw.trail.checkpoints import SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.reading import read_line
from llm_authmw.trail.record import Person, Record, Who
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

DAY = 86_400
PATIENT: SinkOptions = {"deadline": 60.0}
"""Where the machine may be slow, and what is tested is not how long it takes."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/authmw.db"


@pytest.fixture
async def store(url: str, anyio_backend: Any, clock: ManualClock) -> AsyncIterator[Store]:
    async with open_store(url, clock=clock, audit_options=PATIENT) as made:
        yield made


def request(number: int, clock: ManualClock, **fields: Any) -> Record:
    who = Who(tenant="default", realm="keys", team="blue")
    return Record(time=int(clock.now() * 1_000_000), kind="request", id=f"{number:016x}", who=who, outcome="allowed", **fields)


async def found(store: Store, **query: Any) -> list[Record]:
    return [read_line(entry.line) for entry in await store.audit.search(RecordQuery(**query))]


async def test_what_is_accepted_is_in_the_store_at_once(store: Store, clock: ManualClock) -> None:
    await store.audit.accept(request(1, clock))
    assert [f"{1:016x}"] == [record.id for record in await found(store, kinds=("request",))]
    assert [1] == [row.requests for row in await store.usage.by()]


async def test_only_what_survives_the_process_is_durable(store: Store, url: str) -> None:
    assert (url != "memory://") is store.audit.durable


async def test_what_waits_is_written_before_the_store_closes(url: str, clock: ManualClock) -> None:
    store = open_store(url, clock=clock)
    async with store:
        for number in range(100):
            store.audit.put(request(number, clock))
    async with store:
        assert 100 == len(await found(store, kinds=("request",)))
        assert verify([entry.line for entry in await store.audit.search(RecordQuery())]).sound


async def test_a_store_that_nothing_was_recorded_in_makes_no_file_for_it(tmp_path: Path) -> None:
    async with open_store(f"sqlite:///{tmp_path}/authmw.db") as store:
        await store.keys.list()
    assert ["authmw.db"] == [path.name for path in tmp_path.iterdir()]


async def test_every_change_of_a_key_an_account_and_a_revocation_is_recorded(store: Store, clock: ManualClock) -> None:
    key = (await store.keys.create(name="ci", team="blue", actor="ada")).id
    await store.keys.update(key, name="cd", actor="ada")
    await store.keys.block(key, actor="bob")
    await store.keys.block(key, actor="bob")  # changes nothing
    rotated = await store.keys.import_key(sha256_hex="ab" * 32)
    await store.keys.revoke(rotated.id)
    await store.accounts.create("team", "blue", budgets=["50 usd/month"], actor="ada")
    await store.accounts.block("team", "blue", actor="ada")
    revoked = await store.revocations.revoke_subject("https://id.example.com", "ann", actor="ada")
    await store.revocations.lift(revoked.id, actor="ada")
    clock.advance(1)
    await store.revocations.lift(revoked.id, actor="ada")  # changes nothing
    await store.aclose()
    records = await found(store, kinds=("change",))
    assert [
        ("key", "create", key),
        ("key", "update", key),
        ("key", "block", key),
        ("key", "import", rotated.id),
        ("key", "revoke", rotated.id),
        ("account", "create", "team:blue"),
        ("account", "block", "team:blue"),
        ("revocation", "revoke", revoked.id),
        ("revocation", "lift", revoked.id),
    ] == [(record.change.what, record.change.action, record.change.target) for record in records if record.change is not None]
    assert ["ada", "ada", "bob"] == [record.person.actor for record in records[:3] if record.person is not None]
    assert [{"name": ["ci", "cd"]}] == [record.person.changes for record in records[1:2] if record.person is not None]


async def test_what_did_not_happen_is_not_recorded(store: Store) -> None:
    with pytest.raises(Exception, match="no such API key"):
        await store.keys.revoke("nobody")
    await store.accounts.create("team", "blue")
    with pytest.raises(Exception, match="exists"):
        await store.accounts.create("team", "blue")
    await store.aclose()
    assert 1 == len(await found(store, kinds=("change",)))


async def test_neither_a_key_nor_its_digest_is_in_a_record(store: Store) -> None:
    created = await store.keys.create(name="ci")
    rotated = await store.keys.rotate(created.id)
    await store.keys.import_key(sha256_hex="ab" * 32)
    await store.aclose()
    text = b"\n".join(entry.line for entry in await store.audit.search(RecordQuery()))
    assert created.key is not None
    assert rotated.key is not None
    for secret in (created.key, rotated.key, "ab" * 32):
        assert secret.encode() not in text
        assert secret.partition("_")[2].encode() not in text or "_" not in secret


async def test_changes_go_to_another_sink_where_one_is_named(url: str) -> None:
    seen: list[Record] = []

    async def take(entries: Sequence[Entry]) -> None:
        seen.extend(entry.record for entry in entries)

    store = open_store(url, audit=FunctionSink(take))
    async with store:
        await store.keys.create(name="ci")
    assert ["create"] == [record.change.action for record in seen if record.change is not None]
    async with store:
        assert [] == await found(store)


async def test_a_change_is_made_where_its_record_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "authmw.audit.db").mkdir()
    async with open_store(f"sqlite:///{tmp_path}/authmw.db") as store:
        key = await store.keys.create(name="ci")
        await store.keys.revoke(key.id)
        assert "revoked" == (await store.keys.get(key.id)).status
        assert ["create", "revoke"] == [entry.action for entry in await store.keys.history(key.id)]
        with anyio.fail_after(10):
            await store.audit.aclose()
        assert 2 == next(reading.value for reading in store.audit.readings() if reading.name == "audit_records_lost")


async def test_a_record_that_must_be_written_and_cannot_be_is_an_error(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "authmw.audit.db").mkdir()
    store = open_store(f"sqlite:///{tmp_path}/authmw.db")
    with pytest.raises(SinkError, match="takes no records"):
        await store.audit.accept(request(1, clock))
    await store.aclose()


async def test_a_person_is_forgotten_in_records_of_changes_too(store: Store) -> None:
    await store.accounts.create("user", "ann", realm="corp")
    await store.audit.aclose()
    assert 1 == await store.audit.forget("default", "ann")
    assert not [entry for entry in await store.audit.search(RecordQuery()) if b"ann" in entry.line]


async def test_old_entries_are_removed_in_the_background(url: str, clock: ManualClock) -> None:
    store = open_store(url, clock=clock, audit_keep=30.0, audit_options=PATIENT)
    await store.audit.accept(request(1, clock))
    await store.aclose()
    clock.advance(31 * DAY)
    async with store:
        await store.audit.accept(request(2, clock))
        with anyio.fail_after(10):
            while [f"{2:016x}"] != [record.id for record in await found(store, kinds=("request",))]:
                await anyio.lowlevel.checkpoint()
        assert [2] == [row.requests for row in await store.usage.by()]
        lines = [entry.line for entry in await store.audit.search(RecordQuery())]
    assert verify(lines, since=int((clock.now() - 30 * DAY) * 1_000_000)).sound


async def test_entries_of_the_last_day_are_never_removed_since_their_writers_may_go_on(store: Store, clock: ManualClock) -> None:
    await store.audit.accept(request(1, clock))
    assert 0 == await store.audit.prune(int((clock.now() + DAY) * 1_000_000))
    assert 1 == len(await found(store, kinds=("request",)))


async def test_checkpoints_are_signed_with_the_key_of_the_environment(
    url: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = make_signing_key()
    monkeypatch.setenv("AUTHMW_AUDIT_KEY", secret.reveal())
    store = open_store(url, clock=clock, audit_options=PATIENT)
    await store.audit.accept(request(1, clock))
    await store.aclose()
    report = verify([entry.line for entry in await store.audit.search(RecordQuery())], keys=[VerifyingKey(SigningKey(secret).public_pem)])
    assert (True, 2) == (report.sound, report.signatures)
    await store.aclose()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"audit_keep": 0}, "audit_keep"),
        ({"audit_keep": 0.5}, "audit_keep"),
        ({"audit_keep": float("nan")}, "audit_keep"),
        ({"audit_options": {"queue": 0}}, "queue"),
        ({"audit_options": {"format": "ocsf"}}, "format"),
        ({"audit_options": {"signing_key": "no key"}}, "signing_key"),
    ],
)
def test_an_option_that_is_wrong_is_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        open_store("memory://", **options)


def test_a_handle_that_was_made_outside_serves_one_event_loop_after_another(tmp_path: Path, clock: ManualClock) -> None:
    store = open_store(f"sqlite:///{tmp_path}/authmw.db", audit_options=PATIENT)

    async def write(number: int) -> None:
        await store.audit.accept(request(number, clock))
        await store.aclose()

    for number in range(3):
        asyncio.run(write(number))
    assert 3 == len(asyncio.run(_read_and_close(store)))


async def _read_and_close(store: Store) -> list[Record]:
    try:
        return await found(store, kinds=("request",))
    finally:
        await store.aclose()


async def test_what_was_recorded_of_a_person_can_be_searched_by_him(store: Store, clock: ManualClock) -> None:
    await store.audit.accept(request(1, clock, person=Person(user="ann")))
    assert 1 == len(await found(store, principal="ann"))


class Told:
    def __init__(self) -> None:
        self.events: list[object] = []

    def observe(self, event: object) -> None:
        self.events.append(event)


async def test_whoever_measures_is_told_of_each_batch_that_was_written_and_of_each_that_was_not(
    store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    told = Told()
    attach(told)
    try:
        await store.audit.accept(request(1, clock))
        (tmp_path / "other.audit.db").mkdir()
        other = open_store(f"sqlite:///{tmp_path}/other.db", audit_options=PATIENT)
        with pytest.raises(SinkError):
            await other.audit.accept(request(1, clock))
        await other.aclose()
    finally:
        detach(told)
    asked = [(event.store, event.operation, event.outcome) for event in told.events if isinstance(event, Asked)]
    assert [("audit", "append", "ok"), ("audit", "append", "failed")] == asked[:2]
