"""Revocations in every store against one plain model, as `test_model.py` does it for keys and accounts."""

import asyncio
import itertools
import math
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from llm_authmw.changes import Changes
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.stores.store import Backend
from llm_authmw.testing import ManualClock
from llm_authmw.tokens.revocation_records import KEPT_AFTER_END, Revocation, RevocationKind, RevocationQuery, RevocationRef

if TYPE_CHECKING:
    from tests.peers.postgres import PostgresPeer

T = TypeVar("T")

START = 1_000_000.0

tenants = st.sampled_from(["t1", "t2"])
kinds = st.sampled_from(["token", "subject", "key"])
values = st.sampled_from(["v1", "v2"])
texts = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
queries = st.builds(
    RevocationQuery,
    tenant=st.none() | tenants,
    kind=st.none() | kinds,
    issuer=st.none() | st.sampled_from(["i", "j"]),
    value=st.none() | values,
    lifted=st.booleans(),
    after=st.none(),
    size=st.integers(1, 3),
)


class Model:
    """What a store is to do, in the plainest words."""

    def __init__(self) -> None:
        self.revocations: dict[str, Revocation] = {}
        self.changes = 0

    def kept(self, now: float) -> list[Revocation]:
        """Those that are not forgotten, the newest first."""
        kept = [known for known in self.revocations.values() if known.expires_at is None or known.expires_at > now - KEPT_AFTER_END]
        return sorted(kept, key=lambda known: (known.created_at, known.id), reverse=True)

    def standing(self, now: float) -> dict[RevocationRef, Revocation]:
        return {known.ref: known for known in self.kept(now) if known.lifted_at is None}

    def add(self, added: Revocation, now: float) -> Revocation:
        before = self.standing(now).get(added.ref)
        stands = added
        if before is not None:
            moment, end = before.issued_before, before.expires_at
            if moment is not None and added.issued_before is not None and added.issued_before > moment:
                moment = added.issued_before
            if end is not None and (added.expires_at is None or added.expires_at > end):
                end = added.expires_at
            if (moment, end) == (before.issued_before, before.expires_at):
                return before
            told = {"actor": added.actor, "note": added.note or before.note}
            stands = msgspec.structs.replace(before, issued_before=moment, expires_at=end, **told)
        self.revocations[stands.id] = stands
        self.changes += 1
        return stands

    def lift(self, revocation_id: str, tenant: str | None, actor: str, now: float) -> Revocation | None:
        known = next((known for known in self.kept(now) if known.id == revocation_id), None)
        if known is None or tenant not in (None, known.tenant):
            return None
        if known.lifted_at is None:
            known = self.revocations[revocation_id] = msgspec.structs.replace(known, lifted_at=now, lifted_by=actor)
            self.changes += 1
        return known

    def query(self, query: RevocationQuery, now: float) -> list[Revocation]:
        return [
            known
            for known in self.kept(now)
            if query.tenant in (None, known.tenant)
            and query.kind in (None, known.kind)
            and query.issuer in (None, known.issuer)
            and query.value in (None, known.value)
            and query.lifted is (known.lifted_at is not None)
        ]


class RevocationMachine(RuleBasedStateMachine):
    cursors: Bundle[tuple[int, int]] = Bundle("cursors")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock(START)
        self.model = Model()
        self.backend = self.make()
        self.numbers = itertools.count(1)

    def make(self) -> Backend:
        raise NotImplementedError

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.backend.aclose())
        self.runner.close()
        self.directory.cleanup()

    @initialize(target=cursors)
    def start(self) -> tuple[int, int]:
        return self.run(self.backend.feed.changes(None)).cursor, 0

    @rule(
        tenant=tenants,
        kind=kinds,
        value=values,
        moment=st.floats(0, 1e10),
        end=st.none() | st.floats(-KEPT_AFTER_END, KEPT_AFTER_END),
        actor=texts,
        note=st.none() | texts,
    )
    def add(self, tenant: str, kind: RevocationKind, value: str, moment: float, end: float | None, actor: str, note: str | None) -> None:
        now = self.clock.now()
        added = Revocation(
            id=f"rv-{next(self.numbers)}",
            tenant=tenant,
            kind=kind,
            issuer="i",
            value=value,
            issued_before=moment if kind == "subject" else None,
            expires_at=None if end is None else now + end,
            created_at=now,
            actor=actor,
            note=note,
        )
        assert self.model.add(added, now) == self.run(self.backend.revocations.add(added))

    @rule(number=st.integers(1, 6), tenant=st.none() | tenants, actor=texts)
    def lift(self, number: int, tenant: str | None, actor: str) -> None:
        now = self.clock.now()
        lifted = self.run(self.backend.revocations.lift(f"rv-{number}", tenant=tenant, at=now, actor=actor))
        assert self.model.lift(f"rv-{number}", tenant, actor, now) == lifted

    @rule(query=queries)
    def list_page_by_page(self, query: RevocationQuery) -> None:
        expected = self.model.query(query, self.clock.now())
        found: list[Revocation] = []
        while len(found) <= len(expected):
            page = self.run(self.backend.revocations.query(query))
            found += page.revocations
            if page.next is None:
                break
            assert query.size == len(page.revocations)
            query = query._replace(after=page.next)
        assert expected == found

    @rule(target=cursors, cursor=cursors)
    def follow(self, cursor: tuple[int, int]) -> tuple[int, int]:
        since, seen = cursor
        changes = self.run(self.backend.feed.changes(since))
        assert Changes(cursor=changes.cursor, revocations=self.model.changes > seen) == changes
        return changes.cursor, self.model.changes

    @rule(seconds=st.sampled_from([1.0, KEPT_AFTER_END / 2, KEPT_AFTER_END]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def close(self) -> None:
        self.run(self.backend.aclose())

    @invariant()
    def what_is_live_is_what_stands_in_the_model(self) -> None:
        moments = {ref: known.issued_before for ref, known in self.model.standing(self.clock.now()).items()}
        expected = {ref: math.inf if moment is None else moment for ref, moment in moments.items()}
        assert expected == self.run(self.backend.revocations.live())


class MemoryMachine(RevocationMachine):
    def make(self) -> Backend:
        return MemoryBackend(clock=self.clock)


class SQLiteMachine(RevocationMachine):
    def make(self) -> Backend:
        return SQLiteBackend(str(Path(self.directory.name) / "store.db"), clock=self.clock)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=100, stateful_step_count=25, deadline=None, database=None)
TestSQLite = SQLiteMachine.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, database=None)


def test_postgresql_answers_as_the_model_does(postgres_server: "PostgresPeer", postgres_url: str) -> None:
    from llm_authmw.stores.postgres import PostgresBackend  # noqa: PLC0415 - imports asyncpg

    class PostgresMachine(RevocationMachine):
        def make(self) -> Backend:
            postgres_server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=postgres_url.rpartition("/")[2])
            return PostgresBackend(postgres_url, clock=self.clock)

    run_state_machine_as_test(PostgresMachine, settings=settings(max_examples=20, stateful_step_count=20, deadline=None, database=None))
