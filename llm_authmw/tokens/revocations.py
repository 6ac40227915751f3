"""Revoked tokens: one by its `jti`, those of a subject up to a moment, those signed with an issuer's key."""

import re
from typing import Final

from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import InvalidValueError, NotFoundError
from llm_authmw.fields import moment, text, text_or_none
from llm_authmw.history import HistoryEntry, Recorder, unrecorded
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.resource import Resource
from llm_authmw.tokens.revocation_records import (
    REVOCATION_KINDS,
    Revocation,
    RevocationKind,
    RevocationPage,
    RevocationQuery,
    RevocationStore,
    new_revocation_id,
)
from llm_authmw.tokens.revocation_view import RevocationView

_RECORDED: Final = ("kind", "issuer", "value", "issued_before", "expires_at", "note")
_WHOLE_TOKEN: Final = re.compile(r"ey[\w-]*(?:\.[\w-]*){2,4}", re.ASCII)
"""The compact form of a signed or encrypted token, whose header begins with `{` (RFC 7515 §3.1, RFC 7516 §3.1)."""


class RevocationService(RevocationView):
    """The revocations of one store: managed here, and looked up by whoever verifies tokens.

    What is revoked here takes effect at once in this process, and within the store's bound in every other one. A revocation is
    about the tokens of one tenant.

    Args:
        store: Where revocations are kept.
        follower: Tells what others changed, and is told what is changed here.
        deadline: Seconds that `refresh` may take in all.
        recorder: Is told of every change.
        resource: What `Stack` starts and closes with the app.
        clock: Gives the time.

    Raises:
        ConfigurationError: `deadline` is not above zero.
    """

    def __init__(
        self,
        store: RevocationStore,
        *,
        follower: ChangeFollower,
        deadline: float = 0.25,
        recorder: Recorder = unrecorded,
        resource: Resource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__(store, follower=follower, deadline=deadline, resource=resource, clock=clock)
        self._recorder: Final = recorder
        self._now: Final = clock.now

    async def revoke_token(
        self,
        issuer: str,
        jti: str,
        *,
        expires_at: float | None = None,
        tenant: str = DEFAULT_TENANT,
        actor: str = "api",
        note: str | None = None,
    ) -> Revocation:
        """Revoke one token. Revoking it again changes nothing, unless `expires_at` is later or left out.

        Args:
            issuer: Its `iss`.
            jti: Its `jti`.
            expires_at: Its `exp`, in seconds since 1970, after which the store may forget it; left out: never.
            tenant: Whose token it is.
            actor: Who does this.
            note: Why, for people.

        Raises:
            InvalidValueError: an argument is outside its grammar, or the token ended long ago.
            StoreError: the store cannot be written.
        """
        # What is kept is listed, logged and backed up, and a token that was not revoked after all is a credential.
        if _WHOLE_TOKEN.fullmatch(text("jti", jti)) is not None:
            raise InvalidValueError("jti is the id in a token's claims, and this looks like a whole token")
        return await self._revoke("token", issuer, "jti", jti, tenant, actor, note, expires_at=expires_at)

    async def revoke_subject(
        self,
        issuer: str,
        subject: str,
        *,
        issued_before: float | None = None,
        expires_at: float | None = None,
        tenant: str = DEFAULT_TENANT,
        actor: str = "api",
        note: str | None = None,
    ) -> Revocation:
        """Revoke the tokens of a subject that were issued at a moment or before it. Of two such moments the later one stands.

        Args:
            issuer: The `iss` of the tokens.
            subject: Their `sub`.
            issued_before: The moment, in seconds since 1970; left out: now. An issuer whose clock is ahead dates tokens later.
            expires_at: When the last of these tokens has ended, after which the store may forget it; left out: never.
            tenant: Whose tokens they are.
            actor: Who does this.
            note: Why, for people.

        Raises:
            InvalidValueError: an argument is outside its grammar, or the tokens ended long ago.
            StoreError: the store cannot be written.
        """
        before = self._now() if issued_before is None else moment("issued_before", issued_before)
        return await self._revoke("subject", issuer, "subject", subject, tenant, actor, note, issued_before=before, expires_at=expires_at)

    async def revoke_key(
        self, issuer: str, kid: str, *, tenant: str = DEFAULT_TENANT, actor: str = "api", note: str | None = None
    ) -> Revocation:
        """Revoke every token that is signed with a key, whatever the issuer says of the key.

        Args:
            issuer: The `iss` of the tokens.
            kid: The id of the key.
            tenant: Whose tokens they are.
            actor: Who does this.
            note: Why, for people.

        Raises:
            InvalidValueError: an argument is outside its grammar.
            StoreError: the store cannot be written.
        """
        return await self._revoke("key", issuer, "kid", kid, tenant, actor, note)

    async def list(
        self,
        *,
        tenant: str | None = None,
        kind: RevocationKind | None = None,
        issuer: str | None = None,
        value: str | None = None,
        lifted: bool = False,
        after: str | None = None,
        size: int = 100,
    ) -> RevocationPage:
        """List the revocations that stand, the newest first. Every filter that is given must hold.

        Args:
            tenant: Of this tenant; left out: of every one, which is for the operator.
            kind: Of this kind.
            issuer: Of tokens of this issuer.
            value: Of this `jti`, `sub` or `kid`.
            lifted: List those that were lifted instead.
            after: The cursor of the page before.
            size: Revocations in a page, 1 to 1000.

        Raises:
            InvalidValueError: `kind` is none, `size` is out of range, or the cursor is not one of this store's.
            StoreError: the store cannot be read.
        """
        if kind is not None and kind not in REVOCATION_KINDS:
            raise InvalidValueError(f"{kind!r} is not a kind of revocation: expected one of {', '.join(REVOCATION_KINDS)}")
        if not 1 <= size <= 1000:
            raise InvalidValueError("a page holds 1 to 1000 revocations")
        return await self._store.query(
            RevocationQuery(tenant=tenant, kind=kind, issuer=issuer, value=value, lifted=lifted, after=after, size=size)
        )

    async def lift(self, revocation_id: str, *, tenant: str | None = None, actor: str = "api") -> Revocation:
        """End a revocation: what it stopped and has not ended works again. Lifting a lifted one changes nothing.

        Raises:
            InvalidValueError: `actor` is no usable name.
            NotFoundError: there is no such revocation in this tenant.
            StoreError: the store cannot be written.
        """
        now = self._now()
        lifted = await self._store.lift(revocation_id, tenant=tenant, at=now, actor=text("actor", actor))
        if lifted is None:
            raise NotFoundError("there is no such revocation")
        self._announce()
        if lifted.lifted_at == now:
            self._recorder("revocation", lifted.id, HistoryEntry(at=now, action="lift", actor=actor), tenant=lifted.tenant)
        return lifted

    async def _revoke(
        self,
        kind: RevocationKind,
        issuer: str,
        name: str,
        value: str,
        tenant: str,
        actor: str,
        note: str | None,
        *,
        issued_before: float | None = None,
        expires_at: float | None = None,
    ) -> Revocation:
        now = self._now()
        revocation = Revocation(
            id=new_revocation_id(),
            kind=kind,
            issuer=text("issuer", issuer),
            value=text(name, value),
            tenant=text("tenant", tenant),
            issued_before=issued_before,
            expires_at=moment("expires_at", expires_at),
            created_at=now,
            actor=text("actor", actor),
            note=text_or_none("note", note),
        )
        if revocation.is_forgotten(now):
            raise InvalidValueError("expires_at is more than a day ago: what has ended needs no revocation")
        standing = await self._store.add(revocation)
        self._announce()
        # Also where the same was revoked before: that somebody said so again is worth a line, and only the store knows.
        changes = {field: [None, value] for field, value in standing.as_dict().items() if field in _RECORDED and value is not None}
        self._recorder(
            "revocation",
            standing.id,
            HistoryEntry(at=now, action="revoke", actor=actor, changes=changes),
            tenant=standing.tenant,
            user=standing.value if kind == "subject" else None,
        )
        return standing

    def _announce(self) -> None:
        self._follower.announce(Changes(cursor=0, revocations=True))
