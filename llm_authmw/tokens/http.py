"""HTTP to identity providers: https or loopback, no redirects, and bounds on time and size, whoever is at the other end."""

import functools
import math
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Protocol
from urllib.parse import SplitResult, urlencode, urlsplit
from weakref import WeakKeyDictionary

import anyio
import msgspec
from anyio.lowlevel import current_token

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.network import parse_address

DEADLINE: Final = 5.0
MAX_BYTES: Final = 1_048_576

# Nothing that two readers of URLs could take for different things: no backslash, no blank, no percent sign in a host.
_URL: Final = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_PORT: Final = re.compile(r"(?::[0-9]{1,5})?")
_KEEPALIVE: Final = 2.0
"""Seconds that an idle connection is kept: less than after which common servers hang up (Node: 5), so that no call meets that."""

_TOO_BIG: Final = "its answer is too big"


class HTTPResponse(Protocol):
    """An answer whose body is still to come, as `httpx.Response` has it."""

    @property
    def status_code(self) -> int:
        """The status."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """The header; its names are looked up in any case."""
        ...

    def aiter_raw(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, not decompressed."""
        ...


class HTTPClient(Protocol):
    """What is needed of a client: an `httpx.AsyncClient` and an `httpx2.AsyncClient` have it."""

    def stream(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = False,
    ) -> AbstractAsyncContextManager[HTTPResponse]:
        """Send a request; the answer's body comes while the context is open. May raise anything."""
        ...


class _KeptClient(HTTPClient, Protocol):
    async def aclose(self) -> None: ...


class Answer(msgspec.Struct, frozen=True):
    """What a provider answered.

    Attributes:
        status: The status; never 3xx.
        media_type: The media type in lower case, without parameters; empty where it was not said.
        body: The body. It may hold what is known of a person, and is not printed.
    """

    status: int
    media_type: str
    body: bytes

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, media_type={self.media_type!r}, body=<{len(self.body)} bytes>)"


class Fetcher:
    """Ask providers.

    TLS certificates are always verified, with the authorities that Python's `certifi` or the environment (`SSL_CERT_FILE`) names.

    Args:
        client: A client of your own, for a private certificate authority or a client certificate. It belongs to you, to your event
            loop, and its time limits and cookies are yours. Left out: one is made per event loop, kept until `aclose`.
        deadline: Seconds that a call may take in all.
        max_bytes: Bytes that an answer's body may have.

    Raises:
        ConfigurationError: `deadline` or `max_bytes` is not above zero.
    """

    def __init__(self, client: HTTPClient | None = None, *, deadline: float = DEADLINE, max_bytes: int = MAX_BYTES) -> None:
        if not 0 < deadline < math.inf:
            raise ConfigurationError("deadline", "is a number of seconds above zero")
        if max_bytes < 1:
            raise ConfigurationError("max_bytes", "is a number above zero")
        self.deadline: Final = deadline
        self._max_bytes: Final = max_bytes
        self._given: Final = client
        if client is None:
            # Now, since it takes some time, and later a loop would stand still for it.
            _client_factory()
        # A client belongs to one loop, and a process may run several.
        self._kept: Final[MutableMapping[object, _KeptClient]] = WeakKeyDictionary()

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
        """Ask for what is at `url`, which `check_url` has let pass.

        Raises:
            IssuerUnavailableError: there was no whole answer in time, it was too big, compressed, or a redirect.
        """
        return await self._ask("GET", url, None, {**(headers or {})})

    async def post_form(self, url: str, fields: Mapping[str, str], *, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a form to `url`, which `check_url` has let pass. Header names are in lower case.

        Raises:
            IssuerUnavailableError: as `get`.
        """
        form = {"content-type": "application/x-www-form-urlencoded"}
        return await self._ask("POST", url, urlencode(fields).encode(), {**(headers or {}), **form})

    async def aclose(self) -> None:
        """Close the connections that this loop's client has kept; the next call opens new ones."""
        client = self._kept.pop(current_token().native_token, None)
        if client is not None:
            with anyio.CancelScope(shield=True):
                await client.aclose()

    async def _ask(self, method: str, url: str, content: bytes | None, headers: Mapping[str, str]) -> Answer:
        if url_problem(url) is not None:
            raise IssuerUnavailableError("its address is not one that may be asked")
        # Compressed, a small answer could become a big one.
        sent = {"accept": "application/json", "user-agent": "llm_authmw", **headers, "accept-encoding": "identity"}
        try:
            with anyio.fail_after(self.deadline):
                async with self._client().stream(method, url, content=content, headers=sent, follow_redirects=False) as response:
                    return await self._read(response)
        except TimeoutError:
            raise IssuerUnavailableError("it did not answer in time") from None
        except IssuerUnavailableError:
            raise
        except Exception as error:  # noqa: BLE001 - of whatever client; its errors hold the request, with its credentials
            raise IssuerUnavailableError(_problem(error)) from None

    async def _read(self, response: HTTPResponse) -> Answer:
        headers = response.headers
        if 300 <= response.status_code < 400:
            raise IssuerUnavailableError("it answered with a redirect, and none is followed")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise IssuerUnavailableError("its answer is compressed, which was not asked for")
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > self._max_bytes:
            raise IssuerUnavailableError(_TOO_BIG)
        body = bytearray()
        with anyio.CancelScope() as scope:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > self._max_bytes:
                    # Not `break`, which would leave a client's own generators to the garbage collector: this ends them.
                    scope.cancel()
        if len(body) > self._max_bytes:
            raise IssuerUnavailableError(_TOO_BIG)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        return Answer(response.status_code, media_type, bytes(body))

    def _client(self) -> HTTPClient:
        if self._given is not None:
            return self._given
        loop = current_token().native_token
        client = self._kept.get(loop)
        if client is None:
            client = self._kept[loop] = _client_factory()()
        return client


def check_url(option: str, url: str) -> str:
    """Return the URL if a provider may be asked at it: https, or http to a loopback host.

    Raises:
        ConfigurationError: it may not. The text does not quote it.
    """
    problem = url_problem(url)
    if problem is not None:
        raise ConfigurationError(option, problem)
    return url


def url_problem(url: object) -> str | None:
    """Return why no provider may be asked at this URL, or None."""
    if not isinstance(url, str) or len(url) > 2048 or _URL.fullmatch(url) is None:
        return "is a URL of at most 2048 printable ASCII characters"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "is not a URL"
    if "@" in parts.netloc:
        return "is a URL without a user and a password: credentials have options of their own"
    if "#" in url:
        return "is a URL without a fragment"
    host = _HOST.match(parts.netloc)
    if host is None or _PORT.fullmatch(parts.netloc, host.end()) is None:
        return "is a URL with a host"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts)):
        return None
    return "is an https URL (http is for loopback hosts)"


def is_loopback_url(url: str) -> bool:
    """Say whether the URL's host is this machine."""
    return _is_loopback(urlsplit(url))


def _is_loopback(parts: SplitResult) -> bool:
    host = parts.hostname or ""
    address = parse_address(host)
    return host == "localhost" if address is None else address.is_loopback


def _problem(error: BaseException) -> str:
    """Say what kind of failure it was, in a text that is ours."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "its TLS certificate is not trusted"
        if isinstance(cause, socket.gaierror):
            return "its name could not be resolved"
        cause = cause and (cause.__cause__ or cause.__context__)
    return f"it could not be reached, or broke off ({type(error).__name__})"


@functools.cache
def _client_factory() -> Callable[[], _KeptClient]:
    import httpx  # noqa: PLC0415 - takes 60 ms, and an app whose keys are all in its code needs it not

    tls = httpx.create_ssl_context()

    def make() -> _KeptClient:
        return httpx.AsyncClient(
            verify=tls,
            # The deadline is for the whole of a call.
            timeout=None,  # noqa: S113 - see above
            limits=httpx.Limits(keepalive_expiry=_KEEPALIVE),
            # Plain http is for this machine: a proxy that the environment names would carry it, unencrypted, to another one.
            mounts={"http://": None},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    # The first one loads the rest of httpx; a loop would stand still for that.
    make()
    return make
