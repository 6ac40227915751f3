"""Headers that say who is calling: one name, whatever its spelling, and nobody's but a proven proxy's.

Servers, gateways and CGI environments fold `-`, `_`, `.` and more into one letter: whoever removes `X-Forwarded-User` and
leaves `X_Forwarded_User` in place has removed nothing (CVE-2025-64484, CVE-2026-33433, CVE-2026-54763). So a request that
carries another spelling of a trusted name is refused, whoever sends it.
"""

import re
from collections.abc import Iterable
from typing import Any, Final, TypeAlias

from llm_authmw.authn.credentials import NEVER_A_CREDENTIAL
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.header_names import fold

Headers: TypeAlias = list[tuple[bytes, bytes]]

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")

_FAMILIES: Final = [
    frozenset(f"{prefix}{name}".encode() for name in names.split())
    for prefix, names in [
        ("remote-", "user groups email name"),
        ("x-remote-", "user group"),
        ("x-forwarded-", "user email groups preferred-username access-token"),
        ("x-auth-request-", "user email groups preferred-username access-token"),
        ("x-authentik-", "username groups entitlements email name uid"),
        ("x-pomerium-claim-", "sub user email groups name"),
        ("tailscale-", "user-login user-name user-profile-pic app-capabilities"),
        ("x-goog-authenticated-user-", "email id"),
        ("x-ms-client-", "principal principal-id principal-idp principal-name"),
        ("x-ms-token-aad-", "access-token id-token refresh-token"),
    ]
]
"""Headers that one proxy sets together. An app that reads one of them may well read the others."""
_SINGLE: Final = frozenset(
    name.encode()
    for name in [
        # Signed assertions: nobody can forge one, but it is somebody's credential.
        "cf-access-jwt-assertion",
        "x-amzn-oidc-accesstoken",
        "x-amzn-oidc-data",
        "x-authentik-jwt",
        "x-goog-iap-jwt-assertion",
        "x-pomerium-jwt-assertion",
        # Beside a signed assertion, and not signed.
        "cf-access-authenticated-user-email",
        "x-amzn-ava-user-context",
        "x-amzn-oidc-identity",
        # Client certificates.
        "client-cert",
        "client-cert-chain",
        "x-forwarded-client-cert",
        "x-ssl-client-cert",
        "x-ssl-client-s-dn",
        "x-ssl-client-verify",
    ]
)
WELL_KNOWN: Final = _SINGLE.union(*_FAMILIES)
"""Headers by which proxies that are in use say who is calling. Whoever passes a request on removes them, or trusts them."""


def with_family(names: frozenset[bytes]) -> frozenset[bytes]:
    """Return the names, and those that a proxy which sets one of them sets beside it."""
    return names.union(*(family for family in _FAMILIES if not family.isdisjoint(names)))


def header_name(option: str, name: object) -> bytes:
    """Return the name of a header that may be trusted.

    Args:
        option: The option that holds it, for the error.
        name: The name in lower case.

    Raises:
        ConfigurationError: it is not the name of a header, or folds into one that means something else to servers.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise ConfigurationError(option, f"{name!r} is not the name of a header in lower case, such as 'x-forwarded-user'")
    given = name.encode()
    if fold(given) in NEVER_A_CREDENTIAL:
        raise ConfigurationError(option, f"{name!r} means something else to servers, or folds into what does")
    return given


class IdentityHeaders:
    """The headers that one layer trusts, and how a request's are told apart.

    Args:
        names: The names in lower case, as `header_name` gives them.

    Raises:
        ConfigurationError: two of them are spellings of one name.
    """

    __slots__ = ("_exact", "names")

    def __init__(self, names: Iterable[bytes]) -> None:
        self.names: Final = frozenset(names)
        self._exact: Final = {fold(name): name for name in self.names}
        if len(self._exact) < len(self.names):
            raise ConfigurationError("headers", "two of the headers are spellings of one name")

    def __repr__(self) -> str:
        return f"IdentityHeaders({sorted(self.names)!r})"

    def find(self, headers: Iterable[Any]) -> Headers | Denial:
        """Return the lines under one of the names, in lower case, in their order; a denial where one has another spelling."""
        exact = self._exact
        found: Headers = []
        for name, value in headers:
            # Most headers are these, in lower case as the specification wants it; none of them is a spelling of a trusted name.
            if name in NEVER_A_CREDENTIAL:
                continue
            trusted = exact.get(fold(name))
            if trusted is not None:
                if name.lower() != trusted:
                    return Denial("identity_header_alias")
                found.append((trusted, value))
        return found


def without(headers: Iterable[Any], names: frozenset[bytes]) -> list[Any]:
    """Return a new list of the lines whose names are none of these, whatever their case.

    Args:
        headers: The request's own, which are not touched: somebody outside may hold the same list.
        names: In lower case.
    """
    return [line for line in headers if line[0].lower() not in names]
