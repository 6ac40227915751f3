"""What verification knows of revoked tokens, without asking anybody for each of them."""

import math
from typing import Final

import anyio

from llm_authmw.cache import SingleFlight
from llm_authmw.changes import ChangeFollower, Changes
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, StoreUnavailableError
from llm_authmw.resource import Resource
from llm_authmw.telemetry import Asked, asking, emit
from llm_authmw.tokens.revocation_records import LiveRevocations, RevocationStore

_NOT_READ: Final[LiveRevocations] = {}


class RevocationView:
    """The revocations of one store as they stand, never older than the store's bound.

    A verifier looks at `stale` for every token, awaits `refresh` where that is so, and then asks `covers`. What it remembers of a
    token that was not covered holds for as long as the view is not stale and `generation` is what it was.

    Args:
        store: Where revocations are kept.
        follower: Tells what others changed, and whether what was read may be used.
        deadline: Seconds that `refresh` may take in all.
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
        resource: Resource | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        self.resource: Final = resource
        self.generation: int = 0
        """Rises whenever `refresh` finds that something else is revoked than before."""
        self._store: Final = store
        self._follower: Final = follower
        self._deadline: Final = deadline
        self._monotonic: Final = clock.monotonic
        self._revoked = _NOT_READ
        self._unread = True
        self._heard = 0
        self._flight: Final[SingleFlight[None, LiveRevocations]] = SingleFlight()
        follower.subscribe(self._forget)

    @property
    def bound(self) -> float:
        """Seconds within which a revocation by another process takes effect here."""
        return self._follower.bound

    @property
    def stale(self) -> bool:
        """Whether `refresh` must be awaited before `covers` may be believed."""
        return self._unread or self._follower.fresh_until <= self._monotonic()

    async def refresh(self) -> None:
        """Learn what others revoked or lifted, unless what is known is fresh; callers at the same time share the work.

        Raises:
            StoreUnavailableError: the store did not answer within the deadline.
            StoreError: the store cannot be read.
        """
        try:
            with anyio.fail_after(self._deadline):
                await self._follower.refresh()
                while self._unread:
                    await self._flight.run(None, self._read)
        except TimeoutError:
            emit(Asked("revocations", "live", self._deadline, "late"))
            raise StoreUnavailableError("the store did not answer in time") from None

    def covers(self, *, tenant: str, issuer: str, jti: str | None, subject: str | None, issued_at: float | None, kid: str | None) -> bool:
        """Say whether a token is revoked, as of the last `refresh`; before the first one, every token is.

        Args:
            tenant: Whose token it is.
            issuer: Its `iss`.
            jti: Its `jti`.
            subject: Its `sub`.
            issued_at: Its `iat`, in seconds since 1970. A token without one counts as issued before any moment.
            kid: The id of the key that the signature was verified with. The one in the token's header is the caller's word.
        """
        revoked = self._revoked
        if revoked is _NOT_READ:
            return True
        if not revoked:
            return False
        if jti is not None and (tenant, "token", issuer, jti) in revoked:
            return True
        if kid is not None and (tenant, "key", issuer, kid) in revoked:
            return True
        before = None if subject is None else revoked.get((tenant, "subject", issuer, subject))
        return before is not None and (issued_at is None or issued_at <= before)

    async def _read(self) -> LiveRevocations:
        heard = self._heard
        found = await asking("revocations", "live", self._store.live, monotonic=self._monotonic)
        # What changed while it was read may be missing from it; then it is read once more.
        if heard == self._heard:
            if self._revoked is _NOT_READ or found != self._revoked:
                self._revoked = found
                self.generation += 1
            self._unread = False
        return found

    def _forget(self, changes: Changes) -> None:
        if changes.revocations:
            self._unread = True
            self._heard += 1
