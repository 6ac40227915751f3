"""From a presented key to what is known of it, with a cache that never answers from before the store's bound."""

import contextlib
import hmac
import math
from collections.abc import Collection
from typing import Any, Final, Protocol

import anyio
import msgspec

from llm_authmw.accounts.records import AccountRef
from llm_authmw.cache import Cache
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, Denial, StoreError, StoreUnavailableError
from llm_authmw.keys.expiry import ExpiryNotices
from llm_authmw.keys.format import MAX_KEY_LENGTH, parse_key
from llm_authmw.keys.hashing import Digest, Peppers, sha256
from llm_authmw.keys.known import MALFORMED, UNKNOWN, KnownKey
from llm_authmw.keys.protocols import KeyReader, KeyUse
from llm_authmw.keys.records import KeyRecord, KeySecret, StoredKey
from llm_authmw.principal import ANONYMOUS
from llm_authmw.resource import Resource
from llm_authmw.telemetry import Asked, asking, emit

TOUCH_INTERVAL: Final = 60.0
"""Seconds between two notes of one key's use."""
FLUSH_INTERVAL: Final = 10.0
"""Seconds between two writes of such notes, all keys together."""
FLUSH_DEADLINE: Final = 0.05
NEGATIVE_TTL: Final = 60.0
"""Seconds for which a text that is no key is remembered; any change of a key ends it sooner."""

_SHARED_FIELDS: Final = (
    *("tenant", "realm", "team", "org", "tier"),
    *("roles", "scopes", "tags", "models", "routes", "networks", "limits", "budgets"),
)


class BlockedAccounts(Protocol):
    """The accounts that are blocked now, kept fresh by whoever follows the store."""

    @property
    def stale(self) -> bool:
        """Whether an account changed since `load`: until that has run again, nobody may be let in from memory."""
        ...

    @property
    def blocked(self) -> Collection[AccountRef]:
        """The accounts that are blocked."""
        ...

    async def load(self) -> None:
        """Read them again if something changed.

        Raises:
            StoreError: the store cannot be read.
        """


class KeyVerifier:
    """Verify presented keys against one store.

    Args:
        store: Where keys are kept.
        follower: Tells what others changed, and whether the cache may be used.
        accounts: The accounts that are blocked.
        peppers: The peppers that digests are made with.
        max_keys: Keys that are remembered.
        deadline: Seconds that asking the store may take in all.
        resource: What `Stack` starts and closes with the app.
        clock: Gives the time.
    """

    def __init__(
        self,
        store: KeyReader,
        *,
        follower: ChangeFollower,
        accounts: BlockedAccounts,
        peppers: Peppers | None = None,
        max_keys: int = 100_000,
        deadline: float = 0.25,
        resource: Resource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        self.resource: Final = resource
        self._store: Final = store
        self._follower: Final = follower
        self._accounts: Final = accounts
        self._peppers: Final = peppers or Peppers()
        self._deadline: Final = deadline
        self._now: Final = clock.now
        self._monotonic: Final = clock.monotonic
        self._cache: Final[Cache[bytes, KnownKey]] = Cache(
            max_entries=max_keys,
            ttl=math.inf,
            negative_ttl=NEGATIVE_TTL,
            is_negative=lambda known: known.principal is ANONYMOUS,
            on_drop=self._dropped,
            name="keys",
            clock=clock,
        )
        self._texts_of: Final[dict[str, bytes | tuple[bytes, ...]]] = {}
        """The texts of each remembered key; a tuple only while a rotation's time of grace runs, since most have one."""
        self._uses: Final[dict[tuple[str, Digest | None], KeyUse]] = {}
        """By key, and by the digest that is to be replaced: the secrets of a rotation may each want a newer pepper."""
        self._flushed_at = -math.inf
        self._notices: Final = ExpiryNotices()
        self._shared: Final[dict[Any, Any]] = {}
        follower.subscribe(self._forget)

    @property
    def bound(self) -> float:
        """Seconds within which a change by another process takes effect here."""
        return self._follower.bound

    def recall(self, presented: bytes) -> KnownKey | None:
        """Return what is known of the text without asking anybody, or None where it must be asked."""
        if self._accounts.stale or self._follower.fresh_until <= self._monotonic():
            return None
        return self._cache.peek(sha256(presented))

    async def verify(self, presented: bytes, *, imported: bool = False) -> KnownKey:
        """Find out what is known of the text.

        Args:
            presented: The text, of at most 512 bytes of ASCII.
            imported: Whether a text that is not of our form may be looked up as an imported key.

        Raises:
            Denial: the store, or the pepper, that would tell is not at hand.
        """
        text = presented.decode("ascii", "replace")
        key_id = parse_key(text)
        if (key_id is None and not imported) or len(text) > MAX_KEY_LENGTH:
            return MALFORMED
        digest = sha256(presented)
        try:
            with anyio.fail_after(self._deadline):
                await self._follower.refresh()
                await self._accounts.load()
                known = await self._cache.get(digest, lambda _: self._load(presented, digest, key_id))
        except TimeoutError:
            emit(Asked("keys", "find", self._deadline, "late"))
            raise Denial("store_unavailable") from StoreUnavailableError("the store did not answer in time")
        except StoreError as error:
            raise Denial("store_unavailable") from error
        if known.key_id is not None:
            if not self._cache.holds(digest, known):
                # Something changed while it was loaded, so nobody will tell it of the next change: whoever holds on to it asks.
                known.current = False
            else:
                self._index(known.key_id, digest)
        await self._flush_if_due()
        return known

    def judge(self, known: KnownKey) -> str | None:
        """Return the reason code that refuses the key now, or None; a use that is let through is noted."""
        now = self._now()
        refused = known.refusal(now, self._accounts.blocked)
        if now >= known.touch_due and refused is None and known.key_id is not None:
            known.touch_due = now + TOUCH_INTERVAL
            self._uses[known.key_id, None] = KeyUse(known.key_id, now)
            # Here, where a key comes by once a minute at most.
            self._notices.look(known, now)
        return refused

    def holds(self, known: KnownKey) -> bool:
        """Say whether what is known still stands, without asking anybody; False means that it must be asked."""
        return (
            known.current
            and not self._accounts.stale
            and self._follower.fresh_until > self._monotonic()
            # What others ask keeps all of the above true for them and for this key, which may have ended or been blocked meanwhile.
            and known.refusal(self._now(), self._accounts.blocked) is None
        )

    def due(self, known: KnownKey) -> float:
        """Return the seconds for which it stands unless something is heard of it before; zero or less where it must be asked."""
        return min(self._follower.fresh_until - self._monotonic(), known.ends - self._now())

    async def flush(self) -> None:
        """Write the uses that were noted.

        Raises:
            StoreError: the store cannot be written; they are kept for the next time.
        """
        uses = dict(self._uses)
        if uses:
            await asking("keys", "touch", lambda: self._store.touch(tuple(uses.values())), monotonic=self._monotonic)
            for which, use in uses.items():
                if self._uses.get(which) is use:
                    del self._uses[which]

    async def _flush_if_due(self) -> None:
        now = self._monotonic()
        if not self._uses or now - self._flushed_at < FLUSH_INTERVAL:
            return
        self._flushed_at = now
        # When a key was last used is a convenience: a store that is busy, or can only be read, still verifies keys.
        with anyio.move_on_after(FLUSH_DEADLINE), contextlib.suppress(StoreError):
            await self.flush()

    async def _load(self, presented: bytes, digest: bytes, key_id: str | None) -> KnownKey:
        if key_id is None:
            stored = await asking("keys", "find_imported", lambda: self._store.find_imported(digest), monotonic=self._monotonic)
        else:
            stored = await asking("keys", "find", lambda: self._store.find(key_id), monotonic=self._monotonic)
        if stored is None:
            # The work that a known key would have cost, so that time does not tell which ids exist.
            hmac.compare_digest(self._peppers.digest(presented).value, digest)
            return UNKNOWN
        secret = self._matching(stored, presented)
        record = stored.record
        if secret is None:
            readable = all(self._peppers.has(secret.digest.pepper_version) for secret in stored.secrets)
            known = KnownKey("key_mismatch" if readable else "pepper_unavailable", claimed_id=record.id)
        else:
            known = self._known(record, secret)
            if known.refusal(self._now(), self._accounts.blocked) is None:
                self._note_rehash(record, secret, presented)
        return known

    def _matching(self, stored: StoredKey, presented: bytes) -> KeySecret | None:
        made: dict[tuple[str, int], bytes | None] = {}
        found: KeySecret | None = None
        for secret in stored.secrets:
            kind = (secret.digest.scheme, secret.digest.pepper_version)
            if kind not in made:
                made[kind] = self._peppers.digest_as(presented, secret.digest.scheme, secret.digest.pepper_version)
            digest = made[kind]
            if digest is not None and hmac.compare_digest(digest, secret.digest.value):
                found = secret
        return found

    def _known(self, record: KeyRecord, secret: KeySecret) -> KnownKey:
        # The keys of a team have nearly everything but their users in common: kept once, that is most of what a key weighs.
        shared = {name: self._one_of(getattr(record, name)) for name in _SHARED_FIELDS}
        known = KnownKey.of_record(msgspec.structs.replace(record, **shared))
        known.networks = self._one_of(known.networks)
        known.routes = self._one_of(known.routes)
        if secret.not_after is not None and secret.not_after < known.ends:
            known.ends, known.ends_by = secret.not_after, "key_rotated"
        known.imported = secret.imported
        known.mark = "retiring_secret" if secret.not_after is not None else "imported_secret" if secret.imported else None
        return known

    def _one_of(self, value: Any) -> Any:
        """Return the one object that stands for all that are equal to `value`."""
        if len(self._shared) > 10_000:
            self._shared.clear()
        return self._shared.setdefault(value, value)

    def _note_rehash(self, record: KeyRecord, secret: KeySecret, presented: bytes) -> None:
        # Asked before anything is hashed, so that a proven key costs no more hashing than a wrong one.
        if not secret.imported and secret.digest.pepper_version < self._peppers.newest:
            renewed = self._peppers.digest(presented)
            self._uses[record.id, secret.digest] = KeyUse(record.id, self._now(), (secret.digest, renewed))

    def _forget(self, changes: Changes) -> None:
        if changes.keys is None:
            self._cache.clear()
            return
        for key_id in changes.keys:
            for digest in self._indexed(key_id):
                self._cache.drop(digest)
        if changes.keys:
            # A text that was unknown may be a key now (an import, a restored row).
            self._cache.clear_negative()

    def _dropped(self, digest: bytes, known: KnownKey) -> None:
        if known.key_id is None:
            return
        known.current = False
        rest = tuple(text for text in self._indexed(known.key_id) if text != digest)
        if rest:
            self._texts_of[known.key_id] = rest
        else:
            self._texts_of.pop(known.key_id, None)

    def _index(self, key_id: str, digest: bytes) -> None:
        texts = self._indexed(key_id)
        if digest not in texts:
            self._texts_of[key_id] = (*texts, digest) if texts else digest

    def _indexed(self, key_id: str) -> tuple[bytes, ...]:
        texts = self._texts_of.get(key_id, ())
        return (texts,) if isinstance(texts, bytes) else texts
