"""`open_store(url)`: from a URL to the handles that layers and people use."""

import os
from types import TracebackType
from typing import Final, Protocol, Self
from urllib.parse import urlsplit

from llm_authmw.accounts.protocols import AccountStore
from llm_authmw.accounts.service import AccountService
from llm_authmw.changes import ChangeFeed, ChangeFollower
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError
from llm_authmw.keys.hashing import PepperOption, Peppers
from llm_authmw.keys.protocols import KeyStore
from llm_authmw.keys.service import KeyService
from llm_authmw.keys.verifier import KeyVerifier
from llm_authmw.stores.memory import MemoryBackend
from llm_authmw.stores.sqlite import SQLiteBackend
from llm_authmw.tokens.revocation_records import RevocationStore
from llm_authmw.tokens.revocations import RevocationService

PEPPER_VARIABLE: Final = "AUTHMW_PEPPER"


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


class Store:
    """One backend, and the handles on it: `keys`, `accounts` and `revocations`.

    Handles share one cache and one view of what others changed, so one `Store` serves any number of layers. It starts by
    itself on first use; `Stack` starts and closes it with the app, and `async with` does so in a program.
    """

    def __init__(self, backend: Backend, *, url: str, peppers: Peppers, bound: float, deadline: float, clock: Clock) -> None:
        self.url: Final = url
        self._backend: Final = backend
        follower = ChangeFollower(backend.feed, bound=bound, deadline=deadline, clock=clock)
        self.accounts: Final = AccountService(backend.accounts, follower=follower, clock=clock)
        verifier = KeyVerifier(
            backend.keys, follower=follower, accounts=self.accounts, peppers=peppers, deadline=deadline, resource=self, clock=clock
        )
        self.keys: Final = KeyService(backend.keys, follower=follower, peppers=peppers, verifier=verifier, clock=clock)
        self.revocations: Final = RevocationService(backend.revocations, follower=follower, deadline=deadline, resource=self, clock=clock)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    async def start(self) -> None:
        """Open the backend now instead of on first use.

        Raises:
            StoreError: it cannot be opened; says why.
        """
        await self._backend.start()

    async def aclose(self) -> None:
        """Write what is held back, and close the backend."""
        try:
            await self.keys.verifier.flush()
        finally:
            await self._backend.aclose()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.aclose()


def open_store(
    url: str,
    *,
    pepper: PepperOption | None = None,
    bound: float = 1.0,
    deadline: float = 0.25,
    clock: Clock = SYSTEM_CLOCK,
) -> Store:
    """Return the store at `url`. Nothing is read or written yet.

    Args:
        url: `memory://`, `sqlite:///relative/file.db` or `sqlite:////absolute/file.db`.
        pepper: What keys are hashed with; one secret (or reference), or several by version. Left out: the environment variable
            AUTHMW_PEPPER, so that keys made by the CLI verify; without either, keys are kept as plain SHA-256.
        bound: Seconds within which what one process changes takes effect in every other one.
        deadline: Seconds that a request waits for the store in all.
        clock: Gives the time.

    Raises:
        ConfigurationError: the scheme is unknown, the URL has a part that would be ignored, the pepper is too short, or `bound`
            or `deadline` is not above zero.
    """
    if pepper is None and os.environ.get(PEPPER_VARIABLE):
        pepper = f"env:{PEPPER_VARIABLE}"
    return Store(_backend(url, clock), url=url, peppers=Peppers(pepper), bound=bound, deadline=deadline, clock=clock)


def _backend(url: str, clock: Clock) -> Backend:
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
    raise ConfigurationError("url", f"{parts.scheme or url!r} is not a store; expected memory:// or sqlite:///FILE")
