"""An issuer's metadata: OpenID Connect Discovery 1.0 §4, and RFC 8414 for authorization servers that are no OpenID providers."""

from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.strict_json import is_array, parse_object
from llm_authmw.tokens.fetches import fetching
from llm_authmw.tokens.http import Fetcher, check_url, is_loopback_url, url_problem

_OPENID: Final = "/.well-known/openid-configuration"
_OAUTH: Final = "/.well-known/oauth-authorization-server"


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """What an issuer says of itself.

    An address that no provider may be asked at (see `check_url`) counts as not given, as does one on this machine where the issuer
    itself is on another.

    Attributes:
        issuer: Its identifier, equal to the one that was asked for.
        jwks_uri: Where its keys are.
        authorization_endpoint: Where a login begins.
        token_endpoint: Where codes and refresh tokens are exchanged.
        userinfo_endpoint: Where more is known of a token's user (OIDC Core §5.3).
        introspection_endpoint: Where it says whether a token is active (RFC 7662).
        revocation_endpoint: Where a token is given back (RFC 7009).
        end_session_endpoint: Where a logout begins.
        device_authorization_endpoint: Where a device's login begins (RFC 8628).
        signing_algorithms: The algorithms that it signs ID tokens with; empty where it does not say.
    """

    issuer: str
    jwks_uri: str | None = None
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    userinfo_endpoint: str | None = None
    introspection_endpoint: str | None = None
    revocation_endpoint: str | None = None
    end_session_endpoint: str | None = None
    device_authorization_endpoint: str | None = None
    signing_algorithms: tuple[str, ...] = ()


_ADDRESSES: Final = tuple(name for name in Metadata.__struct_fields__ if name not in ("issuer", "signing_algorithms"))


def check_issuer(option: str, issuer: str) -> str:
    """Return the issuer's identifier if metadata can be found by it.

    Raises:
        ConfigurationError: it is not an https URL (or http, to a loopback host), or has a query (RFC 8414 §2).
    """
    if "?" in check_url(option, issuer):
        raise ConfigurationError(option, "is a URL without a query")
    return issuer


def metadata_urls(issuer: str) -> tuple[str, str]:
    """Return where an OpenID provider's metadata are, and where an authorization server's are."""
    parts = urlsplit(issuer)
    path = parts.path.removesuffix("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return f"{origin}{path}{_OPENID}", f"{origin}{_OAUTH}{path}"


async def discover(fetcher: Fetcher, issuer: str, *, clock: Clock = SYSTEM_CLOCK) -> Metadata:
    """Return the metadata of an issuer that `check_issuer` has let pass.

    Raises:
        IssuerUnavailableError: it could not be asked, has no metadata, or they are malformed or another issuer's.
    """
    with fetching("discovery", issuer, clock.monotonic):
        return await _discover(fetcher, issuer)


async def _discover(fetcher: Fetcher, issuer: str) -> Metadata:
    for url in metadata_urls(issuer):
        answer = await fetcher.get(url)
        if answer.status == 200:
            return read_metadata(answer.body, issuer)
        if answer.status != 404:
            raise IssuerUnavailableError(f"its metadata were asked for, and it answered {answer.status}")
    raise IssuerUnavailableError("it has no metadata: set the address of its keys")


def read_metadata(body: bytes, issuer: str) -> Metadata:
    """Read the metadata that were found for an issuer.

    Raises:
        IssuerUnavailableError: they are not a JSON object, or name another issuer (RFC 8414 §3.3, OIDC Discovery §4.3): then the keys
            in them would be somebody else's.
    """
    try:
        members = parse_object(body)
    except ValueError:
        raise IssuerUnavailableError("its metadata are not a JSON object") from None
    if members.get("issuer") != issuer:
        raise IssuerUnavailableError("its metadata are of another issuer: both must be equal to the letter")
    addresses = {name: members[name] for name in _ADDRESSES if _may_be_asked(members.get(name), issuer)}
    return Metadata(issuer=issuer, signing_algorithms=_texts(members.get("id_token_signing_alg_values_supported")), **addresses)


def _may_be_asked(url: object, issuer: str) -> bool:
    return isinstance(url, str) and url_problem(url) is None and (is_loopback_url(issuer) or not is_loopback_url(url))


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(entry for entry in value if isinstance(entry, str)) if is_array(value) else ()
