"""The forms in which a proxy in front hands on the certificate of its client.

Whether the header is the proxy's own is not known here: whoever calls has proven that. A proxy may also hand on certificates
that it did not verify, which is for its configuration to exclude.
"""

import re
from collections.abc import Iterator
from typing import Final, Literal, TypeAlias, get_args
from urllib.parse import unquote_to_bytes

from llm_authmw.certificates.certificate import Certificate, dns_name, each, spiffe_id, uri_name
from llm_authmw.certificates.parse import MAX_TEXT, from_base64, from_pem, parse_certificate
from llm_authmw.errors import InvalidValueError

HeaderForm: TypeAlias = Literal["client-cert", "xfcc", "nginx"]
HEADER_FORMS: Final[tuple[HeaderForm, ...]] = get_args(HeaderForm)

_UNREADABLE: Final = "the header holds no certificate in the form that is expected"

# `Client-Cert`: RFC 8941 §3.3.5, and nothing beside it: RFC 9440 §2.2 defines no parameter, and a comma means that there are two.
_BYTE_SEQUENCE: Final = re.compile(rb"[ \t]*:([A-Za-z0-9+/=]*):[ \t]*")

# One pair of an element and what ends it. A quoted value ends at the first quotation mark without a backslash before it, and
# a subject may hold anything: it has to be stepped over rightly, and is never read.
_PAIR: Final = re.compile(
    r"""[ \t]*(?P<key>[A-Za-z]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^",; \t]*))[ \t]*(?P<end>[,;]|\Z)""",
)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_ESCAPED: Final = re.compile(r"\\(.)")
_HASH: Final = re.compile(r"[0-9A-Fa-f]{64}")
_SINGLE: Final = ("cert", "chain", "hash", "subject")


class SeveralHopsError(InvalidValueError):
    """More than one proxy has told of its client, and it was not said whose word counts."""


def from_header(form: HeaderForm, value: bytes, *, nearest: bool = False) -> Certificate:
    """Read a header's value.

    Args:
        form: How the proxy writes it.
        value: The value of the one line that there is.
        nearest: Whether the last element of an XFCC header counts, which the proxy that we talk to has added, where there are
            several. The other forms hold one certificate.

    Raises:
        SeveralHopsError: several proxies have written into it.
        InvalidValueError: it cannot be read.
    """
    if len(value) > MAX_TEXT:
        raise InvalidValueError(_UNREADABLE)
    if form == "xfcc":
        return _xfcc(value, nearest=nearest)
    return _client_cert(value) if form == "client-cert" else _escaped_pem(value)


def _client_cert(value: bytes) -> Certificate:
    found = _BYTE_SEQUENCE.fullmatch(value)
    if found is None:
        raise InvalidValueError(_UNREADABLE)
    return parse_certificate(from_base64(found[1]))


def _escaped_pem(value: bytes) -> Certificate:
    return parse_certificate(from_pem(unquote_to_bytes(value.strip(b" \t"))))


def _xfcc(value: bytes, *, nearest: bool) -> Certificate:
    """Read Envoy's header: one element for each proxy, separated by commas.

    The certificate decides where there is one (`Cert`, else the first of `Chain`). Else what is known are its fingerprint
    (`Hash`), its URIs and its DNS names. `Subject` and `By` are not read.
    """
    if _CONTROL.search(value) is not None:
        raise InvalidValueError(_UNREADABLE)
    elements = list(_elements(value.decode("latin-1")))
    if len(elements) > 1 and not nearest:
        raise SeveralHopsError("the header holds the elements of several proxies")
    return _of_element(elements[-1])


def _elements(text: str) -> Iterator[list[tuple[str, str]]]:
    pairs: list[tuple[str, str]] = []
    position, end = 0, ";"
    while end:
        found = _PAIR.match(text, position)
        if found is None:
            raise InvalidValueError(_UNREADABLE)
        quoted = found["quoted"]
        pairs.append((found["key"].lower(), found["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted)))
        position, end = found.end(), found["end"]
        if end != ";":
            yield pairs
            pairs = []


def _of_element(pairs: list[tuple[str, str]]) -> Certificate:
    keys = [key for key, _ in pairs]
    if any(keys.count(key) > 1 for key in _SINGLE):
        raise InvalidValueError(_UNREADABLE)
    values = dict(pairs)
    pem = values.get("cert") or values.get("chain")
    fingerprint = values.get("hash")
    if fingerprint is not None and _HASH.fullmatch(fingerprint) is None:
        raise InvalidValueError(_UNREADABLE)
    if pem:
        certificate = _escaped_pem(pem.encode("latin-1"))
        if fingerprint is not None and bytes.fromhex(fingerprint) != certificate.fingerprint:
            raise InvalidValueError("the header's fingerprint is that of another certificate")
        return certificate
    if fingerprint is None:
        raise InvalidValueError(_UNREADABLE)
    # Envoy writes `URI=` where there is none.
    uris = each((value for key, value in pairs if key == "uri" and value), uri_name)
    dns = each((value for key, value in pairs if key == "dns" and value), dns_name)
    return Certificate(fingerprint=bytes.fromhex(fingerprint), uri=uris, dns=dns, spiffe=spiffe_id(uris))
