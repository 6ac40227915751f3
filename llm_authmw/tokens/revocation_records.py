"""What is known of a revocation, and what a store must be able to do with revocations."""

import secrets
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args

import msgspec

from llm_authmw.principal import DEFAULT_TENANT

RevocationKind: TypeAlias = Literal["token", "subject", "key"]

LiveRevocations: TypeAlias = Mapping[tuple[str, str, str, str], float]
"""What is revoked: by tenant, kind, issuer and value, the moment of issue up to which tokens are meant, in seconds since 1970.

It is infinity where all tokens are."""

REVOCATION_KINDS: Final[tuple[RevocationKind, ...]] = get_args(RevocationKind)
KEPT_AFTER_END: Final = 86_400.0
"""Seconds that a revocation outlives the tokens that it is about: issuers allow a leeway after `exp`, and clocks differ."""

_ID_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_LENGTH: Final = 12


class RevocationRef(NamedTuple):
    """What is revoked: a token by its `jti`, the tokens of a subject by `sub`, or those signed with a key by its `kid`."""

    tenant: str
    kind: RevocationKind
    issuer: str
    value: str


class Revocation(msgspec.Struct, frozen=True, kw_only=True):
    """A revocation as people see it. Times are seconds since 1970.

    Attributes:
        id: Which one, for lifting it.
        kind: Whether `value` is the `jti` of one token, the `sub` of a subject, or the `kid` of a signing key.
        issuer: The `iss` of the tokens that it is about.
        value: The `jti`, `sub` or `kid`.
        tenant: Whose tokens it is about.
        issued_before: For a subject: tokens that were issued at this moment or before it are revoked, as are those that do not
            say when they were.
        expires_at: When the last of these tokens has ended, after which the store may forget the revocation; None is never.
        actor: Who revoked them.
        note: Why, in a person's words.
        lifted_at: When the revocation was lifted; None while it stands.
        lifted_by: Who lifted it.
    """

    id: str
    kind: RevocationKind
    issuer: str
    value: str
    created_at: float
    actor: str
    tenant: str = DEFAULT_TENANT
    issued_before: float | None = None
    expires_at: float | None = None
    note: str | None = None
    lifted_at: float | None = None
    lifted_by: str | None = None

    @property
    def ref(self) -> RevocationRef:
        """What is revoked; in a store, at most one revocation of it stands."""
        return RevocationRef(self.tenant, self.kind, self.issuer, self.value)

    def as_dict(self) -> dict[str, Any]:
        """Return the revocation as plain JSON values."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    def is_forgotten(self, now: float) -> bool:
        """Say whether the tokens ended so long ago that the store may forget it."""
        return self.expires_at is not None and self.expires_at <= now - KEPT_AFTER_END


def new_revocation_id() -> str:
    """Return a new id: `rv-` and 12 lower-case letters and digits."""
    return "rv-" + "".join(secrets.choice(_ID_DIGITS) for _ in range(_ID_LENGTH))


def merged(present: Revocation | None, added: Revocation) -> Revocation:
    """Return the one revocation that stands where both are about the same tokens: it reaches as far as either.

    It keeps the id and the date of the first one. Who revoked, and why, is said by the last one that reaches further.
    """
    if present is None:
        return added
    before = [moment for moment in (present.issued_before, added.issued_before) if moment is not None]
    issued_before = max(before, default=None)
    expires_at = None if present.expires_at is None or added.expires_at is None else max(present.expires_at, added.expires_at)
    if (issued_before, expires_at) == (present.issued_before, present.expires_at):
        return present
    return msgspec.structs.replace(
        present,
        issued_before=issued_before,
        expires_at=expires_at,
        actor=added.actor,
        note=present.note if added.note is None else added.note,
    )


class RevocationQuery(NamedTuple):
    """Which revocations to list; every filter that is given must hold. Sorted by age, the newest first.

    Attributes:
        value: This `jti`, `sub` or `kid`.
        lifted: Those that were lifted, instead of those that stand.
        after: The cursor of the page before.
        size: Revocations in a page, 1 to 1000.
    """

    tenant: str | None = None
    kind: RevocationKind | None = None
    issuer: str | None = None
    value: str | None = None
    lifted: bool = False
    after: str | None = None
    size: int = 100


class RevocationPage(NamedTuple):
    """One page of a listing; `next` is the cursor of the next one, None on the last."""

    revocations: tuple[Revocation, ...]
    next: str | None


class RevocationStore(Protocol):
    """What revocations need of a store. `tests/conformance/` says it in full; each method is atomic.

    A revocation that is forgotten by the store's own clock is in no answer, and the next write of its tenant removes it.
    """

    async def add(self, revocation: Revocation) -> Revocation:
        """Write a revocation and return what stands now: it is `merged` with the one about the same tokens that stood before.

        Raises:
            StoreError: the store cannot be written; nothing was.
        """
        ...

    async def lift(self, revocation_id: str, *, tenant: str | None, at: float, actor: str) -> Revocation | None:
        """Note that a revocation was lifted, and return it. One that was lifted before stays as it is.

        Returns None where there is none with this id, of this tenant where one is given.

        Raises:
            StoreError: the store cannot be written; nothing was.
        """

    async def query(self, query: RevocationQuery) -> RevocationPage:
        """List revocations.

        Raises:
            InvalidValueError: the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        ...

    async def live(self) -> LiveRevocations:
        """Return everything that is revoked, of all tenants, as it was at one moment. The caller keeps the mapping.

        Raises:
            StoreError: the store cannot be read.
        """
        ...
