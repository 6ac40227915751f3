"""What a verb works on: the store, who acts, and how the answer is wanted."""

import getpass
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

import anyio
import click

from llm_authmw.cli.failures import NoStoreError
from llm_authmw.cli.output import note
from llm_authmw.errors import ConfigurationError, InvalidValueError, MissingExtraError, NotFoundError
from llm_authmw.names import name_problem
from llm_authmw.stores import Store, open_store
from llm_authmw.stores.sqlite.audit import beside
from llm_authmw.stores.urls import without_password

DEFAULT_STORE: Final = "sqlite:///authmw.db"
STORE_VARIABLE: Final = "AUTHMW_STORE"
COUNTERS_VARIABLE: Final = "AUTHMW_COUNTERS"
LEDGER_VARIABLE: Final = "AUTHMW_LEDGER"
META: Final = "llm_authmw.cli."
"""What the common options leave in a context's `meta` begins with this; the innermost one that was given counts."""

_PATIENCE: Final = 5.0
"""Seconds that a person waits for a store."""

ResultT = TypeVar("ResultT")


class Target:
    """The store that a verb works on, and how it answers.

    Args:
        context: The verb's, with what the common options left in it.

    Raises:
        InvalidValueError: the actor's name is not usable.
        click.UsageError: `--json` and `--quiet` were both given.
    """

    def __init__(self, context: click.Context) -> None:
        given = {name.removeprefix(META): value for name, value in context.meta.items() if name.startswith(META)}
        self.url: Final = store_url(context)
        counters, ledger = _elsewhere(given.get("counters"), given.get("ledger"))
        self.counters: Final[str | None] = counters
        self.ledger: Final[str | None] = ledger
        self.json: Final = bool(given.get("json"))
        self.quiet: Final = bool(given.get("quiet"))
        self.actor: Final = _actor(given.get("actor"))
        self.now: Final = time.time()
        group = context.parent if context.parent is not None and context.parent.parent is not None else None
        self._listing: Final = f"llm-authmw {'keys' if group is None else group.info_name} list"
        if self.json and self.quiet:
            raise click.UsageError("--json and --quiet contradict each other", context)

    @property
    def place(self) -> str:
        """Where the store is: a file's absolute path, else the URL without its password."""
        path = store_file(self.url)
        return without_password(self.url) if path is None else str(path)

    @property
    def money_place(self) -> str:
        """Where money is counted."""
        return self.place if self.ledger is None else without_password(self.ledger)

    @property
    def rates_place(self) -> str:
        """Where rates and concurrency are counted."""
        return self.money_place if self.counters is None else without_password(self.counters)

    def run(
        self,
        work: Callable[[Store], Awaitable[ResultT]],
        *,
        creates: bool = False,
        counts: bool = False,
        records: bool = False,
        listing: str | None = None,
    ) -> ResultT:
        """Open the store, do the work, close it, and return what the work returned.

        Args:
            work: What to do.
            creates: Whether a store that does not exist is made.
            counts: Whether the work asks the ledger, which may be elsewhere.
            records: Whether it asks for records only, which are in a file of their own beside the store's.
            listing: The verb that lists what was not found; left out, the one beside this verb.

        Raises:
            NoStoreError: there is no store, and none is made.
            AuthmwError: whatever the work raises.
        """
        store = _open(self.url, self.counters if counts else None, self.ledger if counts else None)
        if urlsplit(self.url).scheme == "memory":
            raise InvalidValueError(f"{self.url} would end with this command; name a file, such as {DEFAULT_STORE}")
        path = store_file(self.url)
        exists = path is None or path.exists() or (records and beside(path).exists())
        if not exists and not creates:
            raise NoStoreError(
                f"there is no store at {path}; name another one with --store or {STORE_VARIABLE}, "
                "or make this one with: llm-authmw keys create"
            )

        async def worked() -> ResultT:
            # Not `async with`: it would make the file before the work has found that it is refused.
            try:
                return await work(store)
            finally:
                await store.aclose()

        try:
            return anyio.run(worked)
        except NotFoundError as error:
            raise NotFoundError(f"{error} in {self.place}; see: {listing or self._listing}") from None
        finally:
            if not exists and path is not None and path.exists():
                note(f"Made a new store: {path}")


def store_url(context: click.Context) -> str:
    """Return the store's URL: the option, else AUTHMW_STORE, else the file authmw.db here."""
    given: str | None = context.meta.get(META + "store")
    return given if given is not None else os.environ.get(STORE_VARIABLE) or DEFAULT_STORE


def store_file(url: str) -> Path | None:
    """Return the absolute path of a SQLite store's file, or None where the store is no file."""
    parts = urlsplit(url)
    return Path(parts.path.removeprefix("/")).absolute() if parts.scheme == "sqlite" else None


def _elsewhere(counters: str | None, ledger: str | None) -> tuple[str | None, str | None]:
    """Return where rates are counted, and where everything is: what stands on the command line goes before all of the environment."""
    if counters is not None or ledger is not None:
        return counters, ledger
    return os.environ.get(COUNTERS_VARIABLE) or None, os.environ.get(LEDGER_VARIABLE) or None


def _open(url: str, counters: str | None, ledger: str | None) -> Store:
    try:
        return open_store(url, counters=counters, ledger=ledger, deadline=_PATIENCE)
    except ConfigurationError as error:
        raise as_given(error) from None


def as_given(error: ConfigurationError) -> ConfigurationError:
    """Return an error about how a store is opened as one about the option or the variable that says it at a terminal."""
    source = _SOURCES.get(error.option, error.option)
    return MissingExtraError(source, error.extra) if isinstance(error, MissingExtraError) else ConfigurationError(source, error.problem)


_SOURCES: Final = {
    "url": f"--store or {STORE_VARIABLE}",
    "counters": f"--counters or {COUNTERS_VARIABLE}",
    "ledger": f"--ledger or {LEDGER_VARIABLE}",
    "pepper": "AUTHMW_PEPPER",
    "signing_key": "AUTHMW_AUDIT_KEY",
}
"""By option of `open_store`: what the person at the terminal wrote."""


def _actor(given: str | None) -> str:
    actor = f"cli:{_os_user()}" if given is None else given
    problem = name_problem(actor)
    if problem is not None:
        raise InvalidValueError(f"the actor's name {problem}")
    return actor


def _os_user() -> str:
    """Return the operating system's name for who runs this. Not `getpass.getuser()`: that believes the environment first."""
    try:
        import pwd  # noqa: PLC0415 - there is no such module on Windows
    except ImportError:
        return getpass.getuser()
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container that runs under a number without a name
        return str(os.getuid())
