"""Every place in which a caller may have put a credential or a name, and a scope without them.

An app that has credentials of its own must see no other ones: LiteLLM takes `x-litellm-api-key` before `Authorization`, a
CGI-like server takes `X_Api_Key` for `X-Api-Key`, and what an app reads first is not ours to guess. Names are compared by
what all their spellings have in common.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from llm_authmw.authn.credentials import CALLER_HEADERS, NEVER_A_CREDENTIAL, SUBPROTOCOL
from llm_authmw.authn.identity_headers import WELL_KNOWN
from llm_authmw.authn.run import Run
from llm_authmw.header_names import fold
from llm_authmw.overrides import OVERRIDES

CREDENTIAL_HEADERS: Final = CALLER_HEADERS | {
    name.encode()
    for name in [
        "proxy-authorization",
        "x-authorization",
        "x-forwarded-authorization",
        "x-original-authorization",
        "x-serverless-authorization",
        "cf-aig-authorization",
        "apikey",
        "x-apikey",
        "anthropic-api-key",
        "helicone-auth",
        "ocp-apim-subscription-key",
        "openai-api-key",
        "x-anthropic-api-key",
        "x-functions-key",
        "x-litellm-api-key",
        "x-litellm-key",
        "x-openai-api-key",
        "x-portkey-api-key",
        "x-access-token",
        "x-amz-security-token",
        "x-auth-key",
        "x-auth-token",
        "dpop",
    ]
}
"""Headers that LLM apps, gateways and clouds take a credential from."""
COOKIE_HEADERS: Final = frozenset({b"cookie", b"cookie2"})
CREDENTIAL_PARAMETERS: Final = frozenset(
    name.encode()
    for name in [
        "key",
        "api-key",
        "apikey",
        "x-api-key",
        "x-goog-api-key",
        "access-token",
        "accesstoken",
        "auth-token",
        "authorization",
        "id-token",
        "jwt",
        "subscription-key",
        "ocp-apim-subscription-key",
        "token",
    ]
)
"""Query parameters that they take one from."""

_ORDINARY: Final = NEVER_A_CREDENTIAL - COOKIE_HEADERS
_PROTOCOLS: Final = b"sec-websocket-protocol"
_KEY_PROTOCOL: Final = SUBPROTOCOL.encode().removesuffix(b".")
# Some servers still read `;` as `&` (HTML 4.01 B.2.2).
_SEPARATOR: Final = re.compile(rb"([&;])")


def without_credentials(scope: Any, run: Run | None, *, cookies: bool, others: frozenset[bytes] = frozenset()) -> dict[str, Any]:
    """Return a copy of the scope without what the caller presented, everything else byte for byte as it came.

    Args:
        scope: The connection; it is not touched.
        run: What the authentication layers of this request look into, if there are any.
        cookies: Whether cookies are removed too.
        others: Names of further headers to remove, in lower case.
    """
    headers, parameters = others, frozenset[str]()
    while run is not None:
        if run.entrance is not None:
            headers, parameters = headers | run.entrance.read_headers, parameters | run.entrance.query_parameters
        run = run.outer
    found = {**scope, "headers": list(_kept_lines(scope["headers"], _unwanted_headers(headers, cookies=cookies)))}
    if scope.get("query_string"):
        found["query_string"] = _kept_query(scope["query_string"], _unwanted_parameters(parameters))
    if scope.get("subprotocols"):
        found["subprotocols"] = [name for name in scope["subprotocols"] if not _holds_a_key(name.encode("utf-8", "surrogatepass"))]
    return found


@lru_cache(maxsize=64)
def _unwanted_headers(more: frozenset[bytes], *, cookies: bool) -> frozenset[bytes]:
    names = CREDENTIAL_HEADERS | OVERRIDES | WELL_KNOWN | more
    return frozenset(_spelt(name) for name in (names | COOKIE_HEADERS if cookies else names))


@lru_cache(maxsize=64)
def _unwanted_parameters(more: frozenset[str]) -> frozenset[bytes]:
    return frozenset(_spelt(name) for name in CREDENTIAL_PARAMETERS | {name.encode("utf-8", "surrogatepass") for name in more})


def _spelt(name: bytes) -> bytes:
    """Return what all spellings of a name have in common: `$Api.Key`, `api_key[]` and `api-key` are one."""
    return fold(name) or name


def _kept_lines(lines: Iterable[Any], unwanted: frozenset[bytes]) -> Iterable[Any]:
    for line in lines:
        name, value = line
        if name in _ORDINARY:
            yield line
            continue
        spelt = _spelt(name)
        if spelt == _PROTOCOLS:
            offered = value.split(b",")
            kept = [part for part in offered if not _holds_a_key(part)]
            if len(kept) == len(offered):
                yield line
            elif kept:
                yield name, b",".join(kept).strip(b" \t")
        elif spelt not in unwanted:
            yield line


def _holds_a_key(protocol: bytes) -> bool:
    return _spelt(protocol).startswith(_KEY_PROTOCOL)


def _kept_query(query: bytes, unwanted: frozenset[bytes]) -> bytes:
    separators_and_pairs = [b"", *_SEPARATOR.split(query)]
    kept: list[bytes] = []
    for separator, pair in zip(separators_and_pairs[::2], separators_and_pairs[1::2], strict=True):
        if _spelt(unquote_to_bytes(pair.partition(b"=")[0])) not in unwanted:
            # The first one that is left needs no separator before it.
            kept += [separator if kept else b"", pair]
    return b"".join(kept)
