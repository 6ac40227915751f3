"""What a caller presents: found once for a run of layers, in one pass over the raw headers.

Two caller credentials, even equal ones, are refused: which of them the app would honour is not ours to guess
(GHSA-57q6-fvp4-pqmm). Cookies and what a proxy adds are not caller credentials.
"""

import re
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec

from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.header_names import ORDINARY

AUTHORIZATION: Final = b"authorization"
KEY_HEADERS: Final = frozenset({b"x-api-key", b"api-key", b"x-goog-api-key"})
CALLER_HEADERS: Final = KEY_HEADERS | {AUTHORIZATION}
NEVER_A_CREDENTIAL: Final = ORDINARY
"""None of them may be named as one that carries a credential."""
SUBPROTOCOL: Final = "openai-insecure-api-key."
"""What browsers put before the key in `Sec-WebSocket-Protocol`, for lack of a header that they may set."""

MAX_CREDENTIAL: Final = 16_384

_SUBPROTOCOL: Final = SUBPROTOCOL.encode()
_AUTHORIZATION: Final = re.compile(rb"([A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]*) +([\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)")
_HEADER_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_BEARER: Final = (b"Bearer ", b"bearer ")
_VISIBLE: Final = bytes(range(0x21, 0x7F))


class Credential(msgspec.Struct, frozen=True, gc=False):
    """A credential as it was presented. It holds the secret: it is never logged, and its `repr` hides it.

    Attributes:
        channel: The header's name in lower case, `subprotocol`, or `?` and the name of the query parameter.
        scheme: The scheme of `Authorization` in lower case (RFC 9110 §11.4), else empty.
        token: What follows the scheme, or the whole value.
    """

    channel: bytes
    scheme: bytes
    token: bytes

    def __repr__(self) -> str:
        return f"Credential(channel={self.channel!r}, scheme={self.scheme!r})"


def find_credential(scope: Any, headers: frozenset[bytes], query_parameters: frozenset[str]) -> Credential | Denial | None:
    """Find the caller's credential.

    Args:
        scope: The connection.
        headers: The names of the headers that may carry one, in lower case.
        query_parameters: The names of the query parameters that may.

    Returns:
        The credential; a denial where there are two, or one that is not well-formed; None where there is none.
    """
    found: list[tuple[bytes, bytes]] = []
    for name, value in scope["headers"]:
        # Most headers are these, in lower case as the specification wants it: passing over them saves most of the loop.
        if name not in NEVER_A_CREDENTIAL and (lowered := name.lower()) in headers:
            found.append((lowered, value))
    if scope["type"] == "websocket":
        found += _subprotocols(scope)
    if query_parameters and scope.get("query_string"):
        found += _query(scope["query_string"], query_parameters)
    if not found:
        return None
    channel, value = found[0]
    if len(found) > 1:
        return Denial("repeated_credential" if all(name == channel for name, _ in found) else "ambiguous_credential")
    value = value.strip(b" \t")
    if len(value) > MAX_CREDENTIAL:
        return Denial("malformed_credential")
    if channel != AUTHORIZATION:
        return Credential(channel, b"", value) if _is_word(value) else Denial("malformed_credential")
    return _authorization(value)


def header_channel(option: str, header: object) -> bytes:
    """Return the channel that a further header is.

    Raises:
        ConfigurationError: it is not the name of a header in lower case, is looked at anyway, or means something else to servers.
    """
    if not isinstance(header, str) or _HEADER_NAME.fullmatch(header) is None:
        raise ConfigurationError(option, f"{header!r} is not the name of a header in lower case (RFC 9110 §5.1)")
    name = header.encode()
    if name in CALLER_HEADERS:
        raise ConfigurationError(option, f"{header!r} is accepted anyway: leave the option out")
    if name in NEVER_A_CREDENTIAL:
        raise ConfigurationError(option, f"{header!r} means something else to servers")
    return name


def query_channel(parameter: str) -> bytes:
    """Return the channel that a query parameter is: one layer's parameter is not another's."""
    return b"?" + parameter.encode("utf-8", "surrogatepass")


def _authorization(value: bytes) -> Credential | Denial:
    if value[:7] in _BEARER and _is_word(token := value[7:]):
        return Credential(AUTHORIZATION, b"bearer", token)
    match = _AUTHORIZATION.fullmatch(value)
    if match is None:
        # One word alone is a key that somebody put there without a scheme: well-formed, and accepted by nobody. `Bearer`
        # alone is a client whose key is empty.
        if _is_word(value) and value.lower() != b"bearer":
            return Credential(AUTHORIZATION, b"none", value)
        return Denial("malformed_credential")
    scheme, token = match[1].lower(), match[2]
    if scheme == b"bearer" and b" " in token:
        return Denial("malformed_credential")
    return Credential(AUTHORIZATION, scheme, token)


def _is_word(value: bytes) -> bool:
    # Not by a regular expression: those look at each character, and a token has hundreds.
    return value != b"" and not value.translate(None, _VISIBLE)


def _subprotocols(scope: Any) -> list[tuple[bytes, bytes]]:
    # From the lines themselves, where there are any: hypercorn puts only the last of several into `subprotocols`.
    lines: list[bytes] = [value for name, value in scope["headers"] if name.lower() == b"sec-websocket-protocol"]
    shown: list[str] = scope.get("subprotocols") or []
    offered = [name.strip(b" \t") for line in lines for name in line.split(b",")]
    if not lines:
        offered = [name.encode("utf-8", "surrogatepass") for name in shown]
    return [(b"subprotocol", name.removeprefix(_SUBPROTOCOL)) for name in offered if name.startswith(_SUBPROTOCOL)]


def _query(query: bytes, parameters: frozenset[str]) -> list[tuple[bytes, bytes]]:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True, errors="surrogateescape")
    return [(query_channel(name), value.encode("utf-8", "surrogateescape")) for name, value in pairs if name in parameters]
