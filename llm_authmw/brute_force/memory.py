"""What one process remembers of guesses: who is locked out, and which credentials were good. Bounded, and without a credential.

One memory belongs to one ledger, whose layers share it: a layer keeps no state, and some frameworks build a hundred of each.
"""

import hmac
import itertools
import math
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Final, NamedTuple
from weakref import WeakKeyDictionary

from llm_authmw.brute_force.alarms import Alarms
from llm_authmw.brute_force.gate import Gate
from llm_authmw.brute_force.presented import Presented
from llm_authmw.brute_force.waits import ADDRESS, STOPPING, Refused, Subject
from llm_authmw.clock import Clock
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.stores.memory.ledger import MemoryLedger

MAX_NETWORKS: Final = 8192
"""Networks whose lockouts are remembered; of one that was forgotten the next failure tells again."""
MAX_LOCKS: Final = 16
"""Lockouts of single credentials that are remembered of one network."""
MAX_PROVEN: Final = 16_384
"""Credentials that are remembered as good, each with the network that it came from."""
MAX_QUIET: Final = 4096
"""Subjects that are remembered as told of."""
MAX_WATCHED: Final = 16_384
"""Networks that are remembered as having been locked out."""
WATCHED: Final = 86_400.0
"""Seconds for which a network is watched after its lockout: as long as the longest limit gives back what was counted."""
RENEWED: Final = 60.0
"""Seconds after which what is remembered of a good credential is renewed by its use."""


class Lock(NamedTuple):
    """A lockout that this process has heard of.

    Attributes:
        ends: When it ends, by the monotonic clock.
        refused: What was refused.
    """

    ends: float
    refused: Refused


class _Proven(NamedTuple):
    digest: bytes
    renewed: float
    ends: float


class Memory:
    """What one process remembers beside one ledger.

    Args:
        clock: Gives the time.

    Attributes:
        locked: The lockouts, by network and then by credential; the network's own has an empty one.
        gate: How many are judged at once.
        alarms: What is told of.
        fallback: Counts while the ledger does not answer.
    """

    def __init__(self, clock: Clock) -> None:
        self.locked: Final[dict[str, dict[str, Lock]]] = {}
        self.gate: Final = Gate()
        self.alarms: Final = Alarms(clock)
        self.fallback: Final = LedgerHandle(MemoryLedger(clock=clock), deadline=None, clock=clock)
        self._monotonic: Final = clock.monotonic
        self._proven: Final[dict[tuple[int, str], _Proven]] = {}
        self._quiet: Final[dict[Subject, float]] = {}
        self._watched: Final[dict[str, float]] = {}
        # So that whoever reads this memory can neither use what is in it, nor try texts against it elsewhere.
        self._key: Final = secrets.token_bytes(32)

    def __repr__(self) -> str:
        return f"Memory(locked={len(self.locked)}, proven={len(self._proven)})"

    def passes(self, quick: int, network: str) -> bool:
        """Say whether there is nothing to find out where nobody is locked out: what is presented looks like what was good lately."""
        proven = self._proven.get((quick, network))
        return proven is not None and self._monotonic() < proven.renewed

    def proven(self, presented: Presented, network: str) -> bool:
        """Say whether this very credential was good lately, from that network."""
        known = self._proven.get((presented.quick, network))
        if known is None or self._monotonic() >= known.ends:
            return False
        return hmac.compare_digest(known.digest, presented.digest(self._key, network))

    def prove(self, presented: Presented, network: str, seconds: float) -> None:
        """Remember that a credential was good."""
        if not presented.known:
            return
        now = self._monotonic()
        if len(self._proven) >= MAX_PROVEN:
            # Several at once, since finding the oldest one passes over the places of those that went before.
            for old in list(itertools.islice(self._proven, MAX_PROVEN // 64)):
                del self._proven[old]
        renewed = now + min(RENEWED, seconds / 2)
        key = presented.quick, network
        # Taken out first, so that it is the youngest again.
        self._proven.pop(key, None)
        self._proven[key] = _Proven(presented.digest(self._key, network), renewed, now + seconds)

    def disprove(self, presented: Presented, network: str) -> None:
        """Forget a credential that is no good any more."""
        self._proven.pop((presented.quick, network), None)

    def locked_in(self, network: str) -> dict[str, Lock] | None:
        """Return the lockouts of a network that have not ended; forget the others."""
        there = self.locked.get(network)
        if there is None:
            return None
        now = self._monotonic()
        for lock in there.values():
            if lock.ends <= now:
                break
        else:
            return there
        for credential in [credential for credential, lock in there.items() if lock.ends <= now]:
            del there[credential]
        if not there:
            del self.locked[network]
        return there or None

    def lock_of(self, presented: Presented, network: str) -> Lock | None:
        """Return the lockout that a credential from there falls under, the one that ends last; None where there is none."""
        there = self.locked_in(network)
        return None if there is None else self.lock_among(there, presented)

    def lock_among(self, there: Mapping[str, Lock], presented: Presented) -> Lock | None:
        """Return the one of several lockouts of a network that a credential falls under."""
        of_all = there.get("")
        if of_all is not None and len(there) == 1:
            return of_all
        # What it is called takes a digest, or a checksum, to find out.
        of_one = there.get(presented.name)
        if of_all is None or of_one is None:
            return of_all or of_one
        return of_one if of_one.ends > of_all.ends else of_all

    def at_once(self, network: str, usual: int) -> int:
        """Return how many of a network are judged at once.

        That is one where there was a lockout: what ends lets one more failure in, and all that came at that moment would be judged else.
        """
        return 1 if self._monotonic() < self._watched.get(network, -math.inf) else usual

    def silent(self, subject: Subject) -> bool:
        """Say whether counting for this subject would say nothing new, since it is known to have reached its limit."""
        return self._monotonic() < self._quiet.get(subject, -math.inf)

    def learn(self, refused: Refused, network: str, credential: str) -> Lock:
        """Remember that there were too many failures; return until when."""
        lock = Lock(self._monotonic() + refused.wait, refused)
        dimension = refused.subject.dimension
        if dimension not in STOPPING:
            if len(self._quiet) >= MAX_QUIET:
                self._quiet.clear()
            self._quiet[refused.subject] = lock.ends
            return lock
        self._watch(network, lock.ends + WATCHED)
        there = self.locked.get(network)
        if there is None:
            if len(self.locked) >= MAX_NETWORKS:
                self._make_room()
            there = self.locked[network] = {}
        name = "" if dimension == ADDRESS else credential
        if name and name not in there and len(there) >= MAX_LOCKS:
            del there[next(one for one in there if one)]
        there[name] = lock
        return lock

    def _watch(self, network: str, until: float) -> None:
        if len(self._watched) >= MAX_WATCHED:
            # Those that were locked out longest ago.
            for old in list(itertools.islice(self._watched, MAX_WATCHED // 64)):
                del self._watched[old]
        self._watched.pop(network, None)
        self._watched[network] = until

    def _make_room(self) -> None:
        now = self._monotonic()
        for network in [network for network, there in self.locked.items() if all(lock.ends <= now for lock in there.values())]:
            del self.locked[network]
        for network in list(itertools.islice(self.locked, max(0, len(self.locked) - MAX_NETWORKS * 63 // 64))):
            del self.locked[network]


_memories: Final[MutableMapping[LedgerService, Memory]] = WeakKeyDictionary()


def memory_of(ledger: LedgerService) -> Memory:
    """Return what this process remembers beside a ledger: one memory for all layers that count in it."""
    memory = _memories.get(ledger)
    if memory is None:
        memory = _memories[ledger] = Memory(ledger.clock)
    return memory
