"""Keys that an issuer publishes: fetched once for all who wait, renewed behind the requests, kept while the issuer is down.

Three things pace what the issuer is asked. After a success the keys are fresh for `ttl`. A token that names a key which is not
among them may ask once per `interval`, so that made-up key ids cost nothing (CVE-2025-64527). After a failure, of whatever kind,
nobody asks until a back-off is over, which doubles with every further failure.
"""

import secrets
from collections.abc import Callable, MutableMapping
from math import inf
from typing import Final
from weakref import WeakKeyDictionary

import anyio
from anyio.lowlevel import current_token

from llm_authmw.background import Background
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.context import logger
from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.strict_json import parse
from llm_authmw.telemetry import Fetched, emit
from llm_authmw.tokens.discovery import Metadata, check_issuer, discover
from llm_authmw.tokens.fetches import Outages, fetching
from llm_authmw.tokens.http import Fetcher, check_url
from llm_authmw.tokens.keys import KeyRing, VerificationKey, read_keys

TTL: Final = 600.0
MAX_AGE: Final = 86_400.0
INTERVAL: Final = 30.0
FIRST_BACKOFF: Final = 1.0
LONGEST_BACKOFF: Final = 60.0
_TOLERATED: Final = 3
"""Failures in a row of which the third is alerted of; the first one already, where no keys are at hand."""

_ACCEPT: Final = {"accept": "application/jwk-set+json, application/json"}
_CLOSED: Final = "asking it was broken off, since this is being closed"


def _jitter() -> float:
    return secrets.randbelow(1 << 20) / (1 << 20)


class _Flight:
    """One attempt under way in one event loop, and the callers who wait for it."""

    __slots__ = ("began", "done", "for_unknown", "problem")

    def __init__(self, began: float) -> None:
        self.began = began
        self.done = anyio.Event()
        self.for_unknown = False
        """Whether somebody waits for a key that is not among those at hand."""
        self.problem: str | None = _CLOSED


class RemoteKeys:
    """The keys that one issuer publishes, as a `KeySource`.

    Args:
        issuer: The issuer's identifier. Without `jwks_url` its metadata say where the keys are.
        jwks_url: Where its keys are.
        fetcher: Asks; its deadline is for one attempt as a whole. It belongs to whoever made it.
        ttl: Seconds after which the keys are fetched anew, while those at hand stay in use.
        max_age: Seconds after which keys that could not be fetched anew are used no longer.
        interval: Seconds between two fetches for keys that are not among those at hand.
        jitter: Gives a random number from 0 up to 1, so that many processes do not come back all at once.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: an address is not one that may be asked, or a number is out of range.
    """

    def __init__(
        self,
        issuer: str,
        *,
        jwks_url: str | None = None,
        fetcher: Fetcher,
        ttl: float = TTL,
        max_age: float = MAX_AGE,
        interval: float = INTERVAL,
        jitter: Callable[[], float] = _jitter,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if not 0 < ttl <= max_age < inf:
            raise ConfigurationError("ttl", "is a number of seconds above zero, and at most max_age")
        if not 0 < interval < inf:
            raise ConfigurationError("interval", "is a number of seconds above zero")
        self._issuer: Final = check_issuer("issuer", issuer) if jwks_url is None else issuer
        self._jwks_url: Final = None if jwks_url is None else check_url("jwks_url", jwks_url)
        self._fetcher: Final = fetcher
        self._ttl: Final = ttl
        self._max_age: Final = max_age
        self._interval: Final = interval
        self._jitter: Final = jitter
        self._clock: Final = clock
        self._monotonic: Final = clock.monotonic
        self._outages: Final = Outages("jwks", issuer, clock.monotonic)
        self._background: Final = Background()
        # An event belongs to one loop, and a process may run several.
        self._flights: Final[MutableMapping[object, _Flight]] = WeakKeyDictionary()
        self._ring: KeyRing | None = None
        self._metadata: Metadata | None = None
        self._ends = -inf
        """When the keys at hand are used no longer."""
        self._due = -inf
        """When they are to be fetched anew, or else dropped: never after they end."""
        self._failures = 0
        self._retry = -inf
        """Until when nobody asks, after a failure."""
        self._unknown = -inf
        """Until when a key that is not at hand counts as one that the issuer does not have."""

    def __repr__(self) -> str:
        return f"RemoteKeys({self._issuer!r})"

    @property
    def metadata(self) -> Metadata | None:
        """The issuer's metadata as of the last fetch; None before that, and where `jwks_url` made them needless."""
        return self._metadata

    def find(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...] | None:
        """Return the keys that fit, from what is at hand; None where the issuer must be asked. Never waits."""
        self.renew()
        ring = self._ring
        if ring is None:
            return None
        return ring.candidates(kid, algorithm) or (() if self._monotonic() < self._unknown else None)

    def renew(self) -> None:
        """Begin to fetch the keys anew where they are due, or drop them where they are too old. Never waits."""
        now = self._monotonic()
        if self._ring is not None and now >= self._due:
            if now >= self._ends:
                self._adopt(None)
            else:
                self._depart(now)

    async def fetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Ask the issuer, together with all who ask it now; empty where it has no such key.

        Raises:
            IssuerUnavailableError: it could not be asked, or may not be asked again so soon.
        """
        found = self.find(kid, algorithm)
        if found is not None:
            return found
        flight = self._flights.get(current_token().native_token)
        if flight is None:
            now = self._monotonic()
            if now < self._retry:
                emit(Fetched("jwks", self._issuer, 0.0, "skipped"))
                raise IssuerUnavailableError("it failed a moment ago, and is not asked again yet", retry_after=self._retry - now)
            flight = self._depart(now)
        flight.for_unknown = flight.for_unknown or self._ring is not None
        await flight.done.wait()
        if flight.problem is not None:
            raise IssuerUnavailableError(flight.problem, retry_after=max(self._retry - self._monotonic(), FIRST_BACKOFF / 2))
        found = () if self._ring is None else self._ring.candidates(kid, algorithm)
        if not found:
            self._unknown = flight.began + self._interval
        return found

    async def aclose(self) -> None:
        """End what is under way in this loop. The keys stay, and age."""
        await self._background.aclose()

    def _depart(self, now: float) -> _Flight:
        """Return the attempt under way, or begin one. No request carries it: who began it may go away, and others still get their keys."""
        flights, loop = self._flights, current_token().native_token
        flight = flights.get(loop)
        if flight is not None:
            return flight
        flight = flights[loop] = _Flight(now)
        # In another loop, where this one is not seen, none needs to begin while it may still succeed.
        self._due = min(now + self._fetcher.deadline, self._ends)

        async def land() -> None:
            try:
                await self._attempt(flight)
            finally:
                del flights[loop]
                flight.done.set()

        self._background.start(land)
        return flight

    async def _attempt(self, flight: _Flight) -> None:
        try:
            with fetching("jwks", self._issuer, self._monotonic), anyio.fail_after(self._fetcher.deadline):
                metadata, ring = await self._ask()
        except TimeoutError:
            self._fail(flight, "it did not answer in time")
        except IssuerUnavailableError as error:
            self._fail(flight, str(error))
        except Exception:  # noqa: BLE001 - a defect of ours, which must not turn a token away whose key is at hand
            logger.exception("the keys of %s could not be read", self._issuer)
            self._fail(flight, "its keys could not be read")
        else:
            self._metadata = metadata
            self._adopt(ring)
            self._ends, self._due = flight.began + self._max_age, flight.began + self._ttl
            if flight.for_unknown:
                # Now, and not when those who wait for it wake up: a key that has just gone would be asked for before that.
                self._unknown = flight.began + self._interval
            if self._failures:
                logger.info("the keys of %s could be fetched again", self._issuer)
            self._failures, self._retry = 0, -inf
            self._outages.end()
            flight.problem = None

    async def _ask(self) -> tuple[Metadata | None, KeyRing]:
        metadata, url = None, self._jwks_url
        if url is None:
            # Every time: the keys may have moved.
            metadata = await discover(self._fetcher, self._issuer, clock=self._clock)
            url = metadata.jwks_uri
            if url is None:
                raise IssuerUnavailableError("its metadata name no address that its keys may be fetched from")
        answer = await self._fetcher.get(url, headers=_ACCEPT)
        if answer.status != 200:
            raise IssuerUnavailableError(f"its keys were asked for, and it answered {answer.status}")
        try:
            ring = read_keys(parse(answer.body))
        except ValueError:
            raise IssuerUnavailableError("what it sent is not a key set") from None
        if not ring.keys:
            raise IssuerUnavailableError("its key set has no key that can be used")
        return metadata, ring

    def _adopt(self, ring: KeyRing | None) -> None:
        """Put these keys in the place of those at hand. A key that stays is the same object, since what it verified still stands."""
        had = self._ring
        before = {} if had is None else {key.material: key for key in had.keys}
        if ring is not None:
            news = [key for key in ring.keys if key.material not in before]
            if ring.skipped and (had is None or had.skipped != ring.skipped or news):
                logger.warning("keys in the set of %s that cannot be used, and are left out: %d", self._issuer, ring.skipped)
            ring = KeyRing((before.pop(key.material, key) for key in ring.keys), skipped=ring.skipped)
        for gone in before.values():
            gone.current = False
        self._ring = ring

    def _fail(self, flight: _Flight, problem: str) -> None:
        flight.problem = problem
        backoff = min(FIRST_BACKOFF * 2 ** min(self._failures, 16), LONGEST_BACKOFF) * (0.5 + self._jitter() / 2)
        self._failures += 1
        self._retry = self._monotonic() + backoff
        self._due = min(self._retry, self._ends)
        logger.warning("the keys of %s could not be fetched: %s; the next attempt is in %.1f s", self._issuer, problem, backoff)
        if self._ring is None or self._failures >= _TOLERATED:
            self._outages.begin("The keys of an issuer cannot be fetched, so that its tokens are, or soon will be, refused.")
