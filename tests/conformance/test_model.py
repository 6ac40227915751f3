"""Every store against one plain model: whatever is done to both in whatever order, they answer alike."""

import asyncio
import itertools
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from llm_authmw.accounts.protocols import AccountQuery
from llm_authmw.accounts.records import AccountRecord, AccountRef, AccountStatus
from llm_authmw.changes import Changes
from llm_authmw.errors import ConflictError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest
from llm_authmw.keys.protocols import IDEMPOTENCY_TTL, Idempotency, KeyQuery, KeyUse, Replay
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.quota import Budget, Limit
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.stores.store import Backend
from llm_authmw.testing import ManualClock

if TYPE_CHECKING:
    from tests.peers.postgres import PostgresPeer

T = TypeVar("T")

START = 1_000.0
IDS = ["k1", "k2", "k3"]
REFS = [AccountRef("t1", "team", "", "Blue"), AccountRef("t2", "user", "keys", "ada")]

tenants = st.sampled_from(["t1", "t2"])
moments = st.sampled_from([START - 1, START, START + 0.1, START + 50]) | st.floats(0, 1e10)
texts = st.sampled_from(["Blue", "BLUE job", "%", "ß"]) | st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=8)
tuples = st.lists(texts, max_size=2, unique=True).map(tuple)
fields = st.fixed_dictionaries(
    {},
    optional={
        "name": st.none() | texts,
        "user": st.none() | texts,
        "team": st.none() | texts,
        "roles": tuples,
        "models": st.none() | tuples,
        "networks": st.none() | tuples,
        "tags": tuples,
        "limits": st.sampled_from([(), (Limit.parse("5 requests/day, calendar"), Limit.parse("4 concurrent"))]),
        "budgets": st.sampled_from([(), (Budget.parse("0.000000001 usd"),)]),
        "metadata": st.dictionaries(texts, texts, max_size=2),
        "not_before": st.none() | moments,
        "expires_at": st.none() | moments,
        "status": st.sampled_from(["active", "blocked", "revoked"]),
        "last_used_at": st.none() | moments,
    },
)
digests = st.sampled_from([Digest(bytes([number]) * 32, "sha256", 0) for number in range(4)])
secrets = st.builds(KeySecret, digest=digests, created_at=moments, not_after=st.none() | moments, imported=st.booleans())
secret_lists = st.lists(secrets, max_size=3, unique_by=lambda secret: secret.digest).map(tuple)
wishes = st.none() | st.builds(Idempotency, tenants, st.just("create"), st.sampled_from(["i1", "i2"]), st.sampled_from(["f1", "f2"]))
entries = st.builds(HistoryEntry, at=moments, action=texts, actor=texts, changes=st.dictionaries(texts, st.none() | texts, max_size=2))
searches = st.sampled_from(["blu", "B", "K", "k1", "%", "SS", "_"]) | texts
states = st.sampled_from(["active", "blocked", "revoked", "expired", "not yet valid"])
queries = st.builds(
    KeyQuery,
    now=moments,
    tenant=st.none() | tenants,
    user=st.none() | texts,
    team=st.none() | texts,
    tag=st.none() | texts,
    state=st.none() | states,
    unused_since=st.none() | moments,
    search=st.none() | searches,
    org=st.none(),
    after=st.none(),
    size=st.integers(1, 3),
)
account_queries = st.builds(
    AccountQuery,
    tenant=st.none() | tenants,
    kind=st.none() | st.sampled_from(["team", "user"]),
    status=st.none() | st.sampled_from(["active", "blocked"]),
    search=st.none() | searches,
    after=st.none(),
    size=st.integers(1, 2),
)


class Model:
    """What a store is to do, in the plainest words."""

    def __init__(self) -> None:
        self.keys: dict[str, StoredKey] = {}
        self.key_history: dict[str, tuple[HistoryEntry, ...]] = {}
        self.accounts: dict[AccountRef, AccountRecord] = {}
        self.account_history: dict[AccountRef, tuple[HistoryEntry, ...]] = {}
        self.answers: list[tuple[Idempotency, Replay, float]] = []
        self.newer: dict[tuple[str, Digest], Digest] = {}
        self.log: list[str | None] = []

    def replayed(self, wish: Idempotency, now: float) -> Replay | None:
        found = [replay for known, replay, at in self.answers if known[:3] == wish[:3] and now - at < IDEMPOTENCY_TTL]
        return found[-1] if found else None

    def owner_of(self, digest: bytes) -> str | None:
        for key_id, stored in self.keys.items():
            if any(secret.imported and secret.digest.value == digest for secret in stored.secrets):
                return key_id
        return None

    def write(self, stored: StoredKey, entry: HistoryEntry, wish: Idempotency | None, now: float) -> Replay | bool | type[ConflictError]:
        record, key_id = stored.record, stored.record.id
        replay = None if wish is None else self.replayed(wish, now)
        if replay is not None:
            return replay
        present = self.keys.get(key_id)
        if record.revision == 1 and present is not None:
            return ConflictError
        if record.revision > 1 and (
            present is None or (present.record.tenant, present.record.revision + 1) != (record.tenant, record.revision)
        ):
            return False
        if any(secret.imported and self.owner_of(secret.digest.value) not in (None, key_id) for secret in stored.secrets):
            return ConflictError
        uses = [at for at in (record.last_used_at, None if present is None else present.record.last_used_at) if at is not None]
        self.keys[key_id] = StoredKey(
            record=msgspec.structs.replace(record, last_used_at=max(uses, default=None)),
            secrets=tuple(
                secret
                if secret.imported
                else msgspec.structs.replace(secret, digest=self.newer.get((key_id, secret.digest), secret.digest))
                for secret in stored.secrets
            ),
        )
        self.newer = {pair: digest for pair, digest in self.newer.items() if pair[0] != key_id}
        self.key_history[key_id] = (*self.key_history.get(key_id, ()), entry)
        if wish is not None:
            self.answers.append((wish, Replay(key_id, wish.fingerprint), now))
        self.log.append(key_id)
        return True

    def touch(self, use: KeyUse) -> None:
        stored = self.keys.get(use.key_id)
        if stored is None:
            return
        secrets = stored.secrets
        if use.rehash is not None:
            old, new = use.rehash
            hit = [secret.digest == old and not secret.imported for secret in secrets]
            secrets = tuple(
                msgspec.structs.replace(secret, digest=new) if is_hit else secret for secret, is_hit in zip(secrets, hit, strict=True)
            )
            if any(hit):
                self.newer = {pair: digest for pair, digest in self.newer.items() if pair[0] != use.key_id or digest != old}
                self.newer[use.key_id, old] = new
        used = max(use.at, stored.record.last_used_at if stored.record.last_used_at is not None else use.at)
        self.keys[use.key_id] = StoredKey(record=msgspec.structs.replace(stored.record, last_used_at=used), secrets=secrets)

    def query(self, query: KeyQuery) -> list[KeyRecord]:
        def right(record: KeyRecord) -> bool:
            sought = None if query.search is None else query.search.casefold()
            return all(
                (
                    query.tenant is None or record.tenant == query.tenant,
                    query.user is None or record.user == query.user,
                    query.team is None or record.team == query.team,
                    query.tag is None or query.tag in record.tags,
                    query.state is None or record.state(query.now) == query.state,
                    query.unused_since is None or record.created_at <= query.unused_since,
                    query.unused_since is None or record.last_used_at is None or record.last_used_at < query.unused_since,
                    sought is None or record.id.startswith(sought) or (record.name is not None and sought in record.name.casefold()),
                )
            )

        found = [stored.record for stored in self.keys.values() if right(stored.record)]
        return sorted(found, key=lambda record: (-record.created_at, [-ord(letter) for letter in record.id]))

    def write_account(self, record: AccountRecord, entry: HistoryEntry) -> bool:
        present = self.accounts.get(record.ref)
        if record.revision != (0 if present is None else present.revision) + 1:
            return False
        self.accounts[record.ref] = record
        self.account_history[record.ref] = (*self.account_history.get(record.ref, ()), entry)
        self.log.append(None)
        return True

    def query_accounts(self, query: AccountQuery) -> list[AccountRecord]:
        return [
            record
            for ref, record in sorted(self.accounts.items())
            if query.tenant in (None, ref.tenant)
            and query.kind in (None, ref.kind)
            and query.status in (None, record.status)
            and (query.search is None or query.search.casefold() in ref.name.casefold())
        ]


class StoreMachine(RuleBasedStateMachine):
    snapshots: Bundle[StoredKey] = Bundle("snapshots")
    cursors: Bundle[tuple[int, int]] = Bundle("cursors")

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.clock = ManualClock(START)
        self.model = Model()
        self.backend = self.make()
        self.fresh = (Digest(number.to_bytes(32, "big"), "hmac-sha256", 1) for number in itertools.count(1))

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

    def write(self, stored: StoredKey, entry: HistoryEntry, wish: Idempotency | None) -> None:
        outcome: Replay | bool | type[ConflictError]
        try:
            outcome = self.run(self.backend.keys.write(stored, entry, wish))
        except ConflictError:
            outcome = ConflictError
        assert self.model.write(stored, entry, wish, self.clock.now()) == outcome

    @rule(key_id=st.sampled_from(IDS), tenant=tenants, values=fields, created=moments, secrets=secret_lists, entry=entries, wish=wishes)
    def create(
        self, key_id: str, tenant: str, values: dict[str, Any], created: float, secrets: tuple[KeySecret, ...], entry: HistoryEntry,
        wish: Idempotency | None,
    ) -> None:  # fmt: skip
        record = KeyRecord(id=key_id, tenant=tenant, last_four="last", created_at=created, **values)
        self.write(StoredKey(record=record, secrets=secrets), entry, wish)

    @rule(target=snapshots, key_id=st.sampled_from(IDS))
    def read(self, key_id: str) -> MultipleResults[StoredKey]:
        stored = self.run(self.backend.keys.find(key_id))
        found = [] if stored is None else [stored]
        return multiple(*found)

    @rule(snapshot=snapshots, values=fields, added=secret_lists, kept=st.integers(0, 3), entry=entries, wish=wishes)
    def replace(
        self,
        snapshot: StoredKey,
        values: dict[str, Any],
        added: tuple[KeySecret, ...],
        kept: int,
        entry: HistoryEntry,
        wish: Idempotency | None,
    ) -> None:
        record = msgspec.structs.replace(snapshot.record, revision=snapshot.record.revision + 1, **values)
        left = snapshot.secrets[:kept]
        added = tuple(secret for secret in added if all(secret.digest.value != other.digest.value for other in left))
        self.write(StoredKey(record=record, secrets=(*added, *left)), entry, wish)

    @rule(ids=st.lists(st.sampled_from([*IDS, "nobody"]), max_size=3), at=moments, old=st.none() | digests, entry=entries)
    def touch(self, ids: list[str], at: float, old: Digest | None, entry: HistoryEntry) -> None:
        uses = [KeyUse(key_id, at, None if old is None else (old, next(self.fresh))) for key_id in ids]
        self.run(self.backend.keys.touch(uses))
        for use in uses:
            self.model.touch(use)

    @rule(snapshot=snapshots, at=moments)
    def rehash(self, snapshot: StoredKey, at: float) -> None:
        for secret in snapshot.secrets:
            use = KeyUse(snapshot.record.id, at, (secret.digest, next(self.fresh)))
            self.run(self.backend.keys.touch([use]))
            self.model.touch(use)

    @rule(query=queries)
    def list_keys(self, query: KeyQuery) -> None:
        found: list[KeyRecord] = []
        while len(found) <= len(IDS):
            page = self.run(self.backend.keys.query(query))
            found += page.keys
            if page.next is None:
                break
            assert query.size == len(page.keys)
            query = query._replace(after=page.next)
        assert self.model.query(query) == found

    @rule(ref=st.sampled_from(REFS), revision=st.integers(1, 4), values=fields, created=moments, entry=entries)
    def write_account(self, ref: AccountRef, revision: int, values: dict[str, Any], created: float, entry: HistoryEntry) -> None:
        kept = {name: values[name] for name in ("limits", "budgets", "models", "roles", "metadata") if name in values}
        status: AccountStatus = "active" if values.get("status", "active") == "active" else "blocked"
        record = AccountRecord(**ref._asdict(), **kept, status=status, created_at=created, revision=revision)
        assert self.model.write_account(record, entry) == self.run(self.backend.accounts.write(record, entry))

    @rule(query=account_queries)
    def list_accounts(self, query: AccountQuery) -> None:
        found: list[AccountRecord] = []
        while len(found) <= len(REFS):
            page = self.run(self.backend.accounts.query(query))
            found += page.accounts
            if page.next is None:
                break
            query = query._replace(after=page.next)
        assert self.model.query_accounts(query) == found

    @rule(target=cursors, cursor=cursors)
    def follow(self, cursor: tuple[int, int]) -> tuple[int, int]:
        since, seen = cursor
        changes = self.run(self.backend.feed.changes(since))
        missed = self.model.log[seen:]
        keys = frozenset(key_id for key_id in missed if key_id is not None)
        assert Changes(cursor=changes.cursor, keys=keys, accounts=None in missed) == changes
        return changes.cursor, len(self.model.log)

    @rule(wish=wishes.filter(bool))
    def replayed(self, wish: Idempotency) -> None:
        assert self.model.replayed(wish, self.clock.now()) == self.run(self.backend.keys.replayed(wish))

    @rule(seconds=st.sampled_from([0.5, IDEMPOTENCY_TTL - 1, IDEMPOTENCY_TTL]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def close(self) -> None:
        self.run(self.backend.aclose())

    @invariant()
    def everything_is_found_as_the_model_has_it(self) -> None:
        self.run(self.compare())

    async def compare(self) -> None:
        for key_id in IDS:
            assert self.model.keys.get(key_id) == await self.backend.keys.find(key_id)
            assert self.model.key_history.get(key_id, ()) == await self.backend.keys.history(key_id)
        for ref in REFS:
            assert self.model.accounts.get(ref) == await self.backend.accounts.find(ref)
            assert self.model.account_history.get(ref, ()) == await self.backend.accounts.history(ref)
        for number in range(4):
            digest = bytes([number]) * 32
            owner = self.model.owner_of(digest)
            assert (None if owner is None else self.model.keys[owner]) == await self.backend.keys.find_imported(digest)


class MemoryMachine(StoreMachine):
    def make(self) -> Backend:
        return MemoryBackend(clock=self.clock)


class SQLiteMachine(StoreMachine):
    def make(self) -> Backend:
        return SQLiteBackend(str(Path(self.directory.name) / "store.db"), clock=self.clock)


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=100, stateful_step_count=25, deadline=None, database=None)
TestSQLite = SQLiteMachine.TestCase
TestSQLite.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, database=None)


def test_postgresql_answers_as_the_model_does(postgres_server: "PostgresPeer", postgres_url: str) -> None:
    from llm_authmw.stores.postgres import PostgresBackend  # noqa: PLC0415 - imports asyncpg

    class PostgresMachine(StoreMachine):
        def make(self) -> Backend:
            postgres_server.execute("DROP SCHEMA public CASCADE", "CREATE SCHEMA public", database=postgres_url.rpartition("/")[2])
            return PostgresBackend(postgres_url, clock=self.clock)

    run_state_machine_as_test(PostgresMachine, settings=settings(max_examples=20, stateful_step_count=20, deadline=None, database=None))
