"""From a proven proxy's headers to a principal: a pure function of the values."""

from typing import Any, Final, TypeAlias

from llm_authmw.authn.header_encodings import STRUCTURED, decode_structure, decode_text, encoded_fields
from llm_authmw.authn.header_map import NARROWING, HeaderMap
from llm_authmw.certificates.headers import SeveralHopsError
from llm_authmw.errors import AuthmwError, Denial
from llm_authmw.principal import Assurance, Principal
from llm_authmw.tokens.claim_map import READERS

Lines: TypeAlias = tuple[tuple[bytes, bytes], ...]

MAX_VALUE: Final = 16_384
"""Bytes of one value."""
MAX_STRUCTURE: Final = 65_536
"""Bytes of one value that holds several fields: base64 of hundreds of groups, or certificates."""

_LISTS: Final = ("groups", "roles", "tags", "models")
_QUOTAS: Final = ("limits", "budgets")


class HeaderReader:
    """What one layer makes of header values.

    Args:
        headers: Which headers become which fields.
        realm: Where a user's name means one person.
        tenant: The tenant, unless a header names it.
    """

    __slots__ = ("_encoded", "_headers", "_named", "_realm", "_structured", "_tenant")

    def __init__(self, headers: HeaderMap, *, realm: str, tenant: str) -> None:
        self._headers: Final = headers
        self._named: Final = headers.named
        self._encoded: Final = encoded_fields(headers.encoding)
        self._structured: Final = headers.encoding in STRUCTURED
        self._realm: Final = realm
        self._tenant: Final = tenant

    def read(self, lines: Lines) -> Principal | None:
        """Return who the headers say is calling, or None where they name nobody.

        Args:
            lines: The lines under the headers that are named, each name in lower case.

        Raises:
            Denial: a header is there twice, or holds two values or one that is not accepted, or one that narrows is missing.
        """
        values: dict[bytes, bytes] = {}
        for name, value in lines:
            if name in values:
                raise Denial("identity_header_repeated")
            values[name] = value.strip(b" \t")
        try:
            return self._principal(values)
        except Denial:
            raise
        except SeveralHopsError:
            raise Denial("identity_header_repeated") from None
        except (AuthmwError, ValueError, TypeError):
            raise Denial("identity_header_malformed") from None

    def _principal(self, values: dict[bytes, bytes]) -> Principal | None:
        given = {field: self._field(field, values[header]) for field, header in self._named.items() if header in values}
        found: dict[str, Any] = {field: READERS[field](value) for field, value in given.items() if value is not None}
        if "user" not in found and "client" not in found:
            return None
        if any(field in self._named and field not in found for field in NARROWING):
            raise Denial("identity_header_missing")
        found.setdefault("tenant", self._tenant)
        return Principal(**found, realm=self._realm, method="header", assurance=Assurance.PEER_TRUSTED)

    def _field(self, field: str, value: bytes) -> Any:
        """Return what a value says of a field: a text, a list, or None where it is empty and that says nothing."""
        encoded = field in self._encoded
        if encoded and self._structured:
            if len(value) > MAX_STRUCTURE:
                raise Denial("identity_header_malformed")
            return decode_structure(self._headers.encoding, value).get(field) if value else None
        if len(value) > MAX_VALUE:
            raise Denial("identity_header_malformed")
        text = value.decode()
        if field in _LISTS:
            return [entry.strip(" \t") for entry in text.split(self._headers.separator)]
        if field in _QUOTAS:
            return [entry.strip(" \t") for entry in text.split(";")]
        if field == "scopes":
            return text
        if "," in text:
            # What a server or a proxy makes of two lines (RFC 9110 §5.3).
            raise Denial("identity_header_repeated")
        if not text:
            return None
        return decode_text(self._headers.encoding, text) if encoded else text
