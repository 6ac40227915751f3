"""The headers in which proxies hand a certificate on."""

import base64
import itertools
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import InvalidValueError
from llm_authmw.certificates.certificate import Certificate
from llm_authmw.certificates.headers import HEADER_FORMS, HeaderForm, SeveralHopsError, from_header
from llm_authmw.certificates.parse import MAX_TEXT
from llm_authmw.testing.certificates import CertificateAuthority

AUTHORITY = CertificateAuthority()
ALICE = AUTHORITY.issue(uri=["spiffe://corp.example/ns/prod/sa/a"], dns=["a.example"], common_name="alice")
BOB = AUTHORITY.issue(uri=["spiffe://corp.example/ns/prod/sa/b"])

SEQUENCE = ALICE.in_header("client-cert")
ESCAPED = ALICE.in_header("nginx")
HASH = ALICE.parsed.fingerprint.hex().encode()
CERT = ALICE.in_header("xfcc")


@pytest.mark.parametrize("value", [SEQUENCE, b" " + SEQUENCE + b"\t"])
def test_a_byte_sequence_of_a_structured_field_is_a_certificate(value: bytes) -> None:
    assert ALICE.parsed == from_header("client-cert", value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"::",
        SEQUENCE[1:-1],
        SEQUENCE[:-1],
        SEQUENCE + b", " + SEQUENCE,
        SEQUENCE + b";verified",
        SEQUENCE.replace(b"M", b"\xcc", 1),
        b":" + base64.b64encode(ALICE.der).rstrip(b"=") + b"*:",
        b":" + base64.b64encode(b"alice") + b":",
        b':"' + ESCAPED + b'":',
        ESCAPED,
        b":" + b"A" * MAX_TEXT + b":",
    ],
)
def test_anything_but_one_byte_sequence_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidValueError):
        from_header("client-cert", value)


@pytest.mark.parametrize("value", [ESCAPED, quote(ALICE.pem, safe="+=/").encode(), quote(ALICE.pem + BOB.pem).encode()])
def test_percent_encoded_pem_is_a_certificate(value: bytes) -> None:
    assert ALICE.parsed == from_header("nginx", value)


@pytest.mark.parametrize("value", [b"", b"CN=alice", b"%00", b"%", ESCAPED[:-20], b"x" + ESCAPED, SEQUENCE])
def test_anything_but_percent_encoded_pem_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidValueError):
        from_header("nginx", value)


@pytest.mark.parametrize(
    "value",
    [
        CERT,
        b"By=spiffe://corp.example/proxy;Hash=" + HASH + b";" + CERT + b';Subject="CN=alice";URI=',
        b"hash=" + HASH.upper() + b"; cert=" + ESCAPED,
        b'Chain="' + quote(ALICE.pem + BOB.pem, safe="").encode() + b'";By=a;By=b',
        b'Subject="CN=\\"\\\\\\";URI=spiffe://corp.example/root,Hash=x\\",O=\xc3\x80";' + CERT,
    ],
)
def test_the_certificate_in_an_xfcc_element_is_what_counts(value: bytes) -> None:
    assert ALICE.parsed == from_header("xfcc", value)


def test_without_a_certificate_the_fingerprint_and_the_names_are_known() -> None:
    value = b"By=x;Hash=" + HASH + b';Subject="CN=root";URI=spiffe://corp.example/a;DNS=A.example;DNS="b.example";New=1'
    expected = Certificate(
        fingerprint=ALICE.parsed.fingerprint,
        uri=("spiffe://corp.example/a",),
        spiffe="spiffe://corp.example/a",
        dns=("a.example", "b.example"),
    )
    assert expected == from_header("xfcc", value)


def test_two_uris_in_an_element_are_no_spiffe_id() -> None:
    assert from_header("xfcc", b"Hash=" + HASH + b";URI=spiffe://corp.example/a;URI=spiffe://corp.example/b").spiffe is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b",",
        b"alice",
        b"URI=spiffe://corp.example/a",
        b'Subject="CN=alice"',
        b"Hash=abc;URI=spiffe://corp.example/a",
        b"Hash=" + HASH + b";Hash=" + HASH,
        b"Hash=" + HASH + b";hash=" + HASH,
        CERT + b";" + CERT,
        CERT + b';Subject="a";Subject="b"',
        b"Hash=" + BOB.parsed.fingerprint.hex().encode() + b";" + CERT,
        b"Hash=" + HASH + b';Subject="CN=alice',
        b"Hash=" + HASH + b';Subject="CN=a"b"',
        b"Hash=" + HASH + b';Subject=CN=a"b',
        b"Hash=" + HASH + b";",
        b"Hash=" + HASH + b";DNS=a\x00b",
        b'Subject="CN=a\x00b";' + CERT,
        b"Hash=" + HASH + b";DNS=\xc3\xa9.example",
        b"Hash=" + HASH + b";URI=nothing",
        b"Hash=" + HASH + b';URI="spiffe://corp.example/a\n"',
        b'Cert="' + ESCAPED[:-30] + b'"',
        b"Hash=" + HASH + b";" + b";".join(b"DNS=a%d.example" % number for number in range(101)),
        b'Subject="' + b"a" * MAX_TEXT + b'";Hash=' + HASH,
    ],
    ids=itertools.count(),
)
def test_an_element_that_cannot_be_read_is_refused(value: bytes) -> None:
    with pytest.raises(InvalidValueError):
        from_header("xfcc", value)


def test_elements_of_several_proxies_are_refused_unless_the_nearest_was_asked_for() -> None:
    bob = BOB.in_header("xfcc")
    with pytest.raises(SeveralHopsError):
        from_header("xfcc", CERT + b"," + bob)
    assert BOB.parsed == from_header("xfcc", CERT + b", " + bob, nearest=True)
    with pytest.raises(InvalidValueError):
        from_header("xfcc", CERT + b",", nearest=True)


@given(
    form=st.sampled_from(HEADER_FORMS),
    value=st.binary(max_size=80)
    | st.lists(
        st.sampled_from([b"Hash=", HASH, b";", b",", b'"', b"\\", b"URI=", b"spiffe://c/a", b"Cert=", ESCAPED, b"%", b":", SEQUENCE, b" "]),
        max_size=12,
    ).map(b"".join),
    nearest=st.booleans(),
)
def test_any_value_is_a_certificate_or_refused(form: HeaderForm, value: bytes, nearest: Any) -> None:
    try:
        found = from_header(form, value, nearest=nearest)
    except InvalidValueError:
        return
    assert ALICE.parsed.fingerprint == found.fingerprint
