"""One request's attempt to get in, as its authentication layers tell of it."""

import hashlib
from typing import Any, Final, NamedTuple

from llm_authmw.brute_force.counting import Counting
from llm_authmw.brute_force.failures import Failure, failure_of
from llm_authmw.brute_force.gate import Place
from llm_authmw.brute_force.memory import Lock, Memory
from llm_authmw.brute_force.networks import UNKNOWN, Networks
from llm_authmw.brute_force.presented import Presented, presented_to, quick_of
from llm_authmw.brute_force.waits import ADDRESS, CALLER, CREDENTIAL, CREDENTIAL_THERE, GLOBAL, STOPPING, Refused, Subject
from llm_authmw.clock import Clock
from llm_authmw.context import RequestContext
from llm_authmw.errors import Denial
from llm_authmw.names import name_problem
from llm_authmw.principal import Principal

_LONGEST: Final = 1024
_TRY_AGAIN: Final = 1.0
"""Seconds after which whoever found no place to be judged may try again."""
_ESCAPED: Final = str.maketrans({"%": "%25", "/": "%2F"})


class Defence(NamedTuple):
    """What all attempts at one layer have in common.

    Attributes:
        layer: The layer's name.
        networks: Which network a request comes from.
        counting: Counts failures.
        memory: What this process remembers.
        remembered: Seconds for which a good credential is remembered.
        at_once: How many of one network are judged at once.
        clock: Gives the time.
    """

    layer: str
    networks: Networks
    counting: Counting
    memory: Memory
    remembered: float
    at_once: int
    clock: Clock


class Attempt:
    """See `llm_authmw.context.Attempt`: told before a run of layers judges, when it has denied, and when it lets the request in.

    Args:
        defence: What all of them have in common.
    """

    __slots__ = ("_defence", "_network", "_place", "_presented")

    def __init__(self, defence: Defence) -> None:
        self._defence: Final = defence
        self._network: str | None = None
        self._presented: Presented | None = None
        self._place: Place | None = None

    def __repr__(self) -> str:
        return f"Attempt(network={self._network!r})"

    async def begin(self, scope: Any, context: RequestContext, run: Any) -> Denial | None:
        """Return why what is presented is not judged at all, or None."""
        defence = self._defence
        self.leave()
        self._presented = None
        network = self._network = defence.networks.of(scope, context)
        if network is None:
            return None
        memory = defence.memory
        if network is UNKNOWN:
            memory.alarms.look_at(scope)
        credential = run.credential
        there = memory.locked_in(network)
        if there is None and credential is not None and memory.passes(quick_of(credential.token, run.entrance.run_name), network):
            return None
        presented = self._presented = presented_to(scope, run)
        if presented is None or memory.proven(presented, network):
            # Who presents nothing guesses nothing. Who has shown before that it holds a good one is let be by what others do.
            return None
        lock = None if there is None else memory.lock_among(there, presented)
        if lock is None:
            self._place = await memory.gate.enter(network, memory.at_once(network, defence.at_once))
            # Those who were judged meanwhile may have been wrong too often.
            lock = memory.lock_of(presented, network)
            if lock is None and self._place is None:
                return Denial("concurrency_limited", layer=defence.layer, retry_after=_TRY_AGAIN)
        if lock is None:
            return None
        self.leave()
        return self._locked(lock)

    async def failed(self, scope: Any, context: RequestContext, run: Any, denial: Denial) -> Denial:
        """Count a denial that is a failure; return what the client is answered: the denial, or that there were too many."""
        network, failure = self._network, failure_of(denial)
        if network is None or failure is None:
            self.leave()
            return denial
        try:
            presented = self._presented or presented_to(scope, run)
            if presented is None:
                return denial
            return await self._count(presented, network, failure, denial, context, run.proven) or denial
        finally:
            self.leave()

    def succeeded(self, context: RequestContext) -> None:
        """Remember what was good, before the app runs."""
        presented, network = self._presented, self._network
        if presented is None or network is None:
            return
        self.leave()
        if context.principal.is_authenticated:
            self._defence.memory.prove(presented, network, self._defence.remembered)
        self._presented = None

    def leave(self) -> None:
        """Let the next one be judged."""
        place, self._place = self._place, None
        if place is not None:
            self._defence.memory.gate.leave(place)

    async def _count(
        self, presented: Presented, network: str, failure: Failure, denial: Denial, context: RequestContext, whose: Principal | None
    ) -> Denial | None:
        memory = self._defence.memory
        # What was good there lately is over now, as an opaque token that has expired: its provider says no more than that it is none.
        genuine = failure.genuine or (not failure.beside and memory.proven(presented, network))
        memory.disprove(presented, network)
        subjects = [Subject(CREDENTIAL_THERE, f"{network}+{presented.name}")]
        telling: list[Subject] = []
        if not genuine:
            # Not for a genuine one: a network full of people has one of theirs end every minute, and each is tried once more.
            subjects.append(Subject(ADDRESS, network))
            telling.append(Subject(GLOBAL, ""))
            # Of an id that nobody has, too: else the time that counting takes would tell which ids there are.
            guessed_at = denial.credential_id or presented.claimed_id
            if failure.names and guessed_at is not None and name_problem(guessed_at) is None:
                telling.append(Subject(CREDENTIAL, guessed_at))
        elif whose is not None:
            telling.append(Subject(CALLER, _name_of(whose)))
        subjects += [subject for subject in telling if not memory.silent(subject)]
        refused = await self._defence.counting.count(subjects, context)
        locks: list[Lock] = []
        for one in refused:
            lock = memory.learn(one, network, presented.name)
            if one.subject.dimension in STOPPING:
                locks.append(lock)
            if one.lasting:
                memory.alarms.tell(one)
        # That a credential is guessed at from elsewhere is no reason to answer otherwise: it would tell whether there is such a one.
        return self._locked(max(locks, key=_ends)) if locks else None

    def _locked(self, lock: Lock) -> Denial:
        refused: Refused = lock.refused
        return Denial(
            "locked_out" if refused.lasting else "too_many_failures",
            layer=self._defence.layer,
            rule=refused.rule,
            retry_after=max(0.0, lock.ends - self._defence.clock.monotonic()),
        )


def _name_of(caller: Principal) -> str:
    name = "/".join(part.translate(_ESCAPED) for part in (caller.tenant, caller.realm, caller.subject))
    # A bucket's name has an end, and an escaped one may be three times as long as what it stands for.
    return name if len(name) <= _LONGEST else f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


def _ends(lock: Lock) -> float:
    return lock.ends
