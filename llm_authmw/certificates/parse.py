"""Read a certificate: liberal in its form, strict in what it says.

Only the certificate itself is read, never a text that somebody made of it. A name that two programs could read in two ways
(a NUL in it, a line break, a letter outside ASCII) makes the whole certificate unreadable (CVE-2025-66220 and its kin).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from typing import Any, Final, TypeVar, cast

from cryptography import x509

from llm_authmw.certificates.certificate import Certificate, dns_name, each, email_name, ip_name, spiffe_id, uri_name
from llm_authmw.errors import InvalidValueError

MAX_CERTIFICATE: Final = 16_384
"""Bytes of one certificate's DER form."""
MAX_TEXT: Final = 65_536
"""Characters of PEM, which may hold a chain."""

_UNREADABLE: Final = "it is not a certificate"
_TOO_LONG: Final = "it is too long for a certificate"
# RFC 7468 §5.1. Nothing but blanks may stand between certificates: explanatory text is for files, and a comma is where somebody
# has joined two values.
_BLOCK: Final = rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----\s*"
_PEM: Final = re.compile(rb"\s*%b(?:%b)*" % (_BLOCK, _BLOCK))
_SEQUENCE: Final = b"\x30"

E = TypeVar("E", bound=x509.ExtensionType)


def first_of(chain: Any) -> bytes | None:
    """Return the first certificate of a chain, which is the client's, in whatever form it is there.

    Args:
        chain: What a server gives: PEM as text or bytes, DER as bytes, a list or a tuple of these, the leaf first; or None.

    Raises:
        InvalidValueError: it is nothing of that kind.
    """
    if chain is None or (isinstance(chain, str | bytes | list | tuple) and not chain):
        return None
    first: Any = cast("Sequence[Any]", chain)[0] if isinstance(chain, list | tuple) else chain
    if isinstance(first, str):
        try:
            return first.encode("ascii")
        except UnicodeEncodeError:
            raise InvalidValueError(_UNREADABLE) from None
    if not isinstance(first, bytes):
        raise InvalidValueError(_UNREADABLE)
    return first


def read_certificate(value: bytes) -> Certificate:
    """Read a certificate in its DER form, or the first one of a PEM text (RFC 7468).

    Raises:
        InvalidValueError: as `parse_certificate`.
    """
    return parse_certificate(value if value.startswith(_SEQUENCE) else from_pem(value))


def subject_of(der: bytes) -> str | None:
    """Return the subject of a certificate by RFC 4514, for people to read; None where there is none to be read."""
    try:
        return x509.load_der_x509_certificate(der).subject.rfc4514_string()
    except ValueError:
        return None


def from_pem(text: bytes) -> bytes:
    """Return the DER form of the first certificate in a PEM text.

    Raises:
        InvalidValueError: there is none, or it is too long.
    """
    if len(text) > MAX_TEXT:
        raise InvalidValueError(_TOO_LONG)
    found = _PEM.fullmatch(text)
    if found is None:
        raise InvalidValueError(_UNREADABLE)
    return from_base64(b"".join(found[1].split()))


def from_base64(text: bytes) -> bytes:
    """Return what base64 stands for (RFC 4648 §4).

    Raises:
        InvalidValueError: it is no base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidValueError(_UNREADABLE) from None


def parse_certificate(der: bytes) -> Certificate:
    """Read a certificate in its DER form.

    Raises:
        InvalidValueError: it cannot be read, is too long, or holds a name that can be read in more than one way.
    """
    if len(der) > MAX_CERTIFICATE:
        raise InvalidValueError(_TOO_LONG)
    try:
        return _parsed(der)
    except InvalidValueError:
        raise
    except Exception:  # noqa: BLE001 - bytes from outside, and a parser that raises what its parts raise
        raise InvalidValueError(_UNREADABLE) from None


def _parsed(der: bytes) -> Certificate:
    certificate = x509.load_der_x509_certificate(der)
    names = extension(certificate, x509.SubjectAlternativeName)
    given = names if names is not None else x509.SubjectAlternativeName([])
    uris = each(given.get_values_for_type(x509.UniformResourceIdentifier), uri_name)
    subject, issuer = certificate.subject.rfc4514_string(), certificate.issuer.rfc4514_string()
    if not (subject.isprintable() and issuer.isprintable()):
        # It decides nothing, but it is shown, and a line break in it would be a second line of a log.
        raise InvalidValueError(_UNREADABLE)
    return Certificate(
        fingerprint=hashlib.sha256(der).digest(),
        dns=each(given.get_values_for_type(x509.DNSName), dns_name),
        uri=uris,
        email=each(given.get_values_for_type(x509.RFC822Name), email_name),
        ip=each(map(str, given.get_values_for_type(x509.IPAddress)), ip_name),
        spiffe=None if _can_sign(certificate) else spiffe_id(uris),
        subject=subject,
        issuer=issuer,
        serial=certificate.serial_number,
        not_before=certificate.not_valid_before_utc.timestamp(),
        # The last second belongs to it (RFC 5280 §4.1.2.5).
        not_after=certificate.not_valid_after_utc.timestamp() + 1.0,
        der=der,
    )


def _can_sign(certificate: x509.Certificate) -> bool:
    constraints = extension(certificate, x509.BasicConstraints)
    usage = extension(certificate, x509.KeyUsage)
    return (constraints is not None and constraints.ca) or (usage is not None and (usage.key_cert_sign or usage.crl_sign))


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """Return an extension of a certificate, or None."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
