"""Who is at the other end: networks, and the client's address behind proxies that the operator trusts."""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.names import Names, names

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_FORWARDED_PAIR: Final = re.compile(r'[ \t]*([A-Za-z]+)=("(?:[^"\\]|\\.)*"|[^\s",;=]+)[ \t]*')
_MAX_HOPS: Final = 32


def parse_network(text: str) -> Network:
    """Read a network such as `10.0.0.0/8`, or one address.

    IPv4 networks inside IPv6 (`::ffff:10.0.0.0/104`) are the IPv4 network, as `parse_address` has it.

    Raises:
        InvalidValueError: `text` is neither, has host bits set (`10.0.0.1/8` may mean two things), or has a scope.
    """
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        raise InvalidValueError(f"{text!r} is not a network such as '10.0.0.0/8' or an address; host bits must be zero") from None
    if isinstance(network, ipaddress.IPv6Network):
        if network.network_address.scope_id is not None:
            raise InvalidValueError(f"{text!r} has a scope, and no address that is compared with it ever has one")
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


def parse_address(text: str) -> Address | None:
    """Read one address; None for anything else. An IPv4 address inside an IPv6 one (`::ffff:10.0.0.1`) is the IPv4 address.

    Scoped addresses (`fe80::1%eth0`) are refused: the scope is the sender's to choose (CVE-2026-26310).
    """
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        return address.ipv4_mapped or address
    return address


def in_networks(address: Address, networks: Iterable[Network]) -> bool:
    """Say whether the address is in one of the networks."""
    return any(address in network for network in networks)


class TrustedProxies:
    """Whose word about the client's address is taken: the one trusted-proxy setting.

    The client is the right-most entry that is not itself a trusted proxy. Only one header family is read, and only
    when the connection itself comes from a trusted proxy. Where an entry cannot be read, the address is unknown, and
    everything that depends on it is denied.

    Args:
        networks: The proxies' own networks. Left out: none, and the peer is the client.
        header: The header that these proxies write.
        unix_socket: Whether a connection without an address (a UNIX socket) is a trusted proxy.

    Raises:
        ConfigurationError: A network is not one, or covers everybody.
    """

    __slots__ = ("_header", "_networks", "_unix_socket")

    def __init__(
        self,
        networks: Names = (),
        *,
        header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for",
        unix_socket: bool = False,
    ) -> None:
        if header not in ("x-forwarded-for", "forwarded"):
            raise ConfigurationError("header", "is 'x-forwarded-for' or 'forwarded'")
        parsed: list[Network] = []
        for text in names("networks", networks):
            try:
                network = parse_network(text)
            except InvalidValueError as error:
                raise ConfigurationError("networks", str(error)) from None
            if network.prefixlen == 0:
                raise ConfigurationError("networks", f"{text!r} trusts everybody, who could then choose any address")
            parsed.append(network)
        if not parsed and not unix_socket:
            raise ConfigurationError("networks", "names no proxy; leave the setting out where there is none")
        self._networks = tuple(parsed)
        self._header = header.encode()
        self._unix_socket = unix_socket

    def __repr__(self) -> str:
        return f"TrustedProxies({[str(network) for network in self._networks]!r}, header={self._header.decode()!r})"

    def client_address(self, scope: Any) -> Address | None:
        """Return the client's address, or None where it is not known."""
        peer = peer_address(scope)
        if peer is None:
            if scope.get("client") is not None or not self._unix_socket:
                return None
        elif not in_networks(peer, self._networks):
            return peer
        values = [value for name, value in scope["headers"] if name.lower() == self._header]
        try:
            text = b",".join(values).decode("ascii")
        except UnicodeDecodeError:
            return None
        hops = _forwarded_hops(text) if self._header == b"forwarded" else text.split(",")
        if hops is None or len(hops) > _MAX_HOPS:
            return None
        return self._right_most(hops)

    def _right_most(self, hops: Sequence[str]) -> Address | None:
        address: Address | None = None
        for hop in reversed(hops):
            address = parse_address(_without_port(hop.strip(" \t")))
            if address is None or not in_networks(address, self._networks):
                break
        # Where everybody in the chain is a proxy of ours, the request began at the first of them.
        return address


def peer_address(scope: Any) -> Address | None:
    """Return the address of the connection as the server gives it; None on a UNIX socket.

    A server may have rewritten it: uvicorn does, for peers on 127.0.0.1, unless started with `--no-proxy-headers`.
    """
    client = scope.get("client")
    return parse_address(client[0]) if client else None


def _without_port(text: str) -> str:
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        return address if bracket and (not rest or (rest.startswith(":") and rest[1:].isdigit())) else ""
    host, colon, port = text.rpartition(":")
    return host if colon and ":" not in host and port.isdigit() else text


def _forwarded_hops(text: str) -> list[str] | None:
    """Return the `for` of each element (RFC 7239 §4), or None where one cannot be read."""
    hops: list[str] = []
    position, found = 0, None
    while True:
        match = _FORWARDED_PAIR.match(text, position)
        if match is None:
            return None
        if match[1].lower() == "for":
            if found is not None:
                return None
            found = match[2].strip('"')
        position = match.end()
        end = position == len(text)
        if end or text[position] == ",":
            if found is None:
                return None
            hops.append(found)
            found = None
        elif text[position] != ";":
            return None
        if end:
            return hops
        position += 1
