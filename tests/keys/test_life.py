"""The life of keys in two processes on one store, beside a model that knows everything at once."""

import asyncio
import contextlib
import math
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule

from llm_authmw.errors import ConflictError
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.hashing import Peppers
from llm_authmw.stores import Store
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.testing import ManualClock

T = TypeVar("T")

BOUND = 1.0
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 30.0, 90.0])


class Key:
    """What the model knows of a key."""

    def __init__(self, team: str, text: str) -> None:
        self.team = team
        self.status = "active"
        self.expires_at = math.inf
        self.ends: dict[str, float] = {text: math.inf}
        self.forgotten: list[str] = []

    def reason(self, text: str, now: float, blocked: set[str]) -> str | None:
        if text not in self.ends:
            return "key_mismatch"
        if self.status != "active":
            return f"key_{self.status}"
        if min(self.expires_at, self.ends[text]) <= now:
            return "key_rotated" if self.ends[text] < self.expires_at else "key_expired"
        return "account_blocked" if self.team in blocked else None


class LifeOfKeys(RuleBasedStateMachine):
    keys = Bundle("keys")

    @initialize(processes=st.just(2))
    def open(self, processes: int) -> None:
        self.runner = asyncio.Runner()
        self.clock = ManualClock()
        backend = MemoryBackend(clock=self.clock)
        self.stores = [
            Store(backend, url="memory://", peppers=Peppers("p" * 32), bound=BOUND, deadline=5.0, clock=self.clock)
            for _ in range(processes)
        ]
        self.model: dict[str, Key] = {}
        self.blocked: set[str] = set()
        # When somebody else last changed something: from then on, a process may be behind for as long as the bound.
        self.behind_since = [-math.inf] * processes

    def teardown(self) -> None:
        if hasattr(self, "runner"):
            self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def act(self, process: int, work: Coroutine[Any, Any, T]) -> T:
        done = self.run(work)
        for other in range(len(self.stores)):
            if other != process:
                self.behind_since[other] = self.clock.monotonic()
        return done

    PROCESS = st.integers(0, 1)

    @rule(target=keys, process=PROCESS, team=st.sampled_from(["blue", "red"]))
    def create(self, process: int, team: str) -> str:
        created = self.act(process, self.stores[process].keys.create(team=team))
        assert created.key is not None
        self.model[created.id] = Key(team, created.key)
        return created.id

    @rule(process=PROCESS, key_id=keys, grace=SECONDS)
    def rotate(self, process: int, key_id: str, grace: float) -> None:
        key, now = self.model[key_id], self.clock.now()
        ends = {text: min(end, now + grace) for text, end in key.ends.items()}
        kept = {text: end for text, end in ends.items() if end > now}
        work = self.stores[process].keys.rotate(key_id, grace=grace)
        if key.status == "revoked" or len(kept) >= 5:
            with pytest.raises(ConflictError):
                self.act(process, work)
            return
        rotated = self.act(process, work)
        assert rotated.key is not None
        key.forgotten += key.ends.keys() - kept.keys()
        key.ends = {**kept, rotated.key: math.inf}

    @rule(process=PROCESS, key_id=keys, verb=st.sampled_from(["block", "unblock", "revoke"]))
    def set_status(self, process: int, key_id: str, verb: str) -> None:
        key = self.model[key_id]
        work = getattr(self.stores[process].keys, verb)(key_id)
        if key.status == "revoked" and verb != "revoke":
            with pytest.raises(ConflictError):
                self.act(process, work)
            return
        self.act(process, work)
        key.status = {"block": "blocked", "unblock": "active", "revoke": "revoked"}[verb]

    @rule(process=PROCESS, key_id=keys, seconds=SECONDS)
    def expire(self, process: int, key_id: str, seconds: float) -> None:
        key, at = self.model[key_id], self.clock.now() + seconds
        work = self.stores[process].keys.expire(key_id, at=at)
        if key.status == "revoked":
            with pytest.raises(ConflictError):
                self.act(process, work)
            return
        self.act(process, work)
        key.expires_at = at

    @rule(process=PROCESS, team=st.sampled_from(["blue", "red"]), blocked=st.booleans())
    def block_a_team(self, process: int, team: str, blocked: bool) -> None:
        accounts = self.stores[process].accounts

        async def change() -> None:
            with contextlib.suppress(ConflictError):
                await accounts.create("team", team)
            await (accounts.block if blocked else accounts.unblock)("team", team)

        self.act(process, change())
        self.blocked = self.blocked | {team} if blocked else self.blocked - {team}

    @rule(seconds=SECONDS)
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(process=PROCESS, key_id=keys)
    def look(self, process: int, key_id: str) -> None:
        """Judge every text that there ever was, from memory if that will do."""
        exact = self.clock.monotonic() - self.behind_since[process] >= BOUND
        key, now = self.model[key_id], self.clock.now()
        for text in [*key.ends, *key.forgotten, mint_key(key_id=key_id).text]:
            reason = self.run(self.judge(process, text))
            assert not exact or key.reason(text, now, self.blocked) == reason

    async def judge(self, process: int, text: str) -> str | None:
        verifier = self.stores[process].keys.verifier
        known = verifier.recall(text.encode())
        if known is None:
            known = await verifier.verify(text.encode())
        return verifier.judge(known)


TestLifeOfKeys = LifeOfKeys.TestCase
TestLifeOfKeys.settings = settings(max_examples=40, stateful_step_count=30)
