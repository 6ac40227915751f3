"""The life of an API key: create, list, change, rotate, block, revoke, import."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias, Unpack, overload

import msgspec

from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConflictError, InvalidValueError, NotFoundError
from llm_authmw.fields import text
from llm_authmw.history import HistoryEntry, Recorder, unrecorded
from llm_authmw.increases import BudgetChange
from llm_authmw.keys.format import DEFAULT_PREFIX, mint_key, new_key_id
from llm_authmw.keys.hashing import Digest, Peppers
from llm_authmw.keys.imported import digest_to_import
from llm_authmw.keys.protocols import Idempotency, KeyPage, KeyQuery, KeyStore, Replay
from llm_authmw.keys.records import CreatedKey, KeyFields, KeyRecord, KeySecret, KeyState, KeyStatus, StoredKey, clean_fields
from llm_authmw.keys.revisions import changed_key, checked_dates, differences_of, unrevoked
from llm_authmw.keys.verifier import KeyVerifier
from llm_authmw.principal import DEFAULT_TENANT

DEFAULT_GRACE: Final = 86_400.0
MAX_SECRETS: Final = 5
"""Secrets that a key may have at once: each is one more to compare with."""

_Change: TypeAlias = Callable[[StoredKey], StoredKey]


class KeyService:
    """The API keys of one store: managed here, verified through `verifier`.

    What it changes takes effect at once in this process, and within the store's bound in every other one. Each change
    appends to the key's history under the name that `actor` gives.

    A `tenant` of None means every tenant, and is for the operator; code that acts for a tenant names it.
    """

    def __init__(
        self,
        store: KeyStore,
        *,
        follower: ChangeFollower,
        peppers: Peppers | None = None,
        verifier: KeyVerifier,
        recorder: Recorder = unrecorded,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._store: Final = store
        self._recorder: Final = recorder
        self._follower: Final = follower
        self._peppers: Final = peppers or Peppers()
        self._now: Final = clock.now
        self.verifier: Final = verifier

    def __repr__(self) -> str:
        return "KeyService()"

    async def create(
        self,
        *,
        tenant: str = DEFAULT_TENANT,
        prefix: str = DEFAULT_PREFIX,
        actor: str = "api",
        idempotency_key: str | None = None,
        **fields: Unpack[KeyFields],
    ) -> CreatedKey:
        """Make a key. Its text is in the answer and nowhere else, ever again.

        Args:
            tenant: Whose key it is.
            prefix: What its text begins with.
            actor: Who does this, for the history.
            idempotency_key: Repeating the call with the same one within 24 hours gives the same key without its text.
            fields: See `KeyFields`.

        Raises:
            InvalidValueError: a field is outside its grammar, or the key would end before it begins.
            ConfigurationError: a list is a bare string, or the prefix is not one.
            ConflictError: the idempotency key was used for another call.
            StoreError: the store cannot be written.
        """
        clean = checked_dates(clean_fields(fields))
        tenant = text("tenant", tenant)
        idempotency = Idempotency.of(tenant, "create", idempotency_key, {"prefix": prefix, **clean})
        minted = mint_key(prefix=prefix)
        now = self._now()
        record = KeyRecord(id=minted.id, last_four=minted.text[-4:], tenant=tenant, created_at=now, **clean)
        secret = KeySecret(digest=self._peppers.digest(minted.text.encode()), created_at=now)
        replay = await self._insert(StoredKey(record=record, secrets=(secret,)), "create", actor, clean, idempotency)
        return CreatedKey(record=record, key=minted.text) if replay is None else await self._replayed(replay, idempotency)

    async def import_key(
        self,
        *,
        sha256_hex: str | None = None,
        key: str | None = None,
        last_four: str = "",
        tenant: str = DEFAULT_TENANT,
        actor: str = "api",
        **fields: Unpack[KeyFields],
    ) -> CreatedKey:
        """Take over a key that another proxy issued, by its unsalted SHA-256 (LiteLLM's scheme) or by its text.

        It works unchanged until it is rotated, which gives it a text of our form. Importing the same digest into the same
        tenant again changes nothing.

        Args:
            sha256_hex: 64 hexadecimal digits.
            key: The text, where it is at hand; only its digest is kept.
            last_four: The last four characters of the text, for recognising the key.
            tenant: Whose key it is.
            actor: Who does this, for the history.
            fields: See `KeyFields`.

        Raises:
            InvalidValueError: neither or both of `sha256_hex` and `key`, or one that cannot be imported.
            ConflictError: another tenant has this digest.
            StoreError: the store cannot be written.
        """
        digest, last_four = digest_to_import(sha256_hex, key, last_four)
        clean = checked_dates(clean_fields(fields))
        tenant = text("tenant", tenant)
        known = await self._store.find_imported(digest)
        if known is None:
            now = self._now()
            record = KeyRecord(id=new_key_id(), last_four=last_four, tenant=tenant, created_at=now, imported=True, **clean)
            secret = KeySecret(digest=Digest(digest, "sha256", 0), created_at=now, imported=True)
            try:
                await self._insert(StoredKey(record=record, secrets=(secret,)), "import", actor, clean, None)
            except ConflictError:
                known = await self._store.find_imported(digest)
                if known is None:
                    raise
            else:
                return CreatedKey(record=record, key=None)
        if known.record.tenant != tenant:
            raise ConflictError("another tenant has imported this key")
        return CreatedKey(record=known.record, key=None, replayed=True)

    async def get(self, key_id: str, *, tenant: str | None = None) -> KeyRecord:
        """Return one key's record.

        Raises:
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be read.
        """
        return (await self._find(key_id, tenant)).record

    async def list(
        self,
        *,
        tenant: str | None = None,
        user: str | None = None,
        team: str | None = None,
        org: str | None = None,
        tag: str | None = None,
        state: KeyState | None = None,
        search: str | None = None,
        after: str | None = None,
        size: int = 100,
    ) -> KeyPage:
        """List keys, newest first. Every filter that is given must hold.

        Args:
            tenant: Of this tenant.
            user: Of this user.
            team: Of this team.
            org: Of this organisation.
            tag: With this tag.
            state: In this state now.
            search: With this in the name, or at the beginning of the id.
            after: The cursor of the page before.
            size: Keys in a page, 1 to 1000.

        Raises:
            InvalidValueError: `size` is out of range, or the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        return await self._query(
            KeyQuery(
                now=self._now(), tenant=tenant, user=user, team=team, org=org, tag=tag, state=state, search=search, after=after, size=size
            )
        )

    async def unused(self, *, since: float, tenant: str | None = None, after: str | None = None, size: int = 100) -> KeyPage:
        """List the keys that work and that nobody has used since `since` (seconds since 1970), nor made after it.

        Raises:
            InvalidValueError: `size` is out of range, or the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        return await self._query(KeyQuery(now=self._now(), tenant=tenant, state="active", unused_since=since, after=after, size=size))

    async def history(self, key_id: str, *, tenant: str | None = None) -> tuple[HistoryEntry, ...]:
        """Return what was done to a key, oldest first.

        Raises:
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be read.
        """
        await self._find(key_id, tenant)
        return await self._store.history(key_id)

    async def update(self, key_id: str, *, tenant: str | None = None, actor: str = "api", **fields: Unpack[KeyFields]) -> KeyRecord:
        """Change fields of a key; what is not named stays.

        Raises:
            InvalidValueError: a field is outside its grammar.
            ConfigurationError: a list is a bare string.
            ConflictError: the key is revoked, which is final.
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """
        clean = clean_fields(fields)

        def changed(stored: StoredKey) -> StoredKey:
            unrevoked(stored)
            if not clean.keys().isdisjoint(("not_before", "expires_at")):
                checked_dates({"not_before": stored.record.not_before, "expires_at": stored.record.expires_at, **clean})
            return changed_key(stored, **clean)

        return await self._change(key_id, tenant, "update", actor, changed)

    async def change_budgets(
        self, key_id: str, change: BudgetChange, *, action: str, tenant: str | None = None, actor: str = "api"
    ) -> KeyRecord:
        """Make of a key's budgets what `change` makes of them, such as `increases.with_increase`; `action` is for the history.

        Raises:
            InvalidValueError: `change` refuses.
            ConflictError: the key is revoked, which is final.
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """

        def changed(stored: StoredKey) -> StoredKey:
            return changed_key(unrevoked(stored), budgets=change(stored.record.budgets))

        return await self._change(key_id, tenant, text("action", action), actor, changed)

    async def expire(self, key_id: str, *, at: float | None = None, tenant: str | None = None, actor: str = "api") -> KeyRecord:
        """End a key at a moment (seconds since 1970), or now.

        Raises:
            ConflictError: the key is revoked, which is final.
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """
        (moment,) = clean_fields({"expires_at": self._now() if at is None else at}).values()

        def expired(stored: StoredKey) -> StoredKey:
            return changed_key(unrevoked(stored), expires_at=moment)

        return await self._change(key_id, tenant, "expire", actor, expired)

    async def rotate(
        self,
        key_id: str,
        *,
        grace: float = DEFAULT_GRACE,
        prefix: str = DEFAULT_PREFIX,
        tenant: str | None = None,
        actor: str = "api",
        idempotency_key: str | None = None,
    ) -> CreatedKey:
        """Give a key a new secret. It stays the same key: its limits, budgets and history go on.

        Args:
            key_id: The key.
            grace: Seconds for which the old secret works too; 0 ends it at once.
            prefix: What the new text begins with.
            tenant: Whose key it must be.
            actor: Who does this, for the history.
            idempotency_key: Repeating the call with the same one within 24 hours rotates no second time.

        Raises:
            InvalidValueError: `grace` is negative or longer than a year.
            ConflictError: the key is revoked, or has too many secrets whose time of grace runs, or the idempotency key was used
                for another call.
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """
        if not 0 <= grace <= 366 * 86_400:
            raise InvalidValueError("grace is a number of seconds from 0 to a year")
        tenant = (await self._find(key_id, tenant)).record.tenant
        idempotency = Idempotency.of(tenant, "rotate", idempotency_key, {"key_id": key_id, "grace": grace, "prefix": prefix})
        # A repeated call may come when the key can no longer be rotated; its answer stays the same.
        replay = None if idempotency is None else await self._store.replayed(idempotency)
        minted = mint_key(key_id=key_id, prefix=prefix)

        def rotated(stored: StoredKey) -> StoredKey:
            unrevoked(stored)
            now = self._now()
            ends = [(secret, min(secret.not_after or math.inf, now + grace)) for secret in stored.secrets]
            old = tuple(msgspec.structs.replace(secret, not_after=end) for secret, end in ends if end > now)
            if len(old) >= MAX_SECRETS:
                raise ConflictError(f"the key has {MAX_SECRETS} secrets whose time of grace still runs; rotate with grace 0 to end them")
            new = KeySecret(digest=self._peppers.digest(minted.text.encode()), created_at=now)
            changed = changed_key(stored, last_four=minted.text[-4:], rotated_at=now, imported=False)
            return StoredKey(record=changed.record, secrets=(new, *old))

        outcome = replay or await self._change(key_id, tenant, "rotate", actor, rotated, idempotency)
        if isinstance(outcome, Replay):
            return await self._replayed(outcome, idempotency)
        return CreatedKey(record=outcome, key=minted.text)

    async def block(self, key_id: str, *, tenant: str | None = None, actor: str = "api") -> KeyRecord:
        """Stop a key until it is unblocked. Blocking a blocked key changes nothing.

        Raises:
            ConflictError: the key is revoked, which is final.
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """
        return await self._set_status(key_id, tenant, "block", actor, "blocked")

    async def unblock(self, key_id: str, *, tenant: str | None = None, actor: str = "api") -> KeyRecord:
        """Let a blocked key work again.

        Raises:
            ConflictError: the key is revoked, which is final.
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """
        return await self._set_status(key_id, tenant, "unblock", actor, "active")

    async def revoke(self, key_id: str, *, tenant: str | None = None, actor: str = "api") -> KeyRecord:
        """End a key for good. Revoking a revoked key changes nothing.

        Raises:
            NotFoundError: there is no such key in this tenant.
            StoreError: the store cannot be written.
        """
        return await self._set_status(key_id, tenant, "revoke", actor, "revoked")

    async def _set_status(self, key_id: str, tenant: str | None, action: str, actor: str, status: KeyStatus) -> KeyRecord:
        def changed(stored: StoredKey) -> StoredKey:
            if stored.record.status != status:
                unrevoked(stored)
            return changed_key(stored, status=status)

        return await self._change(key_id, tenant, action, actor, changed)

    async def _query(self, query: KeyQuery) -> KeyPage:
        if not 1 <= query.size <= 1000:
            raise InvalidValueError("a page holds 1 to 1000 keys")
        return await self._store.query(query)

    async def _find(self, key_id: str, tenant: str | None) -> StoredKey:
        stored = await self._store.find(key_id)
        if stored is None or (tenant is not None and stored.record.tenant != tenant):
            raise NotFoundError("there is no such API key")
        return stored

    async def _insert(
        self, stored: StoredKey, action: str, actor: str, clean: Mapping[str, Any], idempotency: Idempotency | None
    ) -> Replay | None:
        after = stored.record.as_dict()
        changes = {field: [None, after[field]] for field in clean}
        entry = HistoryEntry(at=stored.record.created_at, action=action, actor=actor, changes=changes)
        written = await self._store.write(stored, entry, idempotency)
        if isinstance(written, Replay):
            return written
        self._announce(stored.record, entry)
        return None

    @overload
    async def _change(self, key_id: str, tenant: str | None, action: str, actor: str, change: _Change) -> KeyRecord: ...
    @overload
    async def _change(
        self, key_id: str, tenant: str | None, action: str, actor: str, change: _Change, idempotency: Idempotency | None
    ) -> KeyRecord | Replay: ...
    async def _change(
        self, key_id: str, tenant: str | None, action: str, actor: str, change: _Change, idempotency: Idempotency | None = None
    ) -> KeyRecord | Replay:
        """Read, change and write, again from the start whenever somebody else was faster."""
        while True:
            stored = await self._find(key_id, tenant)
            changed = change(stored)
            differences = differences_of(stored, changed)
            if not differences:
                return stored.record
            entry = HistoryEntry(at=self._now(), action=action, actor=text("actor", actor), changes=differences)
            written = await self._store.write(changed, entry, idempotency)
            if isinstance(written, Replay):
                return written
            if written:
                self._announce(changed.record, entry)
                return changed.record

    async def _replayed(self, replay: Replay, idempotency: Idempotency | None) -> CreatedKey:
        if idempotency is None or replay.fingerprint != idempotency.fingerprint:
            raise ConflictError("this idempotency key was used for another call")
        return CreatedKey(record=await self.get(replay.key_id), key=None, replayed=True)

    def _announce(self, record: KeyRecord, entry: HistoryEntry) -> None:
        self._follower.announce(Changes(cursor=0, keys=frozenset((record.id,))))
        self._recorder("key", record.id, entry, tenant=record.tenant, user=record.user, realm=record.realm)
