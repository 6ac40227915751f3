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
from llm_authmw.errors import ConfigurationError, InvalidValueError, NotFoundError
from llm_authmw.names import name_problem
from llm_authmw.stores import Store, open_store

DEFAULT_STORE: Final = "sqlite:///authmw.db"
STORE_VARIABLE: Final = "AUTHMW_STORE"
META: Final = "llm_authmw.cli."
"""What the common options leave in a context's `meta` begins with this; the innermost one that was given counts."""

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
        """Where the store is: a file's absolute path, else the URL."""
        path = store_file(self.url)
        return self.url if path is None else str(path)

    def run(self, work: Callable[[Store], Awaitable[ResultT]], *, creates: bool = False) -> ResultT:
        """Open the store, do the work, close it, and return what the work returned.

        Args:
            work: What to do.
            creates: Whether a store that does not exist is made.

        Raises:
            NoStoreError: there is no store, and none is made.
            AuthmwError: whatever the work raises.
        """
        store = _open(self.url)
        if urlsplit(self.url).scheme == "memory":
            raise InvalidValueError(f"{self.url} would end with this command; name a file, such as {DEFAULT_STORE}")
        path = store_file(self.url)
        exists = path is None or path.exists()
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
            raise NotFoundError(f"{error} in {self.place}; see: {self._listing}") from None
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


def _open(url: str) -> Store:
    try:
        return open_store(url)
    except ConfigurationError as error:
        # The person at the terminal wrote neither `url=` nor `pepper=`.
        source = {"url": f"--store or {STORE_VARIABLE}", "pepper": "AUTHMW_PEPPER"}.get(error.option, error.option)
        raise ConfigurationError(source, error.problem) from None


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
