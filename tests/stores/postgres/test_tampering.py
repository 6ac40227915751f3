"""Whoever may write to the tables of the audit trail, while others write it: what shows, and what cannot."""

import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import anyio
import asyncpg
import pytest

from llm_authmw import open_store
from llm_authmw.errors import SinkError, StoreError
from llm_authmw.stores.audit import StoreAudit
from llm_authmw.stores.postgres import PostgresBackend
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import Chain, link_hash
from llm_authmw.trail.checkpoints import SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.findings import Report
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.verification import Verifier, verify
from tests.peers.postgres import PostgresPeer

pytestmark = pytest.mark.anyio

SECRET: Final = make_signing_key()
KEY: Final = SigningKey(SECRET)
PUBLIC: Final = VerifyingKey(KEY.public_pem)
FEW: Final = 20

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class Trail:
    """Two writers in one database, as two processes are, and who may do everything there.

    Attributes:
        writers: The ids of their chains.
        anchors: The checkpoints that they have told somebody else of.
        sql: A connection of the owner's.
        over: Whether they are to stop.
    """

    def __init__(self, sinks: Sequence[StoreAudit], anchors: list[Entry], sql: Connection) -> None:
        self.writers: list[str] = []
        self.over: bool = False
        self.anchors: Final = anchors
        self.sql: Final = sql
        self._sinks: Final = sinks
        self._written: list[int] = [0] * len(sinks)
        self._changed = anyio.Event()

    async def write(self, number: int) -> None:
        """Write one record after the other, until it is over: then all of them are there."""
        while not self.over:
            await self._sinks[number].accept(fake_record(id=f"{number}{self._written[number]:015x}"))
            self._written[number] += 1
            self._changed.set()
            self._changed = anyio.Event()

    async def go_on(self) -> None:
        """Wait until each of them has written so many more."""
        wanted = [count + FEW for count in self._written]
        with anyio.fail_after(30):
            while any(count < least for count, least in zip(self._written, wanted, strict=True)):
                await self._changed.wait()

    async def lines(self) -> list[bytes]:
        """Read everything, page by page, as whoever verifies does."""
        found: list[bytes] = []
        after: int | None = None
        while page := await self._sinks[0].search(RecordQuery(after=after, limit=17)):
            found += [entry.line for entry in page]
            after = page[-1].position
        return found

    async def report(self, *, keys: Sequence[VerifyingKey] = (PUBLIC,), anchored: bool = True) -> Report:
        anchors = [anchor.line for anchor in self.anchors] if anchored else []
        verifier = Verifier(keys=keys, anchors=anchors)
        verifier.read(await self.lines())
        return verifier.report()

    async def alarms(self, *, anchored: bool = True) -> set[str]:
        report = await self.report(anchored=anchored)
        assert report.sound == (not any(finding.is_alarm for finding in report.findings))
        return {finding.kind for finding in report.findings if finding.is_alarm}


@pytest.fixture
async def trail(backend: PostgresBackend, other: Connection) -> AsyncIterator[Trail]:
    anchors: list[Entry] = []
    options: dict[str, Any] = {"signing_key": KEY, "checkpoint_every": 7, "anchor": anchors.append, "deadline": 30}
    sinks = [StoreAudit(backend.audit, **options) for _ in range(2)]
    for sink in sinks:
        await sink.start()
    yield Trail(sinks, anchors, other)
    for sink in sinks:
        await sink.aclose()


@asynccontextmanager
async def writing(trail: Trail) -> AsyncGenerator[None]:
    """Let both of them write meanwhile."""
    trail.over = False
    async with anyio.create_task_group() as tasks:
        for number in range(2):
            tasks.start_soon(trail.write, number)
        await trail.go_on()
        trail.writers = [row[0] for row in await trail.sql.fetch("SELECT DISTINCT writer FROM authmw_audit_entries")]
        yield
        await trail.go_on()
        trail.over = True


async def test_a_trail_that_nobody_touches_is_sound_while_it_is_written(trail: Trail) -> None:
    async with writing(trail):
        for _ in range(5):
            report = await trail.report()
            assert {"open", "unchecked"} >= {finding.kind for finding in report.findings}
            assert report.writers == 2
    assert set() == await trail.alarms()


ROW: Final = "writer = $1 AND sequence = 9"
TAMPERING: Final = {
    "a row is deleted": ([f"DELETE FROM authmw_audit_entries WHERE {ROW}"], {"missing"}),
    "rows are renumbered": (
        ["UPDATE authmw_audit_entries SET sequence = sequence + 1000 WHERE writer = $1 AND sequence >= 9"],
        {"missing", "edited"},
    ),
    "a row is deleted, and those behind it take its place": (
        [
            f"DELETE FROM authmw_audit_entries WHERE {ROW}",
            "UPDATE authmw_audit_entries SET sequence = sequence + 999999 WHERE writer = $1 AND sequence > 9",
            "UPDATE authmw_audit_entries SET sequence = sequence - 1000000 WHERE writer = $1 AND sequence > 999999",
        ],
        {"edited"},
    ),
    "what a row says is edited": (
        [f"UPDATE authmw_audit_entries SET sealed = replace(sealed, '\"allowed\"', '\"denied\"') WHERE {ROW}"],
        {"edited"},
    ),
    "a row's hash is edited": ([f"UPDATE authmw_audit_entries SET hash = repeat('a', 64) WHERE {ROW}"], {"edited"}),
    "what two rows say is swapped": (
        [
            """
            UPDATE authmw_audit_entries AS e SET sealed = o.sealed, hash = o.hash, person = o.person FROM authmw_audit_entries AS o
            WHERE e.writer = $1 AND o.writer = $1 AND (e.sequence, o.sequence) IN ((9, 10), (10, 9))
            """
        ],
        {"edited"},
    ),
    "two rows are swapped": (
        [
            "ALTER TABLE authmw_audit_entries ALTER position SET GENERATED BY DEFAULT",
            f"UPDATE authmw_audit_entries SET position = -1 WHERE {ROW}",
        ],
        {"missing", "moved"},
    ),
    "whom a row names is edited": (
        [f"UPDATE authmw_audit_entries SET person = replace(person, 'ada', 'eve') WHERE {ROW}"],
        {"person_altered"},
    ),
    "the text of a row is none of ours": ([f"UPDATE authmw_audit_entries SET sealed = E'\\n\"}}' WHERE {ROW}"], {"foreign", "missing"}),
    "a row has a number that no entry has": ([f"UPDATE authmw_audit_entries SET sequence = -9 WHERE {ROW}"], {"foreign", "missing"}),
    "a writer's rows are given to another one": (
        ["UPDATE authmw_audit_entries SET writer = repeat('f', 16) WHERE writer = $1"],
        {"edited", "unsigned", "missing"},
    ),
    "all rows of a writer are deleted": (["DELETE FROM authmw_audit_entries WHERE writer = $1"], {"missing"}),
}


@pytest.mark.parametrize("what", TAMPERING)
async def test_who_changes_rows_while_they_are_written_is_found(trail: Trail, what: str) -> None:
    statements, expected = TAMPERING[what]
    async with writing(trail):
        async with trail.sql.transaction():
            for statement in statements:
                await trail.sql.execute(statement, *([trail.writers[0]] if "$1" in statement else []))
        assert await trail.alarms()
    assert expected <= await trail.alarms()


async def test_a_chain_that_somebody_else_has_written_is_found(trail: Trail, backend: PostgresBackend) -> None:
    async with writing(trail):
        forged = Chain()
        await backend.audit.append([*forged.link_all([fake_record()] * 3), forged.checkpoint("closed")])
    assert {"unsigned"} == await trail.alarms()


async def test_the_newest_rows_that_are_cut_off_are_found_through_an_anchor_only(trail: Trail) -> None:
    async with writing(trail):
        pass
    assert set() == await trail.alarms()
    await trail.sql.execute("DELETE FROM authmw_audit_entries WHERE sequence > 20")
    assert {"cut_off"} == await trail.alarms()
    # As the documentation says.
    assert set() == await trail.alarms(anchored=False)


async def test_all_of_a_writer_that_is_cut_out_is_found_through_an_anchor_only(trail: Trail) -> None:
    async with writing(trail):
        pass
    await trail.sql.execute("DELETE FROM authmw_audit_entries WHERE writer = $1", trail.writers[0])
    assert {"cut_off"} == await trail.alarms()
    assert set() == await trail.alarms(anchored=False)


async def test_a_person_who_is_taken_out_by_hand_looks_as_one_that_was_forgotten(trail: Trail) -> None:
    async with writing(trail):
        await trail.sql.execute(f"UPDATE authmw_audit_entries SET person = NULL WHERE {ROW}", trail.writers[0])
    report = await trail.report()
    assert report.sound
    assert 1 == report.forgotten


async def test_who_takes_the_place_of_an_entry_that_is_still_to_come_does_not_make_it_vanish(
    backend: PostgresBackend, other: Connection
) -> None:
    sink = StoreAudit(backend.audit, deadline=30)
    await sink.accept(fake_record(id="0" * 16))
    (head,) = await other.fetch("SELECT writer, sequence, hash FROM authmw_audit_entries ORDER BY position DESC LIMIT 1")
    sealed = Chain().link(fake_record(path="/harmless")).sealed
    for ahead in (1, 2):
        digest = link_hash(bytes.fromhex(head["hash"]), head["writer"].encode(), head["sequence"] + ahead, sealed).hex()
        await other.execute(
            "INSERT INTO authmw_audit_entries (writer, sequence, time, kind, hash, sealed, terms, personal_terms) "
            "VALUES ($1, $2, 1, 'request', $3, $4, '{}', '{}')",
            *(head["writer"], head["sequence"] + ahead, digest, sealed.decode()),
        )
    with pytest.raises(SinkError, match="another entry stands in the place"):
        await sink.accept(fake_record(id="1" * 16))
    # The other place was that of the record that tells of the loss, which is told of once more.
    await sink.accept(fake_record(id="2" * 16))
    await sink.accept(fake_record(id="3" * 16))
    assert 1 == next(one.value for one in sink.readings() if one.name == "audit_records_lost")
    await sink.aclose()
    lines = [entry.line for entry in await sink.search(RecordQuery())]
    assert [False, True, True] == [any(b'"id":"%b"' % (number * 16) in line for line in lines) for number in (b"1", b"2", b"3")]
    assert 1 == sum(b'"kind":"loss"' in line and b'"lost":1' in line for line in lines)
    assert "edited" in {finding.kind for finding in verify(lines).findings}


async def test_what_is_not_in_a_chain_is_not_vouched_for_and_what_is_can_be_searched_all_the_same(
    trail: Trail, tmp_path: Path, postgres_url: str
) -> None:
    # As the documentation says: sums, and what a search goes by.
    async with writing(trail):
        count = await trail.sql.fetchval('SELECT count(*) FROM authmw_audit_entries WHERE sealed LIKE \'%"kind":"request"%\'')
        await trail.sql.execute("UPDATE authmw_usage_sums SET cost = 1, requests = 1")
        await trail.sql.execute("DELETE FROM authmw_audit_terms")
        await trail.sql.execute("UPDATE authmw_audit_entries SET kind = 'checkpoint', tenant = 'nobody', outcome = NULL, time = 1")
    assert set() == await trail.alarms()
    exported = tmp_path / "all.jsonl"
    exported.write_bytes(b"".join(line + b"\n" for line in await trail.lines()))
    by_file = await cli("audit", "export", "--file", str(exported), "--principal", "ada")
    by_terms = await cli("audit", "export", "--store", postgres_url, "--principal", "ada")
    assert count < len(by_file.stdout.splitlines())
    # Only what was written since has its terms.
    assert len(by_terms.stdout.splitlines()) <= len(by_file.stdout.splitlines()) - count


async def cli(*arguments: str) -> "subprocess.CompletedProcess[bytes]":
    return await anyio.run_process([sys.executable, "-m", "llm_authmw.cli", *arguments], check=False)


@pytest.fixture
def auditor_url(postgres_server: PostgresPeer, database: str, sql: Callable[..., list[str]], backend: PostgresBackend) -> Iterator[str]:
    """The URL for a user who may read the trail, and nothing else."""
    sql("CREATE ROLE auditor LOGIN PASSWORD 'a'")
    yield postgres_server.url(database, user="auditor", password="a")
    sql("DROP OWNED BY auditor", "DROP ROLE auditor")


async def test_who_may_only_read_the_trail_searches_and_verifies_it(
    trail: Trail, auditor_url: str, sql: Callable[..., list[str]], tmp_path: Path
) -> None:
    (tmp_path / "audit.pub").write_text(KEY.public_pem)
    tables = "authmw_form, authmw_audit_entries, authmw_audit_terms, authmw_usage_sums"
    sql(f"GRANT SELECT ON {tables} TO auditor")
    async with writing(trail):
        (tmp_path / "anchors").write_bytes(b"".join(anchor.line + b"\n" for anchor in trail.anchors))
        where = ("--store", auditor_url)
        verified = await cli("audit", "verify", *where, "--key", str(tmp_path / "audit.pub"), "--anchors", str(tmp_path / "anchors"))
        assert (0, b"") == (verified.returncode, verified.stderr)
        assert b"as they were written" in verified.stdout
        found = await cli("audit", "search", *where, "--principal", "ada", "--json")
        assert 2 * FEW <= len(found.stdout.splitlines())
        assert 0 == (await cli("usage", *where)).returncode
        for arguments in (("forget", "ada"), ("prune", "--keep", "1d")):
            refused = await cli("audit", *arguments, *where)
            assert 0 != refused.returncode
            assert b"does not allow this user to do that" in refused.stderr
    reader = open_store(auditor_url)
    assert await reader.audit.search(RecordQuery(principal="ada", limit=5))
    with pytest.raises(StoreError):
        await reader.audit.forget("default", "ada")
    await reader.aclose()
    assert set() == await trail.alarms()
    assert 0 == (await trail.report()).forgotten
