"""From the options that say how a provider is asked to the endpoint that is asked: one way, and no option that would be ignored."""

from typing import Any, Final, Literal, TypeAlias, get_args

from llm_authmw.clock import Clock
from llm_authmw.errors import ConfigurationError
from llm_authmw.names import Names
from llm_authmw.secrets import Secret
from llm_authmw.tokens.client_auth import ClientAuthMethod, TokenSource
from llm_authmw.tokens.client_auth import client_auth as client_auth_of
from llm_authmw.tokens.endpoint_urls import DiscoveredURL, EndpointURL, FixedURL
from llm_authmw.tokens.endpoints import GitHubEndpoint, IntrospectionEndpoint, TokenEndpoint, TokenInfoEndpoint
from llm_authmw.tokens.http import Fetcher, check_url
from llm_authmw.tokens.issuer import Issuer
from llm_authmw.tokens.signed_answers import SignedAnswers

Mode: TypeAlias = Literal["rfc7662", "token_info", "github"]

GITHUB_USER: Final = "https://api.github.com/user"


def token_endpoint(
    mode: Mode,
    *,
    endpoint: str | None,
    issuer: str | None,
    audience: str | Names | None,
    client_id: str | None,
    client_secret: str | Secret | TokenSource | None,
    client_auth: ClientAuthMethod | None,
    client_key: str | Secret | None,
    signed_by: Issuer | None,
    fetcher: Fetcher,
    clock: Clock,
) -> TokenEndpoint:
    """Return the endpoint that the options of an `Introspector` name.

    Raises:
        ConfigurationError: an option is missing, wrong, contradicts another one, or would be ignored.
    """
    if mode not in get_args(Mode):
        raise ConfigurationError("mode", f"is one of {', '.join(get_args(Mode))}")
    if mode == "rfc7662":
        read_signed = None if signed_by is None else _signed_answers(signed_by, client_id, clock)
        if client_auth == "bearer" and client_id is not None and read_signed is None:
            raise ConfigurationError("client_id", "would be ignored: a bearer token says by itself which client we are")
        client = client_auth_of(
            client_id=client_id, client_secret=client_secret, client_auth=client_auth, client_key=client_key, clock=clock
        )
        url = _introspection_url(endpoint, issuer, fetcher, clock)
        return IntrospectionEndpoint(url, client=client, audience=issuer, fetcher=fetcher, read_signed=read_signed)
    ours: dict[str, Any] = {
        "client_id": client_id,
        "client_secret": client_secret,
        "client_auth": client_auth,
        "client_key": client_key,
        "signed_by": signed_by,
    }
    for option, value in ours.items():
        if value is not None:
            raise ConfigurationError(option, f"would be ignored: with mode={mode!r} the provider is asked with the token itself")
    if mode == "token_info":
        if endpoint is None:
            raise ConfigurationError("endpoint", "is missing: no metadata name one for mode='token_info'")
        return TokenInfoEndpoint(check_url("endpoint", endpoint), fetcher=fetcher)
    for option, value in (("issuer", issuer), ("audience", audience)):
        if value is not None:
            raise ConfigurationError(option, "is nothing that GitHub says of a token")
    return GitHubEndpoint(check_url("endpoint", endpoint or GITHUB_USER), fetcher=fetcher)


def _introspection_url(endpoint: str | None, issuer: str | None, fetcher: Fetcher, clock: Clock) -> EndpointURL:
    if endpoint is not None:
        return FixedURL("endpoint", endpoint)
    if issuer is None:
        raise ConfigurationError("endpoint", "is missing: give it, or an issuer whose metadata name it")
    return DiscoveredURL(issuer, "introspection_endpoint", fetcher=fetcher, clock=clock)


def _signed_answers(signed_by: Any, client_id: str | None, clock: Clock) -> SignedAnswers:
    if not isinstance(signed_by, Issuer):
        raise ConfigurationError("signed_by", "takes Issuer(…)")
    if client_id is None:
        raise ConfigurationError("client_id", "is missing: signed answers name whom they are for (RFC 9701 §5)")
    return SignedAnswers(signed_by, client_id=client_id, clock=clock)
