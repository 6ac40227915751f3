"""What a client certificate says, as far as it can decide who is calling."""

import base64
import math
import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Final

import msgspec

from llm_authmw.errors import InvalidValueError

MAX_NAMES: Final = 100
"""Alternative names in one certificate; public authorities stop at 100 as well."""
MAX_NAME: Final = 2048
"""Characters in one alternative name, which is what a SPIFFE ID may have (SPIFFE-ID §2.3)."""

# No blank, no control character, nothing outside ASCII: an IA5String, as RFC 5280 §4.2.1.6 asks, that reads in one way.
_WORD: Final = re.compile(r"[\x21-\x7e]+")
_DNS: Final = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:.+")
_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/[A-Za-z0-9._-]+)+")


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """A client certificate, or as much of it as a proxy has told.

    Attributes:
        fingerprint: SHA-256 of the DER form.
        dns: Its DNS names, in lower case.
        uri: Its URIs.
        email: Its e-mail addresses, with the domain in lower case.
        ip: Its IP addresses, in their canonical form.
        spiffe: Its SPIFFE ID, if it is an X.509-SVID: one URI and no other, and no signing certificate (X509-SVID §5.2).
        subject: Its subject by RFC 4514, for people to read. It decides nothing.
        issuer: Its issuer by RFC 4514, likewise; None where it is not known.
        serial: Its serial number; None where it is not known.
        not_before: Seconds since 1970 from which it is valid.
        not_after: Seconds since 1970 at which it ends.
        der: The certificate itself; None where a proxy has told only its names and its fingerprint.
    """

    fingerprint: bytes
    dns: tuple[str, ...] = ()
    uri: tuple[str, ...] = ()
    email: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()
    spiffe: str | None = None
    subject: str = ""
    issuer: str | None = None
    serial: int | None = None
    not_before: float = -math.inf
    not_after: float = math.inf
    der: bytes | None = None

    @property
    def thumbprint(self) -> str:
        """The fingerprint as tokens that are bound to it hold it: `x5t#S256` (RFC 8705 §3.1)."""
        return base64.urlsafe_b64encode(self.fingerprint).rstrip(b"=").decode()

    @property
    def credential_id(self) -> str:
        """What records show: enough of the thumbprint to find the certificate by."""
        return f"x5t#S256:{self.thumbprint[:16]}"

    def __repr__(self) -> str:
        return f"Certificate({self.credential_id!r})"


def dns_name(value: str) -> str:
    """Return a DNS name as names are compared.

    Raises:
        InvalidValueError: it is none.
    """
    lowered = _word(value).lower()
    if len(lowered) > 253 or _DNS.fullmatch(lowered) is None:
        raise InvalidValueError("a DNS name is expected, such as 'batch.example.com'")
    return lowered


def uri_name(value: str) -> str:
    """Return a URI, which is compared as it is written.

    Raises:
        InvalidValueError: it is none.
    """
    if _SCHEME.fullmatch(_word(value)) is None:
        raise InvalidValueError("a URI is expected, with its scheme")
    return value


def email_name(value: str) -> str:
    """Return an e-mail address as addresses are compared: only the domain knows no case (RFC 5321 §2.4).

    Raises:
        InvalidValueError: it is none, or has two `@`: which of them counts is not ours to guess.
    """
    local, _, domain = _word(value).partition("@")
    if not local or "*" in domain:
        raise InvalidValueError("an e-mail address is expected")
    return f"{local}@{dns_name(domain)}"


def ip_name(value: str) -> str:
    """Return an IP address in its canonical form.

    Raises:
        InvalidValueError: it is none.
    """
    try:
        return str(ip_address(value))
    except ValueError:
        raise InvalidValueError("an IP address is expected") from None


def spiffe_id(uris: tuple[str, ...]) -> str | None:
    """Return the SPIFFE ID among a certificate's URIs, or None.

    An X.509-SVID has exactly one URI (X509-SVID §2), and that of a workload has a path (§3.1). Only the letters of SPIFFE-ID
    §2.1 and §2.2 count, in their own case, so that one ID can be written in one way.
    """
    if len(uris) != 1 or _SPIFFE.fullmatch(uris[0]) is None:
        return None
    segments = uris[0].split("/")
    return None if "." in segments or ".." in segments else uris[0]


def each(values: Iterable[str], read: Callable[[str], str]) -> tuple[str, ...]:
    """Return what `read` makes of each alternative name, once.

    Raises:
        InvalidValueError: there are too many, or one is not what it should be.
    """
    given = list(values)
    if len(given) > MAX_NAMES:
        raise InvalidValueError(f"a certificate has at most {MAX_NAMES} alternative names of one kind")
    return tuple(dict.fromkeys(read(value) for value in given))


def _word(value: str) -> str:
    if len(value) > MAX_NAME or _WORD.fullmatch(value) is None:
        raise InvalidValueError("printable ASCII without blanks is expected")
    return value
