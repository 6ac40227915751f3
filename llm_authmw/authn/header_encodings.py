"""How proxies write what they say of a caller into headers, where it is not the plain text.

Each form is read strictly: what can be read in two ways is refused with `InvalidValueError`.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias

from llm_authmw import strict_json
from llm_authmw.certificates.headers import from_header
from llm_authmw.errors import InvalidValueError

Encoding: TypeAlias = Literal["plain", "rfc2047", "google-iap", "azure-easy-auth", "xfcc"]

STRUCTURED: Final = frozenset({"azure-easy-auth", "xfcc"})
"""Encodings that put several fields into one header."""

_ENCODED: Final[dict[Encoding, tuple[str, ...]]] = {
    "plain": (),
    "rfc2047": ("user", "email", "client", "team", "org", "tenant", "tier"),
    "google-iap": ("user", "email"),
    "azure-easy-auth": ("user", "client", "groups", "roles"),
    "xfcc": ("user", "client"),
}

_GOOGLE: Final = "accounts.google.com:"
_Q_WORD: Final = re.compile(r"=\?utf-8\?q\?((?:[!-<>@-^`-~_]|=[0-9A-F]{2})*)\?=", re.IGNORECASE)
_MAX_CLAIMS: Final = 1024
_OBJECT_ID: Final = ("http://schemas.microsoft.com/identity/claims/objectidentifier", "oid")
_CLIENT_ID: Final = ("appid", "azp")


def encoded_fields(encoding: Encoding) -> tuple[str, ...]:
    """Return the fields that are written in this encoding; all others are plain."""
    return _ENCODED[encoding]


def decode_text(encoding: Encoding, text: str) -> str:
    """Return what a text that is not empty stands for.

    Raises:
        InvalidValueError: it is not written in this encoding.
    """
    if encoding == "google-iap":
        # Another namespace would be another identity provider, whose users are other people.
        if not text.startswith(_GOOGLE):
            raise InvalidValueError(f"a value that begins with {_GOOGLE!r} is expected")
        return text.removeprefix(_GOOGLE)
    return _decoded_words(text) if encoding == "rfc2047" and text.startswith("=?") else text


def decode_structure(encoding: Encoding, value: bytes) -> Mapping[str, Any]:
    """Return the fields that one header's value holds.

    Raises:
        SeveralHopsError: several proxies have written into it.
        InvalidValueError: it cannot be read, or can be read in more than one way.
    """
    if encoding == "azure-easy-auth":
        return _client_principal(value)
    certificate = from_header("xfcc", value)
    if len(certificate.uri) > 1:
        raise InvalidValueError("a certificate with one URI is expected")
    return dict.fromkeys(_ENCODED["xfcc"], certificate.uri[0]) if certificate.uri else {}


def _decoded_words(text: str) -> str:
    """Decode Q-encoded words in UTF-8, with one blank between them (RFC 2047 §2 and §4.2)."""
    decoded = b""
    for word in text.split(" "):
        match = _Q_WORD.fullmatch(word)
        if match is None:
            raise InvalidValueError("Q-encoded words in UTF-8 are expected")
        decoded += binascii.a2b_qp(match[1], header=True)
    try:
        return decoded.decode()
    except UnicodeDecodeError:
        raise InvalidValueError("Q-encoded words in UTF-8 are expected") from None


def _client_principal(value: bytes) -> dict[str, Any]:
    """Read `X-MS-CLIENT-PRINCIPAL`: base64 of `{"auth_typ", "claims": [{"typ", "val"}, …], "name_typ", "role_typ"}`.

    Only Entra ID's own (`aad`): ids of several providers are not one name space. E-mail addresses are left out, since whoever runs a
    directory of his own may write any address into it.
    """
    try:
        principal = strict_json.parse_object(base64.b64decode(value, validate=True))
        role_type = principal["role_typ"]
        claims = [(claim["typ"], claim["val"]) for claim in principal["claims"]]
    except (ValueError, KeyError, TypeError):
        raise InvalidValueError("base64 of a client principal is expected") from None
    if principal.get("auth_typ") != "aad":
        raise InvalidValueError("a client principal of Entra ID is expected")
    if len(claims) > _MAX_CLAIMS or not all(isinstance(part, str) for claim in claims for part in claim):
        raise InvalidValueError("claims that are texts are expected")
    return {
        "user": _only(claims, _OBJECT_ID),
        "client": _only(claims, _CLIENT_ID),
        "groups": [val for typ, val in claims if typ == "groups"],
        "roles": [val for typ, val in claims if typ in ("roles", role_type)],
    }


def _only(claims: list[tuple[str, str]], types: tuple[str, ...]) -> str | None:
    values = {val for typ, val in claims if typ in types}
    if len(values) > 1:
        raise InvalidValueError("a claim that says who is calling has two values")
    return values.pop() if values else None
