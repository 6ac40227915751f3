"""Scripts run on one Redis or Valkey server, each within a deadline.

redis-py opens, authenticates and reads the connections, and no more than that. Left to itself it sends a command ten times
more when a connection breaks, and waits between: the books would hold, but the caller would wait for seconds.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol, TypeAlias, cast
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, MovedError, NoScriptError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError

from llm_authmw.errors import ConfigurationError, StoreError, StoreUnavailableError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.stores.redis.checks import check_server, facts_of
from llm_authmw.stores.redis.errors import store_error
from llm_authmw.stores.redis.scripts import Script

Said: TypeAlias = bytes | list[Any]

_OPTIONS: Final[dict[str, frozenset[str]]] = {
    "redis": frozenset(),
    "rediss": frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}),
    "unix": frozenset({"db"}),
}
"""By scheme, what a URL may have behind its question mark."""
_TRIES: Final = 3
"""Times that a step is sent, under the same id: a connection may have been closed since it was last used, and a cluster's node may be
gone whose successor only another one knows."""


class _Connection(Protocol):
    """What is used of redis-py's."""

    async def connect(self) -> None: ...
    async def disconnect(self, *, nowait: bool = ...) -> None: ...
    async def send_packed_command(self, command: bytes, *, check_health: bool = ...) -> None: ...
    async def read_response(self, *, disable_decoding: bool = ...) -> Any: ...


class _Loop:
    """What one event loop has: the connections that are not in use, and how many more there may be."""

    def __init__(self, connections: int) -> None:
        self.idle: Final[list[_Connection]] = []
        self.places: Final = asyncio.Semaphore(connections)


class RedisClient:
    """Runs scripts on one server, over a bounded number of connections for each event loop.

    Args:
        url: `redis://HOST:PORT/DATABASE`, `rediss://…` for TLS, or `unix:///PATH?db=DATABASE`; or a reference to a secret.
        option: What the URL was given as, for errors.
        whole: The server holds money too; see `check_server`.
        connections: Connections at the same time.

    Raises:
        ConfigurationError: the URL is none, or has an option that is not taken; or a number is out of range.
    """

    def __init__(self, url: str | Secret, *, option: str, whole: bool, connections: int) -> None:
        if connections < 1:
            raise ConfigurationError("connections", "must be at least 1")
        secret = resolve_secret(option, url)
        self.place: Final = _place(secret.reveal(), option)
        self._make: Final = _maker(secret.reveal())
        self._whole: Final = whole
        self._connections: Final = connections
        # Which node of a cluster has the ledger, once another one has said so.
        self._node: tuple[str, int] | None = None
        self._loops: Final[dict[asyncio.AbstractEventLoop, _Loop]] = {}

    def __repr__(self) -> str:
        return f"RedisClient({self.place!r})"

    async def aclose(self) -> None:
        """Close this event loop's connections; the next call opens new ones."""
        await _close(self._here().idle, nowait=False)

    async def run(self, script: Script, keys: Sequence[bytes], argument: bytes, *, deadline: float | None) -> Said:
        """Run a script and return what it answers: bytes, or an array of them and numbers.

        It is sent again where a connection breaks, and may have run then. So it must be one that changes nothing when it runs again.

        Args:
            script: What to run.
            keys: The keys that it is about.
            argument: What it is given.
            deadline: Seconds that it may take in all; None for a caller who has a deadline of its own.

        Raises:
            StoreError: the server did not answer in time, or with an error.
        """
        loop, arguments = self._here(), (b"%d" % len(keys), *keys, argument)
        try:
            if deadline is None:
                return await self._sent(loop, script, arguments)
            async with asyncio.timeout(deadline):
                return await self._sent(loop, script, arguments)
        except TimeoutError as error:
            raise StoreUnavailableError(f"{self.place} did not answer in time; try again") from error
        except (RedisError, OSError) as error:
            raise store_error(error, self.place) from error

    async def _sent(self, loop: _Loop, script: Script, arguments: Sequence[bytes]) -> Said:
        async with loop.places:
            try:
                return await self._repeated(loop, _command(b"EVALSHA", script.digest, *arguments))
            except NoScriptError:
                # It restarted, or somebody emptied its cache. This fills it again.
                return await self._repeated(loop, _command(b"EVAL", script.text, *arguments))

    async def _repeated(self, loop: _Loop, command: bytes) -> Said:
        for _ in range(_TRIES - 1):
            try:
                return await self._once(loop, command)
            except AuthenticationError:
                raise
            except (RedisConnectionError, ConnectionError):
                # Another node may have taken over, and the one of the URL knows which.
                self._node = None
            except MovedError as error:
                moved: Any = error
                self._node = moved.host, moved.port
        return await self._once(loop, command)

    async def _once(self, loop: _Loop, command: bytes) -> Said:
        connection = loop.idle.pop() if loop.idle else await self._connected()
        try:
            await connection.send_packed_command(command, check_health=False)
            answer: Said = await connection.read_response(disable_decoding=True)
        except NoScriptError:
            loop.idle.append(connection)
            raise
        except BaseException:
            # An answer that is still to come would be taken for the next one's. And what is wrong with one connection is wrong with the
            # others: the server restarted, is gone without a word, or is a replica now.
            await connection.disconnect(nowait=True)
            await _close(loop.idle, nowait=True)
            raise
        loop.idle.append(connection)
        return answer

    async def _connected(self) -> _Connection:
        connection = self._make(self._node)
        try:
            await connection.connect()
            await connection.send_packed_command(_command(b"INFO"), check_health=False)
            check_server(facts_of(await connection.read_response(disable_decoding=True)), self.place, whole=self._whole)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    def _here(self) -> _Loop:
        try:
            running = asyncio.get_running_loop()
        except RuntimeError as error:
            raise StoreError(f"{self.place} can be used with asyncio only, since redis-py knows no trio") from error
        loop = self._loops.get(running)
        if loop is None:
            # A loop that is closed took its connections with it.
            for gone in [known for known in list(self._loops) if known.is_closed()]:
                self._loops.pop(gone, None)
            loop = self._loops[running] = _Loop(self._connections)
        return loop


async def _close(idle: list[_Connection], *, nowait: bool) -> None:
    while idle:
        await idle.pop().disconnect(nowait=nowait)


def _command(*parts: bytes) -> bytes:
    """Return a command as the protocol has it: an array of strings, each with its length before it."""
    return b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])


def _place(url: str, option: str) -> str:
    """Check a URL, and return what of it may be told: where the server is."""
    problem = "takes redis://HOST:PORT/DATABASE, rediss:// or unix:///PATH?db=DATABASE; write what is special in a password as %XX"
    try:
        parts = urlsplit(url)
        port, options = parts.port or 6379, parse_qs(parts.query, keep_blank_values=True)
    except ValueError:
        # The error quotes the URL, and where a password is written wrongly, that is quoted.
        raise ConfigurationError(option, problem) from None
    path, database = parts.path, parts.path.removeprefix("/")
    if parts.scheme == "unix":
        database = options.get("db", ["0"])[0]
        wrong = not path.strip("/") or not database or bool(parts.hostname)
    else:
        wrong = path not in {"", f"/{database}"}
    if parts.scheme not in _OPTIONS or parts.fragment or wrong or not (database.isdecimal() or not database):
        raise ConfigurationError(option, problem)
    if options.keys() - _OPTIONS[parts.scheme]:
        raise ConfigurationError(
            option, f"takes other options in a {parts.scheme} URL: {', '.join(sorted(_OPTIONS[parts.scheme])) or 'none'}"
        )
    return f"redis at {path}" if parts.scheme == "unix" else f"redis at {parts.hostname or 'localhost'}:{port}/{database or 0}"


def _maker(url: str) -> Callable[[tuple[str, int] | None], _Connection]:
    """Return what makes connections, to the server of the URL or to another one with the same password."""
    tls = {"ssl_cert_reqs": "required", "ssl_check_hostname": True} if urlsplit(url).scheme == "rediss" else {}
    # A pool of redis-py's reads URLs. It is not used as one: it looks at a connection's socket before each command. And a deadline of
    # ours is around all that a connection does.
    pool: Any = cast("Any", ConnectionPool).from_url(url, retry=Retry(NoBackoff(), 0), protocol=2, socket_timeout=None, **tls)

    def make(node: tuple[str, int] | None) -> _Connection:
        options: dict[str, Any] = dict(pool.connection_kwargs)
        if node is not None:
            # A node that does not know its own name leaves it out: it is the one that was asked, on another port.
            options |= {"host": node[0] or options.get("host", "localhost"), "port": node[1]}
        return cast("_Connection", pool.connection_class(**options))

    return make
