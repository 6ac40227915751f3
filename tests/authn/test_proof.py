"""What shows that a request came through the proxy; each proof is tried with what is almost one."""

import copy
from typing import Any

import pytest

from llm_authmw import ConfigurationError, Secret
from llm_authmw.authn.proof import PeerAddress, Proof, ProxyCertificate, SharedSecret, UnixSocket, chosen_proof
from llm_authmw.testing.certificates import CertificateAuthority

SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
NEXT = "rT4-Wm81_bNc6XhzQpS3vKdJyUe9LgAo"
AUTHORITY = CertificateAuthority()
PROXY = AUTHORITY.issue(dns=["proxy.example.com"], uri=["spiffe://example.com/proxy"])
OTHER = AUTHORITY.issue(dns=["*.example.com"], uri=["spiffe://example.com/proxy/x"])


def shared(*values: bytes, name: bytes = b"x-proxy-proof", secret: Any = SECRET) -> str:
    headers = [(b"host", b"x"), *((name, value) for value in values), (b"x-proxy-proofs", SECRET.encode())]
    return SharedSecret(header="x-proxy-proof", secret=secret).judge({"headers": headers})


@pytest.mark.parametrize(
    "value",
    [b"", b" ", SECRET.encode()[:-1], SECRET.encode() + b"x", SECRET.lower().encode(), b'"' + SECRET.encode() + b'"', b"\xff\x00"],
)
def test_another_value_than_the_secret_is_a_lie(value: bytes) -> None:
    assert "wrong" == shared(value)


def test_the_secret_beside_another_value_proves_nothing() -> None:
    """A proxy that appends to what the client sent, or a client that hopes for the first one."""
    assert "wrong" == shared(SECRET.encode(), b"guess")
    assert "wrong" == shared(SECRET.encode(), SECRET.encode())
    assert "wrong" == shared(SECRET.encode() + b", " + SECRET.encode())


@pytest.mark.parametrize("name", [b"x_proxy_proof", b"x.proxy.proof", b"x-proxy-prooF ", b"y-proxy-proof"])
def test_the_secret_under_another_name_is_not_looked_at(name: bytes) -> None:
    assert "absent" == shared(SECRET.encode(), name=name)
    assert "absent" == shared()


@pytest.mark.parametrize("name", [b"x-proxy-proof", b"X-Proxy-Proof"])
@pytest.mark.parametrize("value", [SECRET.encode(), b" \t" + SECRET.encode() + b" "])
def test_the_secret_proves_the_proxy(name: bytes, value: bytes) -> None:
    assert "proven" == shared(value, name=name)


def test_two_secrets_are_good_while_they_are_rotated() -> None:
    for value in (SECRET, NEXT):
        assert "proven" == shared(value.encode(), secret=[SECRET, Secret(NEXT)])
    assert "wrong" == shared(NEXT.encode(), secret=(SECRET,))


def test_a_secret_comes_from_the_environment_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXY_PROOF", SECRET)
    proof = SharedSecret(header="x-proxy-proof", secret="env:PROXY_PROOF")
    assert "proven" == proof.judge({"headers": [(b"x-proxy-proof", SECRET.encode())]})
    assert "SharedSecret(header='x-proxy-proof')" == repr(proof)
    assert SECRET not in str([getattr(copy.copy(proof), slot) for slot in proof.__slots__])


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("secret", {"secret": ""}),
        ("secret", {"secret": SECRET[:31]}),
        ("secret", {"secret": "changeme" * 5}),
        ("secret", {"secret": "ab" * 30}),
        ("secret", {"secret": SECRET + "é"}),
        ("secret", {"secret": "env:NOT_SET_ANYWHERE"}),
        ("secret", {"secret": None}),
        ("secret", {"secret": []}),
        ("secret", {"secret": [SECRET, SECRET]}),
        ("secret", {"secret": [SECRET, NEXT, SECRET[::-1]]}),
        ("secret", {"secret": [SECRET, "short"]}),
        ("header", {"header": "X-Proxy-Proof"}),
        ("header", {"header": "authorization"}),
        ("header", {"header": "x-api-key"}),
        ("header", {"header": "x-forwarded-for"}),
        ("header", {"header": ""}),
    ],
)
def test_a_weak_secret_or_a_header_that_means_something_else_is_refused(option: str, options: dict[str, Any]) -> None:
    given = {"header": "x-proxy-proof", "secret": SECRET, **options}
    with pytest.raises(ConfigurationError) as raised:
        SharedSecret(**given)
    assert option == raised.value.option
    assert SECRET not in str(raised.value)


# How servers show a connection: measured with uvicorn 0.54, hypercorn 0.18 and granian 2.8.
@pytest.mark.parametrize(
    ("client", "server"),
    [
        pytest.param(("127.0.0.1", 50_000), ("127.0.0.1", 8000), id="tcp"),
        pytest.param(None, ("127.0.0.1", 8000), id="a tcp connection that was reset at once"),
        pytest.param(("", 0), ("127.0.0.1", "8000"), id="the same, of granian"),
        pytest.param(None, None, id="nothing is told, as by hypercorn"),
        pytest.param(..., ..., id="nothing is there"),
        pytest.param(("192.0.2.1", 0), ("/run/app.sock", None), id="a socket whose client was rewritten by uvicorn"),
        pytest.param(("192.0.2.1", 4711), ("/run/app.sock", 80), id="a server made up from the Host header"),
        pytest.param(None, ("/run/app.sock", 80), id="a path with a port"),
        pytest.param(None, ("app.sock", None), id="a relative path, which could be a host"),
        pytest.param(None, (None, None), id="no path"),
    ],
)
def test_what_is_no_unix_socket_proves_nothing(client: Any, server: Any) -> None:
    scope = {name: value for name, value in (("client", client), ("server", server)) if value is not ...}
    assert "absent" == UnixSocket().judge({"headers": [], **scope})


@pytest.mark.parametrize(
    ("client", "server"),
    [
        pytest.param(None, ("/run/app.sock", None), id="uvicorn"),
        pytest.param(("", "0"), ("/run/app.sock", "0"), id="granian"),
        pytest.param(None, ["/run/app.sock", None], id="as a list"),
    ],
)
def test_a_unix_socket_proves_the_proxy(client: Any, server: Any) -> None:
    assert "proven" == UnixSocket().judge({"headers": [], "client": client, "server": server})


def tls(proof: ProxyCertificate, **members: Any) -> str:
    return proof.judge({"headers": [], "extensions": {"tls": members}})


BY_NAME = ProxyCertificate(dns=["Proxy.example.com"])
BY_SPIFFE = ProxyCertificate(spiffe=["spiffe://example.com/proxy"])
BY_FINGERPRINT = ProxyCertificate(fingerprints=[PROXY.parsed.fingerprint.hex(":").upper()])


@pytest.mark.parametrize("proof", [BY_NAME, BY_SPIFFE, BY_FINGERPRINT], ids=["dns", "spiffe", "fingerprint"])
def test_only_the_proxys_own_certificate_proves_it(proof: ProxyCertificate) -> None:
    chains: list[Any] = [PROXY.der, PROXY.pem, [PROXY.pem, AUTHORITY.pem], (PROXY.pem.encode(),)]
    for chain in chains:
        assert "proven" == tls(proof, client_cert_chain=chain)
        assert "absent" == tls(proof, client_cert_chain=chain, client_cert_error="self-signed certificate")
    others: list[Any] = [None, [], "", [""], OTHER.pem, [AUTHORITY.pem, PROXY.pem], [OTHER.pem, PROXY.pem], "garbage", b"\x30\x00", 7, [7]]
    for chain in others:
        assert "absent" == tls(proof, client_cert_chain=chain)
    without: list[dict[str, Any]] = [
        {},
        {"extensions": None},
        {"extensions": {}},
        {"extensions": {"tls": None}},
        {"extensions": {"tls": {}}},
    ]
    for scope in without:
        assert "absent" == proof.judge({"headers": [], **scope})


def test_a_certificate_that_may_sign_others_is_no_workloads() -> None:
    signing = AUTHORITY.issue(uri=["spiffe://example.com/proxy"], ca=True)
    assert "absent" == tls(BY_SPIFFE, client_cert_chain=signing.pem)


@pytest.mark.parametrize(
    ("option", "options"),
    [
        ("fingerprints", {}),
        ("fingerprints", {"fingerprints": []}),
        ("fingerprints", {"fingerprints": "ab" * 32}),
        ("fingerprints", {"fingerprints": ["ab" * 31]}),
        ("fingerprints", {"fingerprints": ["zz" * 32]}),
        ("spiffe", {"spiffe": ["spiffe://example.com"]}),
        ("spiffe", {"spiffe": ["spiffe://example.com/a/../b"]}),
        ("spiffe", {"spiffe": ["https://example.com/proxy"]}),
        ("spiffe", {"spiffe": "spiffe://example.com/proxy"}),
        ("dns", {"dns": ["*.example.com"]}),
        ("dns", {"dns": ["a b"]}),
        ("dns", {"dns": "proxy.example.com"}),
    ],
)
def test_a_certificate_that_would_match_nobody_or_too_many_is_refused(option: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as raised:
        ProxyCertificate(**options)
    assert option == raised.value.option


def peer(client: Any, *peers: str) -> str:
    return PeerAddress(peers=list(peers or ["10.0.0.0/24", "2001:db8::7"]), server_does_not_rewrite=True).judge({"client": client})


@pytest.mark.parametrize(
    "client",
    [
        None,
        ("", 0),
        ("10.0.1.1", 4711),
        ("10.0.0.1", 0),
        ("10.0.0.1", "0"),
        ("10.0.0.1", None),
        ("10.0.0.1:443", 4711),
        ("010.0.0.1", 4711),
        ("10.0.0.1%eth0", 4711),
        ("2001:db8::7%eth0", 4711),
        ("[2001:db8::7]", 4711),
        ("2001:db8::8", 4711),
        ("proxy.example.com", 4711),
    ],
)
def test_another_peer_proves_nothing(client: Any) -> None:
    """Port zero is what uvicorn leaves behind where it has rewritten the address; a scope is the sender's to choose (CVE-2026-26310)."""
    assert "absent" == peer(client)


@pytest.mark.parametrize("client", [("10.0.0.1", 4711), ["10.0.0.255", "4711"], ("::ffff:10.0.0.1", 4711), ("2001:db8::7", 1)])
def test_the_peer_itself_proves_the_proxy(client: Any) -> None:
    assert "proven" == peer(client)


@pytest.mark.parametrize("word", [False, None, 1, "true"])
def test_an_address_list_alone_is_refused_and_says_why(word: Any) -> None:
    with pytest.raises(ConfigurationError, match="an address list alone proves nothing") as raised:
        PeerAddress(peers=["10.0.0.1"], server_does_not_rewrite=word)
    assert "server_does_not_rewrite" == raised.value.option


@pytest.mark.parametrize(
    "peers",
    [
        [],
        ["*"],
        ["0.0.0.0/0"],
        ["::/0"],
        ["::ffff:0.0.0.0/96"],
        ["0.0.0.0/1", "128.0.0.0/1"],
        ["8000::/1", "::/1", "10.0.0.1"],
        ["10.0.0.1/8"],
        ["proxy"],
        "10.0.0.1",
        None,
        [7],
    ],
)
def test_peers_that_are_everybody_or_nobody_are_refused(peers: Any) -> None:
    with pytest.raises(ConfigurationError) as raised:
        PeerAddress(peers=peers, server_does_not_rewrite=True)
    assert "peers" == raised.value.option


class Own:
    """A proof of a user's own."""

    headers: frozenset[bytes] = frozenset({b"x-own"})
    strong: bool = True

    def judge(self, scope: Any) -> Any:
        return "proven"


@pytest.mark.parametrize("proof", [UnixSocket(), BY_NAME, SharedSecret(header="x-proxy-proof", secret=SECRET), Own()])
def test_a_proof_is_taken_as_it_is(proof: Proof) -> None:
    assert proof is chosen_proof(proof=proof, peers=None, server_does_not_rewrite=False)
    assert proof.strong


@pytest.mark.parametrize(
    ("option", "proof", "peers", "word"),
    [
        ("proof", None, None, False),
        ("proof", None, None, True),
        ("proof", UnixSocket, None, False),
        ("proof", SECRET, None, False),
        ("proof", object(), None, False),
        ("peers", UnixSocket(), ["10.0.0.1"], True),
        ("peers", UnixSocket(), [], False),
        ("server_does_not_rewrite", UnixSocket(), None, True),
        ("server_does_not_rewrite", None, ["10.0.0.1"], False),
    ],
)
def test_exactly_one_proof_is_asked_for(option: str, proof: Any, peers: Any, word: bool) -> None:
    with pytest.raises(ConfigurationError) as raised:
        chosen_proof(proof=proof, peers=peers, server_does_not_rewrite=word)
    assert option == raised.value.option


def test_an_address_is_the_weak_proof() -> None:
    chosen = chosen_proof(proof=None, peers=["10.0.0.1"], server_does_not_rewrite=True)
    assert isinstance(chosen, PeerAddress)
    assert not chosen.strong
    assert "PeerAddress(peers=['10.0.0.1/32'])" == repr(chosen)
