"""Where a provider's endpoints are: as configured, or as the issuer's metadata say."""

from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeAlias

from llm_authmw.cache import Cache
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import IssuerUnavailableError
from llm_authmw.tokens.discovery import check_issuer, discover
from llm_authmw.tokens.http import Fetcher, check_url

EndpointURL: TypeAlias = Callable[[], Awaitable[str]]
"""Returns where an endpoint is; may ask the provider for its metadata first."""
EndpointName: TypeAlias = Literal["introspection_endpoint", "userinfo_endpoint"]

TTL: Final = 3_600.0
MAX_AGE: Final = 86_400.0


class FixedURL:
    """An endpoint whose address was configured.

    Raises:
        ConfigurationError: no provider may be asked there.
    """

    def __init__(self, option: str, url: str) -> None:
        self._url: Final = check_url(option, url)

    async def __call__(self) -> str:
        """Return the address."""
        return self._url


class DiscoveredURL:
    """An endpoint whose address is in the issuer's metadata: asked for when it is first needed, and again every hour.

    Args:
        issuer: The issuer.
        name: What the metadata call the endpoint.
        fetcher: Asks.
        clock: Gives the monotonic time.

    Raises:
        ConfigurationError: no metadata can be found by this issuer.
    """

    def __init__(self, issuer: str, name: EndpointName, *, fetcher: Fetcher, clock: Clock = SYSTEM_CLOCK) -> None:
        self._issuer: Final = check_issuer("issuer", issuer)
        self._name: Final[EndpointName] = name
        self._fetcher: Final = fetcher
        self._clock: Final = clock
        # An address that was good a while ago is, most likely, good still: the metadata being away need not stop anything.
        self._known: Final[Cache[str, str]] = Cache(max_entries=1, ttl=TTL, stale_ttl=MAX_AGE - TTL, clock=clock)

    async def __call__(self) -> str:
        """Return the address.

        Raises:
            IssuerUnavailableError: the metadata could not be had, or name none.
        """
        return await self._known.get(self._name, self._ask)

    async def _ask(self, name: str) -> str:
        url: str | None = getattr(await discover(self._fetcher, self._issuer, clock=self._clock), name)
        if url is None:
            raise IssuerUnavailableError(f"its metadata name no {name} that may be asked")
        return url
