"""From where: the network that an address is counted with, since whoever has one address of it has all of them."""

import ipaddress
from functools import lru_cache
from typing import Any, Final

from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.names import Names, names
from llm_authmw.network import Address, Network, in_networks, parse_address, parse_network

UNKNOWN: Final = "unknown"
"""Where nobody knows from where. It is one network: else whoever can make an address unreadable would be counted nowhere."""

_REMEMBERED: Final = 8192
"""Addresses whose networks are at hand."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class Networks:
    """Which network a request comes from.

    Args:
        ipv4_prefix: Bits of an IPv4 address that make a network, 16 to 32.
        ipv6_prefix: Bits of an IPv6 address that do, 32 to 64.
        exempt: Networks from where nothing is counted.

    Raises:
        ConfigurationError: an option is out of range, or everybody would be exempt.
    """

    __slots__ = ("_exempt", "_of_address", "_of_text", "_prefixes")

    def __init__(self, *, ipv4_prefix: int, ipv6_prefix: int, exempt: Names) -> None:
        for option, given, least, most in (("ipv4_prefix", ipv4_prefix, 16, 32), ("ipv6_prefix", ipv6_prefix, 32, 64)):
            if type(given) is not int or not least <= given <= most:
                raise ConfigurationError(option, f"is a number of bits from {least} to {most}")
        parsed: list[Network] = []
        for text in names("exempt", exempt):
            try:
                network = parse_network(text)
            except InvalidValueError as error:
                raise ConfigurationError("exempt", str(error)) from None
            if network.prefixlen == 0:
                raise ConfigurationError("exempt", f"{text!r} is everybody: leave the layer out, if nobody is to be counted")
            parsed.append(network)
        self._prefixes: Final = {4: ipv4_prefix, 6: ipv6_prefix}
        self._exempt: Final = tuple(parsed)
        # On the layer, though caches are not: a pure function of the address and of options that never change.
        self._of_text: Final = lru_cache(maxsize=_REMEMBERED)(self._network_of_text)
        self._of_address: Final = lru_cache(maxsize=_REMEMBERED)(self._network_of)

    def __repr__(self) -> str:
        return f"Networks(ipv4=/{self._prefixes[4]}, ipv6=/{self._prefixes[6]}, exempt={[str(network) for network in self._exempt]!r})"

    def of(self, scope: Any, context: RequestContext) -> str | None:
        """Return the network's name, or None where nothing is counted from there."""
        if context.proxies is not None:
            return self._of_address(context.client_address(scope))
        client = scope.get("client")
        return self._of_text(client[0]) if client else UNKNOWN

    def _network_of_text(self, text: str) -> str | None:
        return self._network_of(parse_address(text))

    def _network_of(self, address: Address | None) -> str | None:
        if address is None:
            return UNKNOWN
        if in_networks(address, self._exempt):
            return None
        address = _inner(address)
        if in_networks(address, self._exempt):
            return None
        network = ipaddress.ip_network((address, self._prefixes[address.version]), strict=False)
        return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


def _inner(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 one stands for, where it stands for one.

    A translator puts everybody who comes by IPv4 into one /96 (RFC 6052 §2.1), and 6to4 gives one IPv4 address 65,536 networks of
    /64 (RFC 3056 §2).
    """
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(address.packed[-4:])
        return address.sixtofour or address
    return address
