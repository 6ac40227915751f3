import ipaddress
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.network import Address, TrustedProxies, in_networks, parse_address, parse_network, peer_address

PROXY = "10.0.0.1"
CLIENT = "203.0.113.7"
ADDRESSES = st.ip_addresses(v=4) | st.ip_addresses(v=6)


def scope(*lines: str | bytes, peer: Any = (PROXY, 4711), header: str = "x-forwarded-for") -> dict[str, Any]:
    name = header.encode()
    return {"type": "http", "client": peer, "headers": [(name, line if isinstance(line, bytes) else line.encode()) for line in lines]}


def resolved(
    *lines: str | bytes, peer: Any = (PROXY, 4711), header: Literal["x-forwarded-for", "forwarded"] = "x-forwarded-for"
) -> str | None:
    address = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"], header=header).client_address(scope(*lines, peer=peer, header=header))
    return None if address is None else str(address)


# The setting.


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "::ffff:0:0/96"])
def test_trusting_everybody_is_refused(network: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^networks: .* trusts everybody"):
        TrustedProxies(["10.0.0.0/8", network])


@pytest.mark.parametrize(
    "network", ["*", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "010.0.0.0/8", "proxy.example.com", "fe80::1%eth0", "::1/129"]
)
def test_a_network_that_is_none_is_refused(network: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_network(network)
    with pytest.raises(ConfigurationError, match=r"^networks: "):
        TrustedProxies([network])


def test_a_setting_that_would_do_nothing_is_refused() -> None:
    wrong: Any = "10.0.0.0/8"
    with pytest.raises(ConfigurationError, match=r"^networks: takes a list of strings"):
        TrustedProxies(wrong)
    with pytest.raises(ConfigurationError, match=r"^networks: names no proxy"):
        TrustedProxies()
    wrong = "x-real-ip"
    with pytest.raises(ConfigurationError, match=r"^header: is 'x-forwarded-for' or 'forwarded'$"):
        TrustedProxies(["10.0.0.0/8"], header=wrong)


def test_the_setting_prints_itself() -> None:
    assert "TrustedProxies(['10.0.0.0/8', '::1/128'], header='forwarded')" == repr(
        TrustedProxies(["10.0.0.0/8", "::1"], header="forwarded")
    )


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("203.0.113.7", "203.0.113.7/32"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:DB8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1", "10.0.0.1/32"),
        ("::/64", "::/64"),
    ],
)
def test_a_network_has_one_form(text: str, network: str) -> None:
    assert network == str(parse_network(text))


@given(ADDRESSES)
def test_an_address_is_in_the_network_that_is_made_of_it(address: Address) -> None:
    parsed = parse_address(str(address))
    assert parsed is not None
    assert in_networks(parsed, [parse_network(str(address))])


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "localhost", "10.0.0", "10.0.0.256", "010.0.0.1", "10.0.0.1 ", " 10.0.0.1", "10.0.0.1/32", "0x0a.0.0.1", "167772161"),
        *(
            "fe80::1%eth0",
            "fe80::1%25eth0",
            "::1%1",
            "[::1]",
            ":::1",
            "1::2::3",
            "unknown",
            "_hidden",
            "\uff11\uff10.0.0.1",
            "10.0.0.1\x00",
        ),
    ],
)
def test_a_text_that_is_no_address_is_none(text: str) -> None:
    assert parse_address(text) is None


def test_an_ipv4_address_inside_an_ipv6_one_is_the_ipv4_address() -> None:
    assert ipaddress.IPv4Address("10.0.0.1") == parse_address("::ffff:10.0.0.1") == parse_address("::FFFF:0a00:1")
    assert in_networks(ipaddress.IPv4Address("10.0.0.1"), [parse_network("::/0"), parse_network("10.0.0.0/8")])
    assert not in_networks(ipaddress.IPv4Address("10.0.0.1"), [parse_network("::/0")])
    assert "10.0.0.1" == str(peer_address({"client": ("::ffff:10.0.0.1", 1)}))


# The peer.


@pytest.mark.parametrize("client", [None, ("", 0), ("testclient", 50_000), ("/run/authmw.sock", 0), ("fe80::1%eth0", 1)])
def test_a_peer_without_an_address_is_unknown(client: Any) -> None:
    assert peer_address({"client": client}) is None
    assert resolved(CLIENT, peer=client) is None


def test_a_scope_without_a_client_is_unknown() -> None:
    assert peer_address({}) is None


@given(
    st.lists(st.text(st.characters(codec="latin-1"), max_size=30) | ADDRESSES.map(str), max_size=4),
    st.sampled_from(["x-forwarded-for", "forwarded"]),
)
def test_who_is_no_trusted_proxy_cannot_choose_an_address(lines: list[str], header: Literal["x-forwarded-for", "forwarded"]) -> None:
    values = [line.encode("latin-1") for line in lines]
    assert CLIENT == resolved(*values, peer=(CLIENT, 443), header=header)


def test_a_server_that_gives_the_port_as_text_makes_no_difference() -> None:
    assert CLIENT == resolved(peer=(CLIENT, "443"))


# X-Forwarded-For.


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        pytest.param([CLIENT], CLIENT, id="one"),
        pytest.param([f"198.51.100.9, {CLIENT}"], CLIENT, id="the right-most, not what the client wrote"),
        pytest.param([f"{PROXY}, {CLIENT}"], CLIENT, id="a client that claims to be a proxy"),
        pytest.param([f"{CLIENT}, 10.1.2.3"], CLIENT, id="through a second proxy"),
        pytest.param([f"198.51.100.9,{CLIENT},10.1.2.3,10.9.9.9"], CLIENT, id="through a chain"),
        pytest.param(["10.7.7.7, 10.1.2.3"], "10.7.7.7", id="begun at a proxy"),
        pytest.param(["198.51.100.9", CLIENT], CLIENT, id="two lines are one list"),
        pytest.param([CLIENT, "10.1.2.3"], CLIENT, id="the proxy's line behind"),
        pytest.param([f"{CLIENT}:443"], CLIENT, id="with a port"),
        pytest.param(["[2001:db9::7]:443"], "2001:db9::7", id="brackets and a port"),
        pytest.param(["[2001:db9::7]"], "2001:db9::7", id="brackets"),
        pytest.param(["2001:db9::7"], "2001:db9::7", id="IPv6"),
        pytest.param([f"{CLIENT}, 2001:db8::1"], CLIENT, id="through an IPv6 proxy"),
        pytest.param([f"::ffff:{CLIENT}"], CLIENT, id="mapped"),
        pytest.param([f"{CLIENT}, ::ffff:10.1.2.3"], CLIENT, id="through a mapped proxy"),
        pytest.param([f"garbage, {CLIENT}"], CLIENT, id="garbage on the left, which the client wrote"),
        pytest.param([f"  {CLIENT}\t, 10.1.2.3 "], CLIENT, id="blanks"),
        pytest.param([f", {CLIENT}"], CLIENT, id="nothing on the left"),
    ],
)
def test_the_client_is_the_right_most_hop_that_is_no_proxy(lines: list[str], address: str) -> None:
    assert address == resolved(*lines)


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="no header"),
        pytest.param([""], id="empty"),
        pytest.param(["  "], id="blank"),
        pytest.param([f"{CLIENT}, "], id="nothing behind the last comma"),
        pytest.param([f"{CLIENT}, garbage"], id="garbage"),
        pytest.param([f"{CLIENT}, garbage, 10.1.2.3"], id="garbage in front of a proxy"),
        pytest.param([f"{CLIENT}, fe80::1%eth0"], id="a scope"),
        pytest.param([f"{CLIENT}, [fe80::1%25eth0]:1"], id="a scope in brackets"),
        pytest.param([f"{CLIENT}, unknown"], id="unknown"),
        pytest.param([f'"{CLIENT}"'], id="quoted"),
        pytest.param([f"{CLIENT}:"], id="a colon without a port"),
        pytest.param([f"{CLIENT}:http"], id="a port that is no number"),
        pytest.param(["[2001:db9::7"], id="a bracket that stays open"),
        pytest.param(["[2001:db9::7]443"], id="something behind the bracket"),
        pytest.param(["[2001:db9::7]:"], id="a colon behind the bracket"),
        pytest.param(["2001:db9::7]:443"], id="a bracket that was never opened"),
        pytest.param([f"{CLIENT} 10.1.2.3"], id="two in one"),
        pytest.param([f"{CLIENT}; 10.1.2.3"], id="another separator"),
        pytest.param([b"203.0.113.7\xe9"], id="not ASCII"),
        pytest.param(["\u0663.0.113.7"], id="digits of another script"),
        pytest.param([", ".join([CLIENT] * 33)], id="too many hops"),
        pytest.param([CLIENT] * 33, id="too many lines"),
    ],
)
def test_an_address_that_cannot_be_read_is_unknown(lines: list[str | bytes]) -> None:
    assert resolved(*lines) is None


def test_as_many_hops_as_a_chain_may_have_are_read() -> None:
    assert CLIENT == resolved(", ".join([CLIENT, *[PROXY] * 31]))


def test_the_name_of_the_header_is_compared_in_lower_case() -> None:
    assert CLIENT == resolved(CLIENT, header="x-forwarded-for")
    request = scope(CLIENT)
    request["headers"] = [(b"X-Forwarded-For", CLIENT.encode())]
    assert CLIENT == str(TrustedProxies(["10.0.0.0/8"]).client_address(request))


@pytest.mark.parametrize("other", ["x_forwarded_for", "x-forwarded-for-x", "x.forwarded.for", "x-real-ip", "forwarded"])
def test_no_other_header_is_read(other: str) -> None:
    request = scope(CLIENT)
    request["headers"].append((other.encode(), b"for=198.51.100.9"))
    assert CLIENT == str(TrustedProxies(["10.0.0.0/8"]).client_address(request))
    request["headers"].pop(0)
    assert TrustedProxies(["10.0.0.0/8"]).client_address(request) is None


WRITTEN_BY_A_CLIENT = st.lists(st.text(st.characters(codec="ascii"), max_size=20) | ADDRESSES.map(str), max_size=5)


@given(WRITTEN_BY_A_CLIENT, ADDRESSES, st.lists(st.sampled_from([PROXY, "10.255.0.1", "2001:db8::5"]), max_size=3))
def test_what_a_client_writes_stays_on_the_left_of_what_the_proxy_adds(forged: list[str], address: Address, chain: list[str]) -> None:
    line = ",".join([*forged, str(address), *chain])
    # Unknown, where the client made the list too long; a proxy of ours is not the client of another one unless it stands first.
    true = parse_address(str(address))
    proxies = TrustedProxies(["10.0.0.0/8", "2001:db8::/32"])
    found = proxies.client_address(scope(line))
    if true is not None and not in_networks(true, [parse_network("10.0.0.0/8"), parse_network("2001:db8::/32")]):
        assert found in {true, None}
        assert (found is None) == (line.count(",") + 1 > 32)


# Forwarded.


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        pytest.param([f"for={CLIENT}"], CLIENT, id="one"),
        pytest.param([f"For={CLIENT};Proto=https;by=10.0.0.1"], CLIENT, id="case and other parameters"),
        pytest.param([f"proto=https;for={CLIENT}"], CLIENT, id="not the first parameter"),
        pytest.param([f"for=198.51.100.9, for={CLIENT}"], CLIENT, id="the right-most"),
        pytest.param([f"for={CLIENT}, for=10.1.2.3;proto=http"], CLIENT, id="through a second proxy"),
        pytest.param([f'for="{CLIENT}"'], CLIENT, id="quoted"),
        pytest.param([f'for="{CLIENT}:443"'], CLIENT, id="quoted with a port"),
        pytest.param(['for="[2001:db9::7]:443"'], "2001:db9::7", id="IPv6"),
        pytest.param(['for="[2001:db9::7]"'], "2001:db9::7", id="IPv6 without a port"),
        pytest.param(["for=198.51.100.9", f"for={CLIENT}"], CLIENT, id="two lines are one list"),
        pytest.param([f'for="_a,b;c", for={CLIENT}'], CLIENT, id="separators in a quoted string"),
        pytest.param([f'for="a\\"b", for={CLIENT}'], CLIENT, id="a quotation mark in a quoted string"),
        pytest.param([f"for=unknown, for={CLIENT}"], CLIENT, id="unknown on the left"),
        pytest.param(["for=10.7.7.7"], "10.7.7.7", id="begun at a proxy"),
    ],
)
def test_forwarded_is_read_from_the_right(lines: list[str], address: str) -> None:
    assert address == resolved(*lines, header="forwarded")


@pytest.mark.parametrize(
    "line",
    [
        *(
            "",
            " ",
            CLIENT,
            "for",
            "for=",
            f"for ={CLIENT}",
            f"for= {CLIENT}",
            f"for={CLIENT},",
            f"for={CLIENT};",
            f"for={CLIENT},,for={CLIENT}",
        ),
        *(f"for={CLIENT};for=198.51.100.9", f"for={CLIENT}, proto=https", "proto=https", f"for={CLIENT} proto=https", f"for={CLIENT}=x"),
        *(f"for={CLIENT}, for=unknown", f"for={CLIENT}, for=_hidden", f"for={CLIENT}, for=_hidden:_port", f'for={CLIENT}, for=""'),
        *(f'for="{CLIENT}', f'for="{CLIENT}"x', f'for="{CLIENT}\\"', f'for="\\{CLIENT}"', f'for="" {CLIENT}"', 'for="[fe80::1%eth0]"'),
        *(f"fo\u0280={CLIENT}", f"for={CLIENT}\u00e9", f"f0r={CLIENT}", f"for={CLIENT}\n"),
    ],
)
def test_a_forwarded_header_that_cannot_be_read_leaves_the_address_unknown(line: str) -> None:
    assert resolved(line, header="forwarded") is None


@given(st.text(st.characters(codec="ascii"), max_size=40))
def test_a_client_cannot_swallow_the_element_that_the_proxy_adds(forged: str) -> None:
    for added in (f"for={CLIENT}", f'for="{CLIENT}:443";proto=https', f'proto="https";for="{CLIENT}"'):
        assert resolved(f"{forged}, {added}", header="forwarded") in {CLIENT, None}
        assert resolved(forged, added, header="forwarded") in {CLIENT, None}


@given(st.lists(st.sampled_from(['"', "for=", "1.2.3.4", ",", ";", " ", "\\", "=", "by=", "[::1]", "x"]), max_size=12).map("".join))
def test_no_quoting_moves_the_element_that_the_proxy_adds(forged: str) -> None:
    for added in (f"for={CLIENT}", f'for="{CLIENT}:443";proto=https', f'proto="https";for="{CLIENT}"'):
        assert resolved(f"{forged}, {added}", header="forwarded") in {CLIENT, None}


# UNIX sockets.


def test_a_unix_socket_is_a_proxy_only_where_the_setting_says_so() -> None:
    request = scope(CLIENT, peer=None)
    assert TrustedProxies(["10.0.0.0/8"]).client_address(request) is None
    assert CLIENT == str(TrustedProxies(unix_socket=True).client_address(request))
    assert CLIENT == str(TrustedProxies(["10.0.0.0/8"], unix_socket=True).client_address(scope(f"{CLIENT}, 10.1.2.3", peer=None)))


def test_a_peer_with_an_unreadable_name_is_no_unix_socket() -> None:
    assert TrustedProxies(unix_socket=True).client_address(scope(CLIENT, peer=("testclient", 1))) is None


def test_a_peer_with_an_address_is_the_client_where_only_unix_sockets_are_trusted() -> None:
    assert "198.51.100.9" == str(TrustedProxies(unix_socket=True).client_address(scope(CLIENT, peer=("198.51.100.9", 1))))
