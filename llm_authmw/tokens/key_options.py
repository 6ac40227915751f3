"""From the options that say where an issuer's keys are to the place that they come from: exactly one."""

from collections.abc import Mapping
from typing import Any, Final, cast

from llm_authmw.clock import Clock
from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.tokens.http import Fetcher
from llm_authmw.tokens.jwks import RemoteKeys
from llm_authmw.tokens.keys import UnusableKeyError, pem_keys, read_keys, secret_key
from llm_authmw.tokens.sources import FixedKeys, KeySource

_PLACES: Final = "jwks_url, jwks, pem, secret"


def key_source(
    issuer: str,
    *,
    algorithms: frozenset[str],
    jwks_url: str | None,
    jwks: Mapping[str, Any] | None,
    pem: str | Secret | None,
    secret: str | Secret | None,
    fetcher: Fetcher,
    clock: Clock,
) -> KeySource:
    """Return where the keys come from: what was given, else discovery at the issuer.

    Raises:
        ConfigurationError: more than one place is named, a key given here cannot be used, or a URL is not `https`.
    """
    given = [name for name, value in (("jwks_url", jwks_url), ("jwks", jwks), ("pem", pem), ("secret", secret)) if value is not None]
    if len(given) > 1:
        raise ConfigurationError(given[1], f"and {given[0]} both say where the keys are; give one of {_PLACES}")
    if jwks is not None:
        return FixedKeys(_published(jwks))
    try:
        if pem is not None:
            return FixedKeys(pem_keys(resolve_secret("pem", pem).reveal()))
        if secret is not None:
            return FixedKeys([secret_key(resolve_secret("secret", secret).reveal().encode(), algorithms)])
    except UnusableKeyError as error:
        raise ConfigurationError(given[0], str(error)) from None
    return RemoteKeys(issuer, jwks_url=jwks_url, fetcher=fetcher, clock=clock)


def _published(jwks: object) -> Any:
    try:
        ring = read_keys(dict(cast("Mapping[str, Any]", jwks)) if isinstance(jwks, Mapping) else None)
    except ValueError as error:
        raise ConfigurationError("jwks", str(error)) from None
    # A set that somebody fetched may hold keys for other uses. One that was written down here holds what its writer means.
    if ring.skipped or not ring.keys:
        raise ConfigurationError("jwks", f"has {ring.skipped} keys that cannot be used: weak, private, symmetric, or not for signatures")
    return ring.keys
