"""`open_store(url)`: from a URL to the handles that layers and people use."""

import os
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

from llm_authmw.accounts.protocols import AccountStore
from llm_authmw.accounts.quotas import AccountQuotas
from llm_authmw.accounts.service import AccountService
from llm_authmw.changes import ChangeFeed, ChangeFollower
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, MissingExtraError
from llm_authmw.keys.hashing import PepperOption, Peppers
from llm_authmw.keys.protocols import KeyStore
from llm_authmw.keys.service import KeyService
from llm_authmw.keys.verifier import KeyVerifier
from llm_authmw.ledger.contract import Ledger
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.secrets import Secret
from llm_authmw.sinks.options import SinkOptions
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.stores.audit import StoreAudit, TrailStore
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.stores.urls import without_password
from llm_authmw.stores.usage import UsageService
from llm_authmw.tokens.revocation_records import RevocationStore
from llm_authmw.tokens.revocations import RevocationService

PEPPER_VARIABLE: Final = "AUTHMW_PEPPER"
AUDIT_KEY_VARIABLE: Final = "AUTHMW_AUDIT_KEY"


class Backend(Protocol):
    """One place where state is kept. Nothing is opened before it is first used."""

    @property
    def keys(self) -> KeyStore:
        """The API keys."""
        ...

    @property
    def accounts(self) -> AccountStore:
        """The accounts."""
        ...

    @property
    def revocations(self) -> RevocationStore:
        """The revoked tokens."""
        ...

    @property
    def ledger(self) -> Ledger:
        """The counters."""
        ...

    @property
    def audit(self) -> TrailStore:
        """What happened."""
        ...

    @property
    def feed(self) -> ChangeFeed:
        """What changed."""
        ...

    async def start(self) -> None:
        """Open it and bring it to this release's form; starting twice is starting once.

        Raises:
            StoreError: it cannot be opened.
        """

    async def aclose(self) -> None:
        """Close it; the next use opens it again."""


class Counters(Ledger, Protocol):
    """Counters that live elsewhere than the rest: they may be lost without harm. Nothing is opened before it is first used."""

    async def start(self) -> None:
        """Open them; starting twice is starting once.

        Raises:
            StoreError: they cannot be opened.
        """

    async def aclose(self) -> None:
        """Close them; the next use opens them again."""


class Store:
    """One backend, and the handles on it: `keys`, `accounts`, `revocations`, `ledger`, `audit` and `usage`.

    Handles share one cache and one view of what others changed, so one `Store` serves any number of layers. It starts by
    itself on first use; `Stack` starts and closes it with the app, and `async with` does so in a program.
    """

    def __init__(
        self,
        backend: Backend,
        *,
        url: str,
        peppers: Peppers,
        bound: float,
        deadline: float,
        clock: Clock,
        counters: Counters | None = None,
        whole: bool = False,
        audit: AuditSink | None = None,
        audit_keep: float | None = None,
        audit_options: SinkOptions | None = None,
    ) -> None:
        self.url: Final = url
        self._backend: Final = backend
        self._counters: Final = counters
        self.audit: Final = StoreAudit(backend.audit, keep=audit_keep, resource=self, **_with_clock(audit_options, clock))
        self.usage: Final = UsageService(backend.audit)
        self._changes: Final[AuditSink] = audit or self.audit
        recorder = self._changes.changed
        follower = ChangeFollower(backend.feed, bound=bound, deadline=deadline, clock=clock)
        self.accounts: Final = AccountService(backend.accounts, follower=follower, recorder=recorder, clock=clock)
        verifier = KeyVerifier(
            backend.keys, follower=follower, accounts=self.accounts, peppers=peppers, deadline=deadline, resource=self, clock=clock
        )
        self.keys: Final = KeyService(backend.keys, follower=follower, peppers=peppers, verifier=verifier, recorder=recorder, clock=clock)
        self.revocations: Final = RevocationService(
            backend.revocations, follower=follower, deadline=deadline, recorder=recorder, resource=self, clock=clock
        )
        self.ledger: Final = LedgerService(
            _handle(counters if whole and counters is not None else backend.ledger, deadline, clock),
            rates=None if whole or counters is None else _handle(counters, deadline, clock, name="counters"),
            accounts=AccountQuotas(backend.accounts, follower=follower, deadline=deadline, clock=clock),
            resource=self,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    async def start(self) -> None:
        """Open the backend, and the counters beside it, now instead of on first use.

        Raises:
            StoreError: one of them cannot be opened; says why.
        """
        async with AsyncExitStack() as undone:
            await self._backend.start()
            undone.push_async_callback(self._backend.aclose)
            if self._counters is not None:
                await self._counters.start()
            undone.pop_all()

    async def aclose(self) -> None:
        """Write what is held back, and close the backend and the counters beside it."""
        async with AsyncExitStack() as closing:
            closing.push_async_callback(self._backend.aclose)
            if self._counters is not None:
                closing.push_async_callback(self._counters.aclose)
            closing.push_async_callback(self.audit.aclose)
            if self._changes is not self.audit:
                closing.push_async_callback(self._changes.aclose)
            closing.push_async_callback(self.ledger.aclose)
            await self.keys.verifier.flush()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()


def open_store(
    url: str,
    *,
    counters: str | Secret | None = None,
    ledger: str | Secret | None = None,
    pepper: PepperOption | None = None,
    bound: float = 1.0,
    deadline: float = 0.25,
    audit: AuditSink | None = None,
    audit_keep: float | None = None,
    audit_options: SinkOptions | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Store:
    """Return the store at `url`. Nothing is read or written yet.

    Args:
        url: `memory://`, `sqlite:///relative/file.db`, `sqlite:////absolute/file.db` or
            `postgresql://user:password@host:port/database?sslmode=verify-full`, with `&pooler=transaction` where a pooler stands
            before the server that lends a connection for one transaction.
        counters: Where rates and concurrency are counted, which may be lost without harm: `redis://user:password@host:port/database`,
            `rediss://…` for TLS, `unix:///path`, or a reference to a secret. Left out: in the store itself.
        ledger: The same for the whole ledger, money too: a server that writes to its disk. Where it is new, or has lost something,
            it grants nothing until that is acknowledged.
        pepper: What keys are hashed with; one secret (or reference), or several by version. Left out: the environment variable
            AUTHMW_PEPPER, so that keys made by the CLI verify; without either, keys are kept as plain SHA-256.
        bound: Seconds within which what one process changes takes effect in every other one.
        deadline: Seconds that a request waits for the store in all.
        audit: Where changes of keys, accounts and revocations are recorded. Left out: in the store itself, as `store.audit`.
        audit_keep: Days after which entries of `store.audit` are removed. Left out: they stay until they are pruned.
        audit_options: Options of `store.audit`: see `AuditSink`. Its `signing_key`, left out, is that of the environment variable
            AUTHMW_AUDIT_KEY, so that what the CLI changes is signed too; without either, checkpoints are not signed.
        clock: Gives the time.

    Raises:
        ConfigurationError: the scheme is unknown, the URL has a part that would be ignored, the pepper is too short, `bound`
            or `deadline` is not above zero, both `counters` and `ledger` are given, or an option of the audit trail is wrong.
    """
    if pepper is None and os.environ.get(PEPPER_VARIABLE):
        pepper = f"env:{PEPPER_VARIABLE}"
    if counters is not None and ledger is not None:
        raise ConfigurationError("counters", "would be ignored: ledger= holds rates and concurrency too")
    return Store(
        _backend(url, clock),
        url=without_password(url),
        peppers=Peppers(pepper),
        bound=bound,
        deadline=deadline,
        clock=clock,
        counters=_redis(counters, ledger, clock),
        whole=ledger is not None,
        audit=audit,
        audit_keep=audit_keep,
        audit_options=_signed(audit_options or {}),
    )


def _signed(options: SinkOptions) -> SinkOptions:
    key = os.environ.get(AUDIT_KEY_VARIABLE)
    return {"signing_key": key, **options} if key else options


def _with_clock(options: SinkOptions | None, clock: Clock) -> SinkOptions:
    return {"clock": clock, **(options or {})}


def _handle(ledger: Ledger, deadline: float, clock: Clock, *, name: str = "ledger") -> LedgerHandle:
    # What never waits needs no timer, which would cost more than the rest of a reservation.
    return LedgerHandle(ledger, deadline=None if isinstance(ledger, MemoryLedger) else deadline, name=name, clock=clock)


def _backend(url: str, clock: Clock) -> Backend:
    if url.partition(":")[0].lower() == "postgresql":
        return _postgres(url, clock)
    if url.partition(":")[0].lower() in {"redis", "rediss", "unix"}:
        raise ConfigurationError("url", "keys and accounts are kept in a file or a database; name Redis beside it, as counters= or ledger=")
    parts = urlsplit(url)
    if parts.netloc or parts.query or parts.fragment:
        raise ConfigurationError(
            "url", f"{parts.scheme}: takes neither a host nor options; a file is sqlite:///name.db, or sqlite:////absolute/name.db"
        )
    if parts.scheme == "memory":
        if parts.path:
            raise ConfigurationError("url", "memory:// takes nothing after it")
        return MemoryBackend(clock=clock)
    if parts.scheme == "sqlite":
        path = parts.path.removeprefix("/")
        if not path or path.endswith("/") or ":memory:" in path:
            raise ConfigurationError("url", "names no file; write sqlite:///authmw.db, or memory:// for a store in memory")
        return SQLiteBackend(path, clock=clock)
    raise ConfigurationError(
        "url", f"{parts.scheme or url!r} is not a store; expected memory://, sqlite:///FILE or postgresql://HOST/DATABASE"
    )


def _postgres(url: str, clock: Clock) -> Backend:
    try:
        from llm_authmw.stores.postgres import PostgresBackend  # noqa: PLC0415 - asyncpg is an extra
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise MissingExtraError("url", "postgres") from error
    return PostgresBackend(url, clock=clock)


def _redis(counters: str | Secret | None, ledger: str | Secret | None, clock: Clock) -> Counters | None:
    option, url = ("counters", counters) if ledger is None else ("ledger", ledger)
    if url is None:
        return None
    try:
        from llm_authmw.stores.redis import RedisLedger  # noqa: PLC0415 - redis-py is an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise MissingExtraError(option, "redis") from error
    # The server's own clock, unless a test brings one. The handle around it has the deadline.
    its_clock = None if clock is SYSTEM_CLOCK else clock
    return RedisLedger(url, whole=ledger is not None, deadline=None, option=option, clock=its_clock)
