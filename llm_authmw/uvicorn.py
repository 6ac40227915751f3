r"""For uvicorn: the client's certificate in the scope, which uvicorn itself does not put there.

Name one of these protocols beside uvicorn's own options for TLS::

    uvicorn proxy:app --http llm_authmw.uvicorn:H11TLSProtocol --ssl-keyfile server.key --ssl-certfile server.pem \
        --ssl-ca-certs clients.pem --ssl-cert-reqs 2

Both supply the ASGI TLS extension, for requests and for WebSockets, whichever library uvicorn uses for these. OpenSSL has
verified the certificate against `--ssl-ca-certs` before anything of a request is read. With `--ssl-cert-reqs 1` a client
without a certificate is let in, and one with a bad certificate is not.
"""

import asyncio
import functools
import importlib.util
import ssl
from typing import Any, Final

try:
    from uvicorn.protocols.http.h11_impl import H11Protocol
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError("llm_authmw.uvicorn is for apps that uvicorn serves: pip install 'llm-authmw[server]'") from _error

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.certificates.parse import subject_of

_VERSIONS: Final = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
"""As TLS itself numbers them (RFC 8446 §4.1.2)."""


class TLSExtension(asyncio.Protocol):
    """Supplies the ASGI TLS extension (version 0.2). Mix it into a protocol of uvicorn's, HTTP or WebSocket, left of it.

    The chain holds the client's own certificate and no other: what else a client sends has served to verify it.
    """

    app: Any
    ws_protocol_class: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Look at the handshake, which is over, for the scopes of everything that follows on the connection."""
        super().connection_made(transport)
        connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        if connection is not None:
            self.app = _Extended(self.app, tls_extension(connection))
            if self.ws_protocol_class is not None:
                self.ws_protocol_class = with_tls_extension(self.ws_protocol_class)


class H11TLSProtocol(TLSExtension, H11Protocol):
    """uvicorn's HTTP protocol over h11, with the TLS extension."""


if importlib.util.find_spec("httptools") is not None:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    class HttpToolsTLSProtocol(TLSExtension, HttpToolsProtocol):
        """uvicorn's HTTP protocol over httptools, with the TLS extension. It is here where httptools is installed."""


class _Extended:
    """The app, for one connection."""

    __slots__ = ("_app", "_tls")

    def __init__(self, app: ASGIApp, tls: dict[str, Any]) -> None:
        self._app = app
        self._tls = tls

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["extensions"] = {**(scope.get("extensions") or {}), "tls": self._tls}
        await self._app(scope, receive, send)


@functools.cache
def with_tls_extension(protocol: type[asyncio.Protocol]) -> type[asyncio.Protocol]:
    """Return a protocol of uvicorn's with the TLS extension; the protocol itself where it has it already."""
    if issubclass(protocol, TLSExtension):
        return protocol
    return type(f"TLS{protocol.__name__}", (TLSExtension, protocol), {})


def tls_extension(connection: ssl.SSLObject) -> dict[str, Any]:
    """Return the TLS extension of a connection, as its specification names the members.

    `server_cert` is None, as the specification has it for servers that cannot tell: Python does not say which one it has shown.
    `client_cert_error` is None, since OpenSSL ends the handshake where it finds one.
    """
    der = connection.getpeercert(binary_form=True)
    cipher = connection.cipher()
    return {
        "server_cert": None,
        "client_cert_chain": [] if der is None else [ssl.DER_cert_to_PEM_cert(der)],
        "client_cert_name": None if der is None else subject_of(der),
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(connection.version() or ""),
        "cipher_suite": None if cipher is None else _cipher_suites().get(cipher[0]),
    }


@functools.cache
def _cipher_suites() -> dict[str, int]:
    """Return the numbers of all cipher suites that OpenSSL knows by name; their upper half says in which protocol."""
    everything = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    everything.set_ciphers("ALL:@SECLEVEL=0")
    return {suite["name"]: suite["id"] & 0xFFFF for suite in everything.get_ciphers()}
