"""What proves that a request came through the proxy in front: facts that a client cannot write.

Trust is a fact about the connection, never about a header that says so. An address alone is no such fact, since servers
rewrite it from a header that anybody may send: uvicorn does, unless told not to.
"""

import hmac
import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, TypeAlias, runtime_checkable

from llm_authmw.authn.credentials import CALLER_HEADERS
from llm_authmw.authn.identity_headers import header_name
from llm_authmw.certificates.certificate import Certificate, dns_name, spiffe_id
from llm_authmw.certificates.parse import first_of, read_certificate
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.keys.hashing import sha256
from llm_authmw.keys.strength import check_chosen_key
from llm_authmw.names import Names, names
from llm_authmw.network import Network, in_networks, parse_network, peer_address
from llm_authmw.secrets import Secret, resolve_secret

Verdict: TypeAlias = Literal["proven", "absent", "wrong"]
"""What a proof finds: the request came through the proxy; nothing says so; or something says so and lies."""

MAX_SECRETS: Final = 2
"""The secret in use, and the one that it is rotated from or to."""
_PATH: Final = "/"
_NO_PORT: Final[tuple[object, ...]] = (None, 0, "0")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")


@runtime_checkable
class Proof(Protocol):
    """A fact about a connection. It judges without waiting, and never raises for what a client sent."""

    @property
    def headers(self) -> frozenset[bytes]:
        """The headers that it reads, in lower case. They are removed from every request, since they hold a secret."""
        ...

    @property
    def strong(self) -> bool:
        """Whether it holds without anybody's word on how a server is set up; some headers are trusted only then."""
        ...

    def judge(self, scope: Any) -> Verdict:
        """Say whether the request came through the proxy."""
        ...


class SharedSecret:
    """A secret that the proxy puts into a header of its own, and that no client knows.

    Args:
        header: The header's name in lower case, such as `x-proxy-proof`. The proxy *sets* it, so that nobody else's stays.
        secret: The secret, of at least 32 characters, best given as `env:NAME`. While it is rotated: a list of the old one and
            the new one.

    Raises:
        ConfigurationError: the header means something else, or a secret is weak.
    """

    __slots__ = ("_digests", "_header", "headers")

    strong: bool = True

    def __init__(self, *, header: str, secret: str | Secret | Sequence[str | Secret]) -> None:
        self._header: Final = header_name("header", header)
        if self._header in CALLER_HEADERS:
            raise ConfigurationError("header", f"{header!r} carries the caller's own credential")
        self.headers: frozenset[bytes] = frozenset({self._header})
        values: Any = secret
        given: list[Any] = [*values] if isinstance(values, list | tuple) else [values]
        if not 1 <= len(given) <= MAX_SECRETS:
            raise ConfigurationError("secret", "takes one secret, or two while it is rotated")
        self._digests: Final = [sha256(check_chosen_key("secret", resolve_secret("secret", value))) for value in given]
        if len(set(self._digests)) < len(given):
            raise ConfigurationError("secret", "names the same secret twice")

    def __repr__(self) -> str:
        return f"SharedSecret(header={self._header.decode()!r})"

    def judge(self, scope: Any) -> Verdict:
        """Compare the one value that there may be, in the same time whatever it is."""
        wanted, length = self._header, len(self._header)
        values = [value for name, value in scope["headers"] if len(name) == length and name.lower() == wanted]
        if not values:
            return "absent"
        if len(values) > 1:
            return "wrong"
        digest = sha256(values[0].strip(b" \t"))
        # Each of them is compared, so that the time does not say which one it is.
        known = [hmac.compare_digest(digest, own) for own in self._digests]
        return "proven" if any(known) else "wrong"


class UnixSocket:
    """A UNIX socket: whoever can open it came through the proxy. The directory that it lies in says who can.

    uvicorn and granian tell that a connection came over one. hypercorn tells nothing, and nothing is no proof.
    """

    __slots__ = ()

    headers: frozenset[bytes] = frozenset()
    strong: bool = True

    def __repr__(self) -> str:
        return "UnixSocket()"

    def judge(self, scope: Any) -> Verdict:
        """Look at both ends: a TCP connection that was reset at once may have lost its client's address, but not its own."""
        client, server = scope.get("client"), scope.get("server")
        # granian shows a client without a name, uvicorn none; an adapter that makes up `server` from the Host header has a client.
        if not server or (client and client[0]):
            return "absent"
        path, port = server[0], server[1]
        return "proven" if isinstance(path, str) and path.startswith(_PATH) and port in _NO_PORT else "absent"


class ProxyCertificate:
    """A client certificate of the proxy's own, on the connection itself (the TLS extension of ASGI).

    The server verifies the certificate; here it is decided whose it is. One match is enough.

    Args:
        fingerprints: SHA-256 of the certificates, in hexadecimal digits, with or without colons.
        spiffe: SPIFFE IDs, compared as they are written.
        dns: DNS names. A wildcard in a certificate stands for nobody.

    Raises:
        ConfigurationError: there is nothing to compare with, or an entry is not what it should be.
    """

    __slots__ = ("_dns", "_fingerprints", "_read", "_spiffe")

    headers: frozenset[bytes] = frozenset()
    strong: bool = True

    def __init__(self, *, fingerprints: Names = (), spiffe: Names = (), dns: Names = ()) -> None:
        self._fingerprints: Final = frozenset(_fingerprint(text) for text in names("fingerprints", fingerprints))
        self._spiffe: Final = frozenset(names("spiffe", spiffe))
        self._dns: Final = frozenset(_own_name(text) for text in names("dns", dns))
        for text in self._spiffe:
            if spiffe_id((text,)) is None:
                raise ConfigurationError("spiffe", f"{text!r} is not a SPIFFE ID such as 'spiffe://example.com/proxy'")
        if not (self._fingerprints or self._spiffe or self._dns):
            raise ConfigurationError("fingerprints", "names no certificate, and neither do spiffe and dns")
        # A connection shows the same certificate with each request, and reading it costs more than all the rest.
        self._read: Final = lru_cache(maxsize=64)(_certificate)

    def __repr__(self) -> str:
        return f"ProxyCertificate(fingerprints={len(self._fingerprints)}, spiffe={sorted(self._spiffe)!r}, dns={sorted(self._dns)!r})"

    def judge(self, scope: Any) -> Verdict:
        """Look at the certificate of the connection. Another one than the proxy's may be a client's own: no lie, only no proof."""
        extensions: Any = scope.get("extensions")
        tls: Any = extensions.get("tls") if extensions else None
        if not tls or tls.get("client_cert_error") is not None:
            return "absent"
        try:
            leaf = first_of(tls.get("client_cert_chain"))
        except InvalidValueError:
            return "absent"
        certificate = None if leaf is None else self._read(leaf)
        if certificate is None:
            return "absent"
        known = (
            certificate.fingerprint in self._fingerprints or certificate.spiffe in self._spiffe or not self._dns.isdisjoint(certificate.dns)
        )
        return "proven" if known else "absent"


class PeerAddress:
    """The address of the connection, on the operator's word that no server rewrites it.

    Start uvicorn with `--no-proxy-headers`, or set `proxy_headers=False`; hypercorn and granian rewrite nothing.

    Args:
        peers: The proxies' own networks.
        server_does_not_rewrite: True, which is that word.

    Raises:
        ConfigurationError: the word is not given, or a network is not one, or the networks cover everybody.
    """

    __slots__ = ("_networks",)

    headers: frozenset[bytes] = frozenset()
    strong: bool = False

    def __init__(self, *, peers: Names, server_does_not_rewrite: bool = False) -> None:
        parsed: list[Network] = []
        for text in names("peers", peers):
            try:
                parsed.append(parse_network(text))
            except InvalidValueError as error:
                raise ConfigurationError("peers", str(error)) from None
        if not parsed:
            raise ConfigurationError("peers", "names no proxy")
        if any(network.prefixlen == 0 for network in _collapsed(parsed)):
            raise ConfigurationError("peers", "covers every address, so that everybody would be a proxy")
        if server_does_not_rewrite is not True:
            raise ConfigurationError(
                "server_does_not_rewrite",
                "must be True beside peers=: an address list alone proves nothing, since a server may take the address of the peer from"
                " a header that the client wrote (uvicorn does for peers on 127.0.0.1, and for all with --forwarded-allow-ips '*')."
                " Say so once the server runs without that, or give proof= instead: SharedSecret, UnixSocket, ProxyCertificate",
            )
        self._networks: Final = tuple(parsed)

    def __repr__(self) -> str:
        return f"PeerAddress(peers={[str(network) for network in self._networks]!r})"

    def judge(self, scope: Any) -> Verdict:
        """Compare the peer's address."""
        client = scope.get("client")
        # No connection comes from port zero: it is what uvicorn leaves behind where it has rewritten the address after all.
        if not client or client[1] in _NO_PORT:
            return "absent"
        address = peer_address(scope)
        return "proven" if address is not None and in_networks(address, self._networks) else "absent"


def chosen_proof(*, proof: Proof | None, peers: Names | None, server_does_not_rewrite: bool) -> Proof:
    """Return the proof that a layer's options name.

    Args:
        proof: A proof, or None where `peers` is given.
        peers: The proxies' networks, or None where `proof` is given.
        server_does_not_rewrite: The word that `peers` needs.

    Raises:
        ConfigurationError: neither or both are given, or the proof is none.
    """
    if peers is not None:
        if proof is not None:
            raise ConfigurationError("peers", "is given beside proof=: the proof alone decides, so leave one of them out")
        return PeerAddress(peers=peers, server_does_not_rewrite=server_does_not_rewrite)
    given: Any = proof
    if given is None:
        raise ConfigurationError("proof", "is missing: what shows that a request came through the proxy? SharedSecret, UnixSocket, …")
    if server_does_not_rewrite is not False:
        raise ConfigurationError("server_does_not_rewrite", "is for peers=, and would be ignored beside proof=")
    if not isinstance(given, Proof) or isinstance(given, type):
        raise ConfigurationError("proof", "takes SharedSecret(…), UnixSocket(), ProxyCertificate(…), or an object with their three members")
    return given


def spent_headers(proof: Proof, inner: Any) -> frozenset[bytes]:
    """Return the headers of a proof that a layer has to remove, because no layer further in of the same run reads them too.

    Args:
        proof: The layer's own.
        inner: The layer beside it, or None.
    """
    still_read: set[bytes] = set()
    while inner is not None:
        other = getattr(inner, "proof", None)
        if isinstance(other, Proof):
            still_read |= other.headers
        inner = inner.neighbour
    return proof.headers - still_read


def _collapsed(networks: list[Network]) -> list[Network]:
    v4 = [network for network in networks if isinstance(network, ipaddress.IPv4Network)]
    v6 = [network for network in networks if isinstance(network, ipaddress.IPv6Network)]
    return [*ipaddress.collapse_addresses(v4), *ipaddress.collapse_addresses(v6)]


def _fingerprint(text: str) -> bytes:
    digits = text.replace(":", "").lower()
    if _FINGERPRINT.fullmatch(digits) is None:
        raise ConfigurationError("fingerprints", f"{text!r} is not the SHA-256 of a certificate: 64 hexadecimal digits")
    return bytes.fromhex(digits)


def _own_name(text: str) -> str:
    try:
        name = dns_name(text)
    except InvalidValueError as error:
        raise ConfigurationError("dns", f"{text!r}: {error}") from None
    if "*" in name:
        raise ConfigurationError("dns", f"{text!r} stands for more than one host: name the proxies")
    return name


def _certificate(leaf: bytes) -> Certificate | None:
    try:
        return read_certificate(leaf)
    except InvalidValueError:
        return None
