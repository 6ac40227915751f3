"""HTTP to collectors: https or loopback, no redirects, and bounds on time and size, whoever is at the other end."""

import math
import re
import ssl
from collections.abc import Mapping, MutableMapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import anyio
import msgspec
from anyio.lowlevel import current_token

from llm_authmw.clock import Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.sinks.options import check_seconds
from llm_authmw.sinks.tls import trouble
from llm_authmw.tokens.http import HTTPResponse, url_problem

if TYPE_CHECKING:
    import httpx

MAX_ANSWER: Final = 65_536
"""Bytes of an answer that are read. What a collector has to say is in the status, or in a few words of JSON."""
TIMEOUT: Final = 4.0
"""Seconds that a request may take in all: less than what a sink gives its place, so that it is told why."""
MAX_HOLD: Final = 300.0
"""Seconds that a collector may ask us to stay away for."""

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 §5.6.2
_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OURS: Final = frozenset(
    {
        *("accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host", "idempotency-key", "te"),
        *("trailer", "transfer-encoding", "upgrade"),
    }
)


class Answer(msgspec.Struct, frozen=True):
    """What a collector answered.

    Attributes:
        status: The status.
        body: Its body, or the beginning of it.
        whole: Whether that is all of it.
    """

    status: int
    body: bytes
    whole: bool

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, body=<{len(self.body)} bytes>)"


class Collector:
    """Where batches are sent to.

    TLS certificates are always verified.

    Args:
        url: Where it is, which may hold a secret; the option's name in errors is "url".
        headers: Header fields of every request, with secrets.
        tls: The context of TLS.
        clock: Tells the time.
        timeout: Seconds that a request may take in all.

    Raises:
        ConfigurationError: the URL is not https, or http on this machine, or a header field cannot be sent or is ours to set.
    """

    def __init__(
        self, url: str | Secret, *, headers: Mapping[str, str | Secret], tls: ssl.SSLContext, clock: Clock, timeout: float = TIMEOUT
    ) -> None:
        # Now, since it takes some time, and later a loop would stand still for it.
        from llm_authmw.sinks import http_client  # noqa: PLC0415 - says why

        self._http: Final = http_client
        self._url: Final = resolve_secret("url", url)
        problem = url_problem(self._url.reveal())
        if problem is not None:
            raise ConfigurationError("url", problem)
        self._headers: Final = {name.lower(): _header(name, value) for name, value in headers.items()}
        self._tls: Final = tls
        self._timeout: Final = check_seconds("timeout", timeout)
        self._clock: Final = clock
        # Connections belong to one loop, and a process may run several.
        self._transports: MutableMapping[object, httpx.AsyncHTTPTransport] = WeakKeyDictionary()
        self._held_until: float = -math.inf

    @property
    def place(self) -> str:
        """The scheme, host and port: what follows them may be a secret."""
        parts = urlsplit(self._url.reveal())
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def path(self) -> str:
        """The path. It may be a secret."""
        return urlsplit(self._url.reveal()).path

    def elsewhere(self, path: str, *, query: str = "") -> str:
        """Return the URL of another path of the same host. It may hold a secret."""
        return urlsplit(self._url.reveal())._replace(path=path, query=query).geturl()

    async def post(self, content: bytes, headers: Mapping[str, str], *, url: str | None = None) -> Answer:
        """Send a body; return an answer that is no redirect, whatever its status.

        Raises:
            SinkError: there was no answer in time, or a redirect, or the collector has asked to be left alone for now.
        """
        if self._clock.monotonic() < self._held_until:
            raise SinkError("has asked to be left alone for now")
        sent = {"user-agent": "llm_authmw", **self._revealed(), **headers, "accept-encoding": "identity"}
        try:
            with anyio.fail_after(self._timeout):
                return await self._ask(url or self._url.reveal(), content, sent)
        except TimeoutError:
            raise SinkError("did not answer in time") from None
        except SinkError:
            raise
        except Exception as error:  # noqa: BLE001 - httpx's errors hold the request, with its credentials
            raise SinkError(trouble(error)) from None

    async def aclose(self) -> None:
        """Close this loop's connections; the next request opens new ones."""
        transport = self._transports.pop(current_token().native_token, None)
        if transport is not None:
            with anyio.CancelScope(shield=True):
                await transport.aclose()

    def forked(self) -> None:
        """Forget the parent's connections."""
        self._transports = WeakKeyDictionary()

    def _revealed(self) -> dict[str, str]:
        return {name: value.reveal() for name, value in self._headers.items()}

    async def _ask(self, url: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        response = await self._http.post(self._transport(), url, content, headers)
        try:
            return await self._read(response)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    async def _read(self, response: HTTPResponse) -> Answer:
        if 300 <= response.status_code < 400:
            # Whoever it leads to would get the records, and the secrets in the header.
            raise SinkError("answered with a redirect, and none is followed")
        if response.status_code in {429, 503}:
            self._hold(response.headers.get("retry-after", ""))
        body = bytearray()
        with anyio.CancelScope() as scope:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_ANSWER:
                    # Not `break`, which would leave a client's own generators to the garbage collector: this ends them.
                    scope.cancel()
        return Answer(response.status_code, bytes(body[:MAX_ANSWER]), len(body) <= MAX_ANSWER)

    def _hold(self, retry_after: str) -> None:
        """Stay away for as long as the collector wants (RFC 9110 §10.2.3), within reason."""
        seconds = 0.0
        if retry_after.isascii() and retry_after.isdecimal():
            seconds = float(retry_after[:9])
        else:
            try:
                seconds = parsedate_to_datetime(retry_after).timestamp() - self._clock.now()
            except (ValueError, OverflowError):
                return
        self._held_until = self._clock.monotonic() + min(max(seconds, 0.0), MAX_HOLD)

    def _transport(self) -> "httpx.AsyncHTTPTransport":
        loop = current_token().native_token
        transport = self._transports.get(loop)
        if transport is None:
            transport = self._transports[loop] = self._http.make_transport(self._tls)
        return transport


def _header(name: str, value: str | Secret) -> Secret:
    given: Any = name
    if not isinstance(given, str) or _TOKEN.fullmatch(given) is None:
        raise ConfigurationError("headers", "has a name that is no header field's")
    if name.lower() in _OURS:
        raise ConfigurationError("headers", f"{name.lower()} is not yours to set")
    secret = resolve_secret("headers", value)
    if _VALUE.fullmatch(secret.reveal()) is None:
        raise ConfigurationError("headers", f"the value of {name.lower()} is not printable ASCII, or begins or ends with a blank")
    return secret
