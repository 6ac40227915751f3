"""Certificates as bytes from outside: liberal in form, strict in what they say."""

import hashlib
import math
import ssl
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm_authmw import InvalidValueError
from llm_authmw.certificates.certificate import MAX_NAMES, Certificate, spiffe_id
from llm_authmw.certificates.parse import MAX_CERTIFICATE, MAX_TEXT, first_of, parse_certificate, read_certificate, subject_of
from llm_authmw.testing.certificates import NOT_AFTER, NOT_BEFORE, CertificateAuthority

AUTHORITY = CertificateAuthority()
ALICE = AUTHORITY.issue(
    dns=["Batch.Example.com", "*.example.org"],
    uri=["spiffe://corp.example/ns/prod/sa/batch"],
    email=["Alice@Corp.Example"],
    ip=["192.0.2.1", "2001:0db8::0001"],
    common_name="alice",
)


@pytest.mark.parametrize(
    "der",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\x30\x03abc", id="another structure"),
        pytest.param(ALICE.der[:-1], id="cut off"),
        pytest.param(ALICE.der + b"\0", id="something behind it"),
        pytest.param(b"\x30" * (MAX_CERTIFICATE + 1), id="too long"),
    ],
)
def test_bytes_that_are_no_certificate_are_refused(der: bytes) -> None:
    with pytest.raises(InvalidValueError, match="certificate"):
        parse_certificate(der)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param({"dns": ["admin\0.evil.example"]}, id="NUL in a DNS name"),
        pytest.param({"dns": ["admin.example\n"]}, id="line break in a DNS name"),
        pytest.param({"dns": ["admin .example"]}, id="blank in a DNS name"),
        pytest.param({"dns": ["a,DNS:b"]}, id="separator in a DNS name"),
        pytest.param({"dns": ["a..example"]}, id="empty label"),
        pytest.param({"dns": ["b*.example"]}, id="wildcard inside of a label"),
        pytest.param({"dns": [""]}, id="empty DNS name"),
        pytest.param({"dns": [".".join(["abcdefg"] * 32)]}, id="DNS name of more than 253 letters"),
        pytest.param({"uri": ["spiffe://corp/ns\0/x"]}, id="NUL in a URI"),
        pytest.param({"uri": ["spiffe://corp/ns\x7f"]}, id="control character in a URI"),
        pytest.param({"uri": ["corp/ns"]}, id="URI without a scheme"),
        pytest.param({"uri": ["urn:" + "x" * 2048]}, id="URI that is too long"),
        pytest.param({"email": ["alice@corp.exampleXevil.example"], "patch": (b"X", b"@")}, id="two @"),
        pytest.param({"email": ["corp.example"]}, id="host in the place of an e-mail address"),
        pytest.param({"email": ["alice@\0corp.example"]}, id="NUL in an e-mail address"),
        pytest.param({"email": ["alice@*.example"]}, id="wildcard in an e-mail address"),
        pytest.param({"dns": [f"a{number}.example" for number in range(MAX_NAMES + 1)]}, id="too many"),
        pytest.param({"common_name": "alice\nroot"}, id="line break in the subject"),
    ],
)
def test_a_name_that_reads_in_two_ways_makes_the_certificate_unreadable(names: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        parse_certificate(AUTHORITY.issue(**names).der)


def test_an_issuer_that_would_be_two_lines_of_a_log_makes_the_certificate_unreadable() -> None:
    with pytest.raises(InvalidValueError):
        parse_certificate(CertificateAuthority("Corp\nCA").issue().der)


def test_a_certificate_that_is_too_long_is_not_read() -> None:
    names = [f"{'a' * 60}.{'b' * 60}.{'c' * 60}.d{number}.example" for number in range(MAX_NAMES)]
    with pytest.raises(InvalidValueError, match="too long"):
        parse_certificate(AUTHORITY.issue(dns=names).der)


def test_a_name_outside_ascii_makes_the_certificate_unreadable() -> None:
    patched = AUTHORITY.issue(dns=["admin.example"], patch=(b"admin.example", b"adm\xc3\xad.example"))
    with pytest.raises(InvalidValueError):
        parse_certificate(patched.der)


def test_what_a_certificate_says_is_read() -> None:
    parsed = ALICE.parsed
    assert hashlib.sha256(ALICE.der).digest() == parsed.fingerprint
    assert ("batch.example.com", "*.example.org") == parsed.dns
    assert ("spiffe://corp.example/ns/prod/sa/batch",) == parsed.uri
    assert "spiffe://corp.example/ns/prod/sa/batch" == parsed.spiffe
    assert ("Alice@corp.example",) == parsed.email
    assert ("192.0.2.1", "2001:db8::1") == parsed.ip
    assert ("CN=alice", "CN=Test CA") == (parsed.subject, parsed.issuer)
    assert (NOT_BEFORE, NOT_AFTER + 1) == (parsed.not_before, parsed.not_after)
    assert ALICE.der == parsed.der
    assert parsed.serial is not None


def test_a_certificate_without_names_is_read() -> None:
    parsed = AUTHORITY.issue(common_name="Zoë").parsed
    assert () == parsed.dns + parsed.uri + parsed.email + parsed.ip
    assert ("CN=Zoë", None) == (parsed.subject, parsed.spiffe)


def test_the_thumbprint_is_the_digest_of_the_der_form_as_rfc_8705_writes_it() -> None:
    # RFC 8705, appendix A: the certificate and its x5t#S256.
    pem = (
        b"-----BEGIN CERTIFICATE-----"
        b"MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAxODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UE"
        b"AwwEbXRsczBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ/Au08/coZwxS7LfA4vOLS9Wu"
        b"neIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwIDSQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOVbUlJ"
        b"SGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY="
        b"-----END CERTIFICATE-----"
    )
    assert "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0" == read_certificate(pem).thumbprint


@pytest.mark.parametrize(
    "uris",
    [
        (),
        ("https://corp.example/x",),
        ("spiffe://corp.example/a", "spiffe://corp.example/b"),
        ("spiffe://corp.example/a", "https://corp.example/a"),
        ("spiffe://corp.example",),
        ("spiffe://corp.example/",),
        ("spiffe://corp.example/a/",),
        ("spiffe://corp.example//a",),
        ("spiffe://corp.example/./a",),
        ("spiffe://corp.example/a/..",),
        ("spiffe://corp.example/a?b",),
        ("spiffe://corp.example/a#b",),
        ("spiffe://corp.example/%61",),
        ("spiffe://corp.example/a\n",),
        ("spiffe://Corp.example/a",),
        ("SPIFFE://corp.example/a",),
        ("spiffe://user@corp.example/a",),
        ("spiffe://corp.example:443/a",),
        ("spiffe:///a",),
        (f"spiffe://{'a' * 256}/a",),
    ],
)
def test_what_is_no_spiffe_id_of_a_workload_is_none(uris: tuple[str, ...]) -> None:
    assert spiffe_id(uris) is None


@pytest.mark.parametrize("kind", ["ca", "signs"])
def test_a_signing_certificate_has_no_spiffe_id(kind: str) -> None:
    assert AUTHORITY.issue(uri=["spiffe://corp.example/ca"], ca=kind == "ca", signs=kind == "signs").parsed.spiffe is None


DER, PEM = ALICE.der, ALICE.pem


@pytest.mark.parametrize(
    ("chain", "first"),
    [
        (None, None),
        ("", None),
        (b"", None),
        ([], None),
        ((), None),
        (PEM, PEM.encode()),
        (PEM.encode(), PEM.encode()),
        (DER, DER),
        ([PEM, "and others"], PEM.encode()),
        ((DER,), DER),
        ([""], b""),
    ],
)
def test_the_first_of_a_chain_is_found_in_whatever_form_a_server_gives_it(chain: Any, first: bytes | None) -> None:
    assert first == first_of(chain)


@pytest.mark.parametrize("chain", [5, {"a": 1}, [None], [[PEM]], "ключ", ["\ud800"], bytearray(DER)])
def test_a_chain_of_something_else_is_refused(chain: Any) -> None:
    with pytest.raises(InvalidValueError):
        first_of(chain)


@pytest.mark.parametrize("text", [DER, PEM.encode(), f"\r\n{PEM}{AUTHORITY.pem}".encode(), PEM.replace("\n", "\r\n").encode()])
def test_the_forms_of_one_certificate_are_one_certificate(text: bytes) -> None:
    assert ALICE.parsed == read_certificate(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"CN=alice",
        f"Subject: CN=root\n{PEM}".encode(),
        PEM.replace("CERTIFICATE", "PUBLIC KEY").encode(),
        PEM.replace("MII", "M!I").encode(),
        b"-----BEGIN CERTIFICATE-----\n=\n-----END CERTIFICATE-----",
        b" " * MAX_TEXT + PEM.encode(),
    ],
)
def test_a_text_that_is_no_certificate_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidValueError):
        read_certificate(text)


def with_one_byte_changed(place: int, byte: int) -> bytes:
    return DER[:place] + bytes([byte]) + DER[place + 1 :]


@given(
    st.binary(max_size=64)
    | st.binary(max_size=64).map(DER[:-64].__add__)
    | st.builds(with_one_byte_changed, st.integers(0, len(DER) - 1), st.integers(0, 255))
)
@example(DER)
def test_any_bytes_are_a_certificate_or_refused(der: bytes) -> None:
    try:
        parsed = read_certificate(der)
    except InvalidValueError:
        return
    assert hashlib.sha256(der).digest() == parsed.fingerprint
    assert all(name.isascii() and name.isprintable() for name in (*parsed.dns, *parsed.uri, *parsed.email, *parsed.ip))


def test_a_certificate_prints_as_what_it_can_be_found_by() -> None:
    assert f"Certificate('x5t#S256:{ALICE.parsed.thumbprint[:16]}')" == repr(ALICE.parsed)
    assert math.inf == Certificate(fingerprint=b"").not_after


def test_a_subject_is_escaped_as_rfc_4514_has_it() -> None:
    issued = AUTHORITY.issue(common_name='alice, O=Evil"; CN=bob')
    assert r"CN=alice\, O=Evil\"\; CN=bob" == subject_of(issued.der)
    assert subject_of(b"\x30\x00") is None
    assert ssl.PEM_cert_to_DER_cert(issued.pem) == issued.der
