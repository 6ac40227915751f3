"""Rules: which certificates are accepted, and who presents them."""

import math
from typing import Any

import pytest

from llm_authmw import Assurance, ConfigurationError, Limit
from llm_authmw.certificates.certificate import Certificate
from llm_authmw.certificates.known import MAX_REMEMBERED, KnownCertificates
from llm_authmw.certificates.parse import read_certificate
from llm_authmw.certificates.rules import CertRule
from llm_authmw.testing.certificates import NOT_AFTER, NOT_BEFORE, CertificateAuthority

AUTHORITY = CertificateAuthority("Corp CA")
ROGUE = CertificateAuthority("Corp CA")
ISSUED = AUTHORITY.issue(
    uri=["spiffe://corp.example/ns/prod/sa/batch"], dns=["batch.example"], email=["ada@corp.example"], ip=["192.0.2.1"], common_name="ada"
)
BATCH = ISSUED.parsed
HEX = BATCH.fingerprint.hex()

# Signed by an authority of its own, with SHA-1.
OLD_AUTHORITY = """-----BEGIN CERTIFICATE-----
MIIBcjCCARmgAwIBAgIUSm91d57njJ/cKjHlni6xDQtNnsAwCgYIKoZIzj0EAwIw
DjEMMAoGA1UEAwwDT2xkMCAXDTI2MTEyMTEyMTU1NloYDzIxMjYxMDI4MTIxNTU2
WjAOMQwwCgYDVQQDDANPbGQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAAQy8Kqc
ho2mj1hThAIf2ts4Bvq5dLYxGnVk7EPKrtVoyxVzq5uiXPjSpfKCuPmw8JlqMd3V
pHqTfIz/4DijbAC4o1MwUTAdBgNVHQ4EFgQUDai5j4maMSOz7udUQQvvy0YH6zww
HwYDVR0jBBgwFoAUDai5j4maMSOz7udUQQvvy0YH6zwwDwYDVR0TAQH/BAUwAwEB
/zAKBggqhkjOPQQDAgNHADBEAiAbPVQrgBStqP9OhEpr2IF7qKBWpL5NdKqP9Yuu
ex3C9gIgECowTuNJn4SetDRiC2GIzMAQYco0Vc+6SqDkWr9selM=
-----END CERTIFICATE-----
"""
SIGNED_WITH_SHA1 = b"""-----BEGIN CERTIFICATE-----
MIIBejCCASKgAwIBAgIUWmD1REuWlmF9yw/9ze2i24p1SswwCQYHKoZIzj0EATAO
MQwwCgYDVQQDDANPbGQwIBcNMjYxMTIxMTIxNTU2WhgPMjEyNjEwMjgxMjE1NTZa
MA8xDTALBgNVBAMMBGxlYWYwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASxvA2u
1qOOAG8tE+3FkleQPukKMk1ovtpr0OIiOgfkbJdd17bbqAGmzZ2EUYTTXTxqvOmX
77LcEKnQyCb9ncR9o1wwWjAYBgNVHREEETAPgg1iYXRjaC5leGFtcGxlMB0GA1Ud
DgQWBBTXlYsif0ElQkIUW07EWMTsJ13pATAfBgNVHSMEGDAWgBQNqLmPiZoxI7Pu
51RBC+/LRgfrPDAJBgcqhkjOPQQBA0cAMEQCIG8mCA6Vuh9XB38+MCnuDA0pJFD4
UxLZlcX/ZiDzBjN8AiB/L4vghZntC625N06/vjXp0Ssjz+Xa6bpbFrJzHfYhzw==
-----END CERTIFICATE-----
"""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"client": "batch"}, "CertRule"),
        ({"dns": "batch.example"}, "CertRule"),
        ({"dns": "batch.example", "team": "blue"}, "CertRule"),
        ({"dns": "*.example", "client": "x"}, "dns"),
        ({"dns": "", "client": "x"}, "dns"),
        ({"dns": 5, "client": "x"}, "dns"),
        ({"dns": "a b", "client": "x"}, "dns"),
        ({"uri": "no-scheme", "client": "x"}, "uri"),
        ({"email": "a@b@c", "client": "x"}, "email"),
        ({"ip": "192.0.2.0/24", "client": "x"}, "ip"),
        ({"ip": 1, "client": "x"}, "ip"),
        ({"fingerprint": HEX[:-2], "client": "x"}, "fingerprint"),
        ({"fingerprint": BATCH.thumbprint, "client": "x"}, "fingerprint"),
        ({"fingerprint": BATCH.fingerprint, "client": "x"}, "fingerprint"),
        ({"spiffe": "https://corp.example/x", "client": "x"}, "spiffe"),
        ({"spiffe": "spiffe://corp.example", "client": "x"}, "spiffe"),
        ({"spiffe": "spiffe://corp.example/", "client": "x"}, "spiffe"),
        ({"spiffe": "spiffe://*/x", "client": "x"}, "spiffe"),
        ({"spiffe": "spiffe://corp.example/ns-*", "client": "x"}, "spiffe"),
        ({"spiffe": "spiffe://corp.example/**/x", "client": "x"}, "spiffe"),
        ({"spiffe": "spiffe://corp.example/../x", "client": "x"}, "spiffe"),
        ({"spiffe": 5, "client": "x"}, "spiffe"),
        ({"issuer": "CN=Corp CA", "client": "x"}, "issuer"),
        ({"issuer": ISSUED.pem, "client": "x"}, "issuer"),
        ({"issuer": AUTHORITY.pem + ROGUE.pem, "client": "x"}, "issuer"),
        ({"issuer": "file:/does/not/exist.pem", "client": "x"}, "issuer"),
        ({"issuer": AUTHORITY.pem.replace("MII", "MIJ"), "client": "x"}, "issuer"),
        ({"dns": "a.example", "user": "x", "user_from": "dns"}, "user_from"),
        ({"dns": "a.example", "client": "x", "client_from": "dns"}, "client_from"),
        ({"dns": "a.example", "user_from": "subject"}, "user_from"),
        ({"dns": "a.example", "user": "client:x"}, "CertRule"),
        ({"dns": "a.example", "client": ""}, "CertRule"),
        ({"dns": "a.example", "client": "x", "realm": ""}, "CertRule"),
        ({"dns": "a.example", "client": "x", "roles": "admin"}, "roles"),
        ({"dns": "a.example", "client": "x", "limits": ["many"]}, "CertRule"),
        ({"dns": "a.example", "client": "x", "routes": ["chat"]}, "CertRule"),
    ],
)
def test_a_rule_that_is_wrong_or_names_nobody_is_refused(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        CertRule(**options)
    assert named == refused.value.option
    assert "PRIVATE" not in str(refused.value)


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="metadata"):
        CertRule(dns="a.example", client="x", metadata={})  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize(
    "condition",
    [
        {"dns": "Batch.Example"},
        {"uri": "spiffe://corp.example/ns/prod/sa/batch"},
        {"email": "ada@CORP.example"},
        {"ip": "192.0.2.1"},
        {"fingerprint": HEX},
        {"fingerprint": ":".join(HEX[place : place + 2].upper() for place in range(0, 64, 2))},
        {"issuer": AUTHORITY.pem},
        {"spiffe": "spiffe://corp.example/ns/prod/sa/batch"},
        {"spiffe": "spiffe://corp.example/ns/prod/sa/*"},
        {"spiffe": "spiffe://corp.example/*/prod/**"},
        {"spiffe": "spiffe://corp.example/**", "dns": "batch.example", "issuer": AUTHORITY.pem},
    ],
)
def test_a_certificate_that_meets_every_condition_is_accepted(condition: dict[str, Any]) -> None:
    accepted = CertRule(client="batch", **condition).match(BATCH, Assurance.BOUND)
    assert accepted is not None
    assert "client:batch" == accepted.principal.subject


@pytest.mark.parametrize(
    "condition",
    [
        {"dns": "ada"},
        {"dns": "example"},
        {"uri": "spiffe://corp.example/ns/prod/sa/Batch"},
        {"email": "Ada@corp.example"},
        {"ip": "192.0.2.2"},
        {"fingerprint": "0" * 64},
        {"issuer": ROGUE.pem},
        {"spiffe": "spiffe://evil.example/ns/prod/sa/batch"},
        {"spiffe": "spiffe://corp.example/ns/prod/sa"},
        {"spiffe": "spiffe://corp.example/ns/prod/*"},
        {"spiffe": "spiffe://corp.example/ns/prod/sa/batch/*"},
        {"dns": "batch.example", "issuer": ROGUE.pem},
        {"dns": "other.example", "issuer": AUTHORITY.pem},
    ],
)
def test_a_certificate_that_misses_a_condition_is_not(condition: dict[str, Any]) -> None:
    assert CertRule(client="batch", **condition).match(BATCH, Assurance.BOUND) is None


@pytest.mark.parametrize(
    ("source", "certificate"),
    [
        ("dns", AUTHORITY.issue(dns=["a.example", "b.example"])),
        ("dns", AUTHORITY.issue(dns=["*.example"])),
        ("dns", AUTHORITY.issue(common_name="a.example")),
        ("email", AUTHORITY.issue(email=["a@x.example", "b@x.example"])),
        ("uri", AUTHORITY.issue(uri=["urn:a", "urn:b"])),
        ("uri", AUTHORITY.issue(uri=["client:root"])),
        ("spiffe", AUTHORITY.issue(uri=["spiffe://corp.example/a", "urn:b"])),
        ("spiffe", AUTHORITY.issue(uri=["spiffe://corp.example/" + "a" * 600])),
    ],
)
def test_a_certificate_with_no_name_or_several_names_nobody(source: Any, certificate: Any) -> None:
    assert CertRule(issuer=AUTHORITY.pem, user_from=source).match(certificate.parsed, Assurance.BOUND) is None


def test_the_principal_is_what_the_rule_and_the_certificate_say() -> None:
    rule = CertRule(
        issuer=AUTHORITY.pem,
        user_from="email",
        client_from="spiffe",
        realm="corp",
        tenant="acme",
        team="blue",
        org="lab",
        roles=["b", "a"],
        scopes=["s"],
        groups=["g"],
        tags=["t"],
        tier="gold",
        models=["gpt-4o*"],
        routes=["GET /v1/models"],
        networks=["10.0.0.0/8"],
        limits=["5 requests/minute"],
    )
    accepted = rule.match(BATCH, Assurance.BOUND)
    assert accepted is not None
    principal = accepted.principal
    assert "acme/corp/ada@corp.example" == principal.identity
    assert ("ada@corp.example", "spiffe://corp.example/ns/prod/sa/batch") == (principal.email, principal.client)
    assert ("blue", "lab", ("a", "b"), ("s",), ("g",), ("t",), "gold") == (
        *(principal.team, principal.org, principal.roles, principal.scopes),
        *(principal.groups, principal.tags, principal.tier),
    )
    assert (("gpt-4o*",), ("GET /v1/models",), ("10.0.0.0/8",)) == (principal.models, principal.routes, principal.networks)
    assert (Limit.parse("5 requests/minute"),) == principal.limits
    assert ("client_cert", "CN=Corp CA", Assurance.BOUND) == (principal.method, principal.issuer, principal.assurance)
    assert f"x5t#S256:{BATCH.thumbprint[:16]}" == principal.credential_id
    assert (("x5t#S256", BATCH.thumbprint),) == principal.confirmation
    assert (NOT_BEFORE, NOT_AFTER + 1, NOT_AFTER + 1) == (accepted.starts, accepted.ends, principal.expires_at)


def test_an_address_that_was_a_condition_is_the_principals() -> None:
    accepted = CertRule(email="ada@corp.example", user="ada").match(BATCH, Assurance.BOUND)
    assert accepted is not None
    assert ("ada", "ada@corp.example", "certificates") == (accepted.principal.user, accepted.principal.email, accepted.principal.realm)
    other = CertRule(dns="batch.example", user="ada").match(BATCH, Assurance.BOUND)
    assert other is not None
    assert other.principal.email is None


def test_a_certificate_counts_no_longer_than_its_authority() -> None:
    short = CertificateAuthority(not_before=NOT_BEFORE + 5, not_after=NOT_AFTER - 5)
    accepted = CertRule(issuer=short.pem, client="x").match(short.issue().parsed, Assurance.BOUND)
    assert accepted is not None
    assert (NOT_BEFORE + 5, NOT_AFTER - 4) == (accepted.starts, accepted.ends)
    assert NOT_AFTER - 4 == accepted.principal.expires_at


def test_names_that_a_proxy_has_told_are_enough_but_prove_no_issuer_and_no_dates() -> None:
    told = Certificate(fingerprint=BATCH.fingerprint, uri=BATCH.uri, spiffe=BATCH.spiffe)
    assert CertRule(issuer=AUTHORITY.pem, client="x").match(told, Assurance.PEER_TRUSTED) is None
    accepted = CertRule(spiffe="spiffe://corp.example/**", client_from="spiffe").match(told, Assurance.PEER_TRUSTED)
    assert accepted is not None
    assert (math.inf, None, None) == (accepted.ends, accepted.principal.expires_at, accepted.principal.issuer)
    assert Assurance.PEER_TRUSTED == accepted.principal.assurance


def test_a_signature_over_sha_1_proves_no_issuer() -> None:
    old = read_certificate(SIGNED_WITH_SHA1)
    assert ("batch.example",) == old.dns
    assert CertRule(issuer=OLD_AUTHORITY, dns="batch.example", client="x").match(old, Assurance.BOUND) is None


def test_a_changed_certificate_proves_no_issuer() -> None:
    changed = AUTHORITY.issue(dns=["guest.example"], patch=(b"guest.example", b"admin.example")).parsed
    assert ("admin.example",) == changed.dns
    assert CertRule(issuer=AUTHORITY.pem, dns="admin.example", client="x").match(changed, Assurance.BOUND) is None


def test_an_issuer_may_be_read_from_a_file(tmp_path: Any) -> None:
    (tmp_path / "ca.pem").write_text(AUTHORITY.pem)
    assert CertRule(issuer=f"file:{tmp_path}/ca.pem", client="x").match(BATCH, Assurance.BOUND) is not None


def test_a_rule_prints_its_conditions() -> None:
    assert "CertRule(dns='a.example')" == repr(CertRule(dns="a.example", issuer=AUTHORITY.pem, client="x"))


def test_the_first_rule_that_fits_decides_and_a_known_certificate_is_not_read_again() -> None:
    rules = [
        CertRule(dns="other.example", client="no"),
        CertRule(dns="batch.example", client="first"),
        CertRule(ip="192.0.2.1", client="no"),
    ]
    known = KnownCertificates(rules, Assurance.BOUND)
    reads: list[bytes] = []

    def read(value: bytes) -> Certificate:
        reads.append(value)
        return read_certificate(value)

    found = [known.of(ISSUED.der, read) for _ in range(3)]
    assert [ISSUED.der] == reads
    assert found[0] is found[1] is found[2]
    assert found[0].accepted is not None
    assert "client:first" == found[0].accepted.principal.subject


def test_as_many_certificates_are_remembered_as_there_is_room_for() -> None:
    known = KnownCertificates([CertRule(dns="batch.example", client="x")], Assurance.BOUND)
    for number in range(MAX_REMEMBERED + 10):
        assert known.of(b"%d" % number, lambda value: Certificate(fingerprint=value)).accepted is None
    assert MAX_REMEMBERED == len(known)
