"""What a store must be able to do with keys. `tests/conformance/` says it in full; each method is atomic."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from llm_authmw.errors import InvalidValueError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.hashing import Digest
from llm_authmw.keys.known import KnownKey
from llm_authmw.keys.records import KeyRecord, KeyState, StoredKey
from llm_authmw.names import name_problem
from llm_authmw.resource import Resource

IDEMPOTENCY_TTL = 86_400.0
"""Seconds for which a store remembers an idempotency key."""


class Idempotency(NamedTuple):
    """A caller's wish that repeating a call changes nothing.

    Attributes:
        tenant: Whose call it is.
        operation: "create" or "rotate": the same key for two operations is two keys.
        key: What the caller chose.
        fingerprint: A digest of the call's arguments; the same key with other arguments is a mistake.
    """

    tenant: str
    operation: str
    key: str
    fingerprint: str

    @classmethod
    def of(cls, tenant: str, operation: str, key: str | None, arguments: Mapping[str, Any]) -> "Idempotency | None":
        """Return the wish of a caller who gave an idempotency key, else None.

        Raises:
            InvalidValueError: the key is no usable name.
        """
        if key is None:
            return None
        problem = name_problem(key)
        if problem is not None:
            raise InvalidValueError(f"the idempotency key {problem}")
        return cls(tenant, operation, key, hashlib.sha256(msgspec.json.encode(arguments, order="sorted")).hexdigest())


class Replay(NamedTuple):
    """An answer to an idempotency key that was used before: nothing was written."""

    key_id: str
    fingerprint: str


class KeyUse(NamedTuple):
    """That a key was used.

    Attributes:
        key_id: The key.
        at: Seconds since 1970.
        rehash: The digest that verified, and what is to be kept in its place (a newer pepper), if anything.
    """

    key_id: str
    at: float
    rehash: tuple[Digest, Digest] | None = None


class KeyQuery(NamedTuple):
    """Which keys to list; every filter that is given must hold. Newest first.

    Attributes:
        state: The state at `now`.
        unused_since: Keys that were not used since this moment, nor created after it.
        search: A part of the name or the beginning of the id, letter case ignored.
        after: The cursor of the page before.
        size: Keys in a page, 1 to 1000.
        now: The moment that states are judged at, seconds since 1970.
    """

    now: float
    tenant: str | None = None
    user: str | None = None
    team: str | None = None
    org: str | None = None
    tag: str | None = None
    state: KeyState | None = None
    unused_since: float | None = None
    search: str | None = None
    after: str | None = None
    size: int = 100


class KeyPage(NamedTuple):
    """One page of a listing; `next` is the cursor of the next one, None on the last."""

    keys: tuple[KeyRecord, ...]
    next: str | None


class KeyReader(Protocol):
    """What verifying needs of a store."""

    async def find(self, key_id: str) -> StoredKey | None:
        """Return the key with this id, of any tenant: the tenant is what authentication finds out.

        Raises:
            StoreError: the store cannot be read.
        """

    async def find_imported(self, digest: bytes) -> StoredKey | None:
        """Return the key that has an imported secret with this SHA-256.

        Raises:
            StoreError: the store cannot be read.
        """

    async def touch(self, uses: Sequence[KeyUse]) -> None:
        """Note when keys were used, never backwards, and replace digests; not a change that others are told of.

        Raises:
            StoreError: the store cannot be written.
        """


class KeyStore(KeyReader, Protocol):
    """What managing needs beyond that."""

    async def write(self, stored: StoredKey, entry: HistoryEntry, idempotency: Idempotency | None) -> Replay | bool:
        """Write a key and append to its history: a new key at revision 1, else one whose stored revision is one less.

        Returns a `Replay` where the idempotency key was used before, and False where somebody else was faster; then nothing
        was written.

        Raises:
            ConflictError: a new key's id, or the digest of its imported secret, is taken.
            StoreError: the store cannot be written; nothing was.
        """
        ...

    async def replayed(self, idempotency: Idempotency) -> Replay | None:
        """Return what was answered to this idempotency key, if it was used within `IDEMPOTENCY_TTL`.

        Raises:
            StoreError: the store cannot be read.
        """

    async def query(self, query: KeyQuery) -> KeyPage:
        """List keys.

        Raises:
            InvalidValueError: the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        ...

    async def history(self, key_id: str) -> tuple[HistoryEntry, ...]:
        """Return the key's history, oldest first; empty where there is no such key.

        Raises:
            StoreError: the store cannot be read.
        """
        ...


class KeyVerification(Protocol):
    """What the layer needs: from a presented text to what is known of it."""

    @property
    def bound(self) -> float | None:
        """Seconds within which a change takes effect here; None where nothing can change."""

    @property
    def resource(self) -> Resource | None:
        """What the app's lifespan starts and closes; None where there is nothing to."""

    def recall(self, presented: bytes) -> KnownKey | None:
        """Return what is known of the text without asking anybody, or None where it must be asked."""

    async def verify(self, presented: bytes, *, imported: bool = False) -> KnownKey:
        """Find out what is known of the text.

        Raises:
            Denial: who would tell is not at hand.
        """
        ...

    def judge(self, known: KnownKey) -> str | None:
        """Return the reason code that refuses the key now, or None."""

    def holds(self, known: KnownKey) -> bool:
        """Say whether what is known still stands; False means that it must be asked again."""
        ...

    def due(self, known: KnownKey) -> float:
        """Return the seconds for which it stands unless something is heard of it before; zero or less where it must be asked."""
        ...


class Keys(Protocol):
    """What `KeyAuthMiddleware(keys=…)` takes: `store.keys`, or `StaticKeys`."""

    @property
    def verifier(self) -> KeyVerification:
        """Who verifies the keys."""
        ...
