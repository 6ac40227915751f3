"""An app behind the defence against guessing, and whoever guesses: any number of processes, in one."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from starlette.middleware import Middleware

from llm_authmw import telemetry
from llm_authmw.asgi import ASGIApp
from llm_authmw.authn.keys import KeyAuthMiddleware
from llm_authmw.brute_force.layer import BruteForceMiddleware
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.keys.format import mint_key
from llm_authmw.ledger.contract import Ledger
from llm_authmw.network import TrustedProxies
from llm_authmw.stack import GuardedApp, Stack
from llm_authmw.stores import open_store
from llm_authmw.stores.memory.ledger import MemoryLedger
from llm_authmw.stores.store import Store
from llm_authmw.testing.asgi import Response, stream
from llm_authmw.testing.asgi.scopes import RawHeaders
from llm_authmw.testing.books import Books
from llm_authmw.testing.clock import ManualClock
from llm_authmw.testing.faults import FaultyLedger
from llm_authmw.testing.witness import Witness

HOME: Final = "203.0.113.7"
ELSEWHERE: Final = "198.51.100.9"


class GuardedSite:
    """An app behind `BruteForceMiddleware` and keys, with a ledger that can fail.

    Args:
        limits: The limits of failures.
        inside: What stands inside of the defence; a layer of keys where it is left out.
        trusted_proxies: Whose word about addresses is taken.
        deadline: Seconds that the ledger may take.
        options: Other options of the layer.

    Attributes:
        clock: The clock of everything.
        faults: The ledger.
        store: Where the keys are.
        witness: The app.
        context: What the layers know of the last request.
        app: The app behind the layers, in the first process.
    """

    def __init__(
        self,
        limits: Mapping[str, Sequence[str]] | None = None,
        *,
        inside: Sequence[Middleware] = (),
        trusted_proxies: TrustedProxies | None = None,
        deadline: float = 30.0,
        **options: Any,
    ) -> None:
        self.clock: Final = ManualClock()
        self.faults: Final = FaultyLedger(self._ledger)
        self.store: Final[Store] = open_store("memory://", clock=self.clock)
        self.witness: Final = Witness()
        self.context: RequestContext = RequestContext()
        self._limits: Final = limits
        self._deadline: Final = deadline
        self._proxies: Final = trusted_proxies
        self._options: Final = options
        self._inside: Final = tuple(inside) or (Middleware(KeyAuthMiddleware, keys=self.store.keys),)
        self.app: Final[GuardedApp] = self.process()

    def process(self) -> GuardedApp:
        """Return the app as another process has it: the same ledger and the same keys, and nothing else in common."""
        service = Books(self.faults, clock=self.clock, deadline=self._deadline).service
        layer = Middleware(BruteForceMiddleware, ledger=service, limits=self._limits, **self._options)
        return Stack(layer, *self._inside, trusted_proxies=self._proxies)(self.witness)

    async def new_key(self, **fields: Any) -> str:
        """Make a key, and return its text."""
        return str((await self.store.keys.create(**fields)).key)

    async def ask(
        self, key: str | None = None, address: str | None = HOME, *, app: ASGIApp | None = None, headers: RawHeaders = (), **changes: Any
    ) -> Response:
        """Send a request with a key from an address, to one of the processes."""
        bearer = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
        scope = {"client": None if address is None else (address, 4711), **changes}
        async with stream(app or self.app, "GET /v1/models", headers=[*headers, *bearer], scope=scope, time_limit=60.0) as exchange:
            async for _ in exchange:
                pass
        self.context = exchange.scope[CONTEXT_KEY]
        return exchange.response

    async def told(self, key: str | None = None, address: str | None = HOME, **given: Any) -> tuple[int, str | None]:
        """Return status and reason of the answer."""
        answer = await self.ask(key, address, **given)
        return answer.status, answer.header("x-authmw-reason")

    async def guess(self, times: int = 1, address: str | None = HOME, *, at: str | None = None, **given: Any) -> list[int]:
        """Present so many keys that nobody was ever given, one after the other, each another one; return the statuses.

        Args:
            times: How many.
            address: From where.
            at: The id that they claim; each its own where it is left out.
            given: As for `ask`.
        """
        return [(await self.ask(wrong_key(at), address, **given)).status for _ in range(times)]

    def _ledger(self) -> Ledger:
        return MemoryLedger(clock=self.clock)


class AlertsSeen:
    """The alerts that were emitted. Made by `alerts_seen`."""

    def __init__(self) -> None:
        self.alerts: Final[list[telemetry.Alert]] = []

    def observe(self, event: object) -> None:
        """See `telemetry.Observer`."""
        if isinstance(event, telemetry.Alert):
            self.alerts.append(event)

    @property
    def subjects(self) -> list[str]:
        """What they are about, in order."""
        return [alert.subject for alert in self.alerts]


@contextmanager
def alerts_seen() -> Generator[AlertsSeen]:
    """Note the alerts that are emitted meanwhile."""
    seen = AlertsSeen()
    telemetry.attach(seen)
    try:
        yield seen
    finally:
        telemetry.detach(seen)


def wrong_key(key_id: str | None = None) -> str:
    """Return a well-formed key that nobody was ever given, under an id of its own or somebody's."""
    return mint_key(key_id=key_id).text


def id_of(key: str) -> str:
    """Return the public id of a key."""
    return key.removeprefix("sk-").partition("_")[0]
