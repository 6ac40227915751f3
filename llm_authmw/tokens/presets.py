"""What is known about the issuers that most teams have, filled in: where their tokens say what, and what tells them apart.

Each function takes what a product is told apart by, checks it, and returns options of `Issuer`. Sources are the products' own
documents of their discovery metadata and token claims.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, Protocol

from llm_authmw.clock import Clock
from llm_authmw.errors import ConfigurationError
from llm_authmw.names import names
from llm_authmw.tokens.alb import LoadBalancerKeys, read_load_balancer_token
from llm_authmw.tokens.claim_map import ClaimMap
from llm_authmw.tokens.http import Fetcher, check_url
from llm_authmw.tokens.sources import KeySource
from llm_authmw.tokens.unverified import TokenForm

_HOST: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_LABEL: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")
_WORD: Final = re.compile(r"[A-Za-z0-9._~-]+")
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ARN: Final = re.compile(r"arn:aws[a-z-]*:elasticloadbalancing:(?P<region>[a-z0-9-]+):[0-9]{12}:loadbalancer/app/[A-Za-z0-9-]+/[0-9a-f]+")


_PLACES: Final = frozenset({"jwks_url", "jwks", "pem", "secret"})


class KeySourceMaker(Protocol):
    """Makes the key source of a preset whose keys are published in a form of their own."""

    def __call__(self, fetcher: Fetcher, *, clock: Clock) -> KeySource:
        """Return the source."""
        ...


class Preset(NamedTuple):
    """What a preset fills in.

    Attributes:
        options: Options of `Issuer`.
        form: How the tokens are written, where that is not the compact form.
        source: Where the keys come from, where that is no JWK set.
    """

    options: dict[str, Any]
    form: TokenForm | None = None
    source: KeySourceMaker | None = None


def preset(name: str, given: dict[str, Any]) -> Preset:
    """Return what the preset of that name fills in; options that were given win, and required claims are required besides.

    Raises:
        ConfigurationError: there is no such preset, or what it needs is missing or wrong.
    """
    maker = _PRESETS.get(name)
    if maker is None:
        hint = ": GitHub has no OpenID Connect for users; use IntrospectionMiddleware(mode='github')" if name == "github" else ""
        raise ConfigurationError("preset", f"{name!r} is none of {', '.join(_PRESETS)}{hint}")
    options = dict(given)
    filled = maker(options)
    chosen = {**filled.options, **options}
    if not _PLACES.isdisjoint(options):
        # Keys that are given count, in the place of those that the product publishes.
        filled = filled._replace(source=None)
        chosen = {name: value for name, value in chosen.items() if name not in _PLACES or name in options}
    required = filled.options.get("required_claims")
    if required is not None and "required_claims" in options:
        # What is demanded besides takes nothing away: the rest of a shared issuer's tokens are somebody else's.
        more: Any = options["required_claims"]
        chosen["required_claims"] = required | (more if isinstance(more, Mapping) else dict.fromkeys(names("required_claims", more)))
    return filled._replace(options=chosen)


def _entra(options: dict[str, Any]) -> Preset:
    tenant = _taken(options, "tenant", _GUID, "the directory's id, a GUID: with 'common' everybody's directory would be an issuer")
    version = options.pop("version", "2.0")
    if version not in ("1.0", "2.0"):
        raise ConfigurationError("version", "is '2.0', or '1.0' for an API whose requestedAccessTokenVersion is not 2")
    issuer = f"https://login.microsoftonline.com/{tenant}/v2.0" if version == "2.0" else f"https://sts.windows.net/{tenant}/"
    return Preset(
        {
            "issuer": issuer,
            "jwks_url": f"https://login.microsoftonline.com/{tenant}/discovery/v2.0/keys",
            "algorithms": ["RS256"],
            "claims": ClaimMap(
                user="oid", email="email", client=("azp", "appid"), roles="roles", groups="groups", scopes=("scp", "scope"), keep=["idtyp"]
            ),
        }
    )


def _google(options: dict[str, Any]) -> Preset:
    hosted = options.pop("hosted_domain", None)
    filled: dict[str, Any] = {
        "issuer": "https://accounts.google.com",
        "algorithms": ["RS256"],
        # Google's access tokens are opaque; what a service can verify is the ID token.
        "id_tokens": True,
        "claims": ClaimMap(user="sub", email="email", org="hd", client="azp"),
    }
    if hosted is not None:
        filled["required_claims"] = {"hd": hosted}
    return Preset(filled)


def _okta(options: dict[str, Any]) -> Preset:
    domain = _taken(options, "domain", _HOST, "such as 'corp.okta.com'")
    server = _taken(options, "authorization_server", _WORD, "the id of a custom authorization server", default="default")
    return Preset(
        {
            "issuer": f"https://{domain}/oauth2/{server}",
            "algorithms": ["RS256"],
            # `sub` is a login name, which may be given to somebody else; `uid` is the person.
            "claims": ClaimMap(user="uid", client="cid", groups="groups", scopes=("scp", "scope")),
        }
    )


def _auth0(options: dict[str, Any]) -> Preset:
    domain = _taken(options, "domain", _HOST, "such as 'corp.eu.auth0.com'")
    return Preset(
        {
            "issuer": f"https://{domain}/",
            "algorithms": ["RS256"],
            "claims": ClaimMap(user="sub", client=("azp", "client_id"), org="org_id", roles="permissions"),
        }
    )


def _keycloak(options: dict[str, Any]) -> Preset:
    base = _base_url(options)
    name = _taken(options, "keycloak_realm", _WORD, "the realm's name, as it stands in its URL")
    return Preset(
        {
            "issuer": f"{base}/realms/{name}",
            "claims": ClaimMap(user="sub", email="email", client=("azp", "client_id"), roles="realm_access.roles", groups="groups"),
        }
    )


def _cognito(options: dict[str, Any]) -> Preset:
    region = _taken(options, "region", _LABEL, "such as 'eu-central-1'")
    pool = _taken(options, "user_pool", _WORD, "such as 'eu-central-1_AbCdEfGhI'")
    return Preset(
        {
            "issuer": f"https://cognito-idp.{region}.amazonaws.com/{pool}",
            "algorithms": ["RS256"],
            # Its access tokens name the client where others name the audience.
            "audience_claim": "client_id",
            "required_claims": {"token_use": "access"},
            "claims": ClaimMap(user="sub", client="client_id", groups="cognito:groups"),
        }
    )


def _gitlab(options: dict[str, Any]) -> Preset:
    namespace = options.pop("namespace", None)
    if namespace is None and "base_url" not in options:
        raise ConfigurationError("namespace", "is missing: the group whose pipelines are let in; gitlab.com signs everybody's")
    return Preset(
        {
            "issuer": _base_url(options, default="https://gitlab.com"),
            "algorithms": ["RS256"],
            "required_claims": {} if namespace is None else {"namespace_path": namespace},
            "claims": ClaimMap(
                user=None,
                client="project_path",
                org="namespace_path",
                keep=["environment", "ref", "ref_protected", "ref_type", "user_login"],
            ),
        }
    )


def _onelogin(options: dict[str, Any]) -> Preset:
    subdomain = _taken(options, "subdomain", _LABEL, "such as 'corp' of corp.onelogin.com")
    return Preset(
        {
            "issuer": f"https://{subdomain}.onelogin.com/oidc/2",
            "algorithms": ["RS256"],
            "claims": ClaimMap(user="sub", email="email", client=("azp", "client_id"), groups="groups"),
        }
    )


def _github_actions(options: dict[str, Any]) -> Preset:
    owner = _taken(options, "repository_owner", _WORD, "the organisation or user whose workflows are let in: GitHub signs everybody's")
    return Preset(
        {
            "issuer": "https://token.actions.githubusercontent.com",
            "algorithms": ["RS256"],
            "required_claims": {"repository_owner": owner},
            "claims": ClaimMap(
                user=None,
                client="repository",
                org="repository_owner",
                keep=["environment", "event_name", "ref", "ref_protected", "workflow_ref"],
            ),
        }
    )


def _google_iap(options: dict[str, Any]) -> Preset:
    del options
    return Preset(
        {
            "issuer": "https://cloud.google.com/iap",
            "jwks_url": "https://www.gstatic.com/iap/verify/public_key-jwk",
            "algorithms": ["ES256"],
            "header": "x-goog-iap-jwt-assertion",
            "leeway": 30.0,
            "max_age": 600.0,
            "claims": ClaimMap(user="sub", email="email", org="hd"),
        }
    )


def _aws_alb(options: dict[str, Any]) -> Preset:
    signer = options.pop("load_balancer", None)
    match = _ARN.fullmatch(signer) if isinstance(signer, str) else None
    if match is None:
        raise ConfigurationError("load_balancer", "takes the ARN of your own: without it, everybody's load balancer signs for you")
    return Preset(
        {
            "algorithms": ["ES256"],
            "header": "x-amzn-oidc-data",
            # Replaced by the source below; a load balancer publishes one PEM text per key, and no set.
            "jwks_url": f"https://public-keys.auth.elb.{match['region']}.amazonaws.com/",
            "claims": ClaimMap(user="sub", email="email"),
        },
        form=functools.partial(read_load_balancer_token, signer=match[0]),
        source=functools.partial(LoadBalancerKeys, region=match["region"]),
    )


def _cloudflare_access(options: dict[str, Any]) -> Preset:
    team = _taken(options, "team", _LABEL, "the name before .cloudflareaccess.com")
    issuer = f"https://{team}.cloudflareaccess.com"
    return Preset(
        {
            "issuer": issuer,
            "jwks_url": f"{issuer}/cdn-cgi/access/certs",
            "algorithms": ["RS256"],
            "header": "cf-access-jwt-assertion",
            "required_claims": {"type": "app"},
            # A service token has an empty `sub`, and its name in `common_name`.
            "claims": ClaimMap(user="email", email="email", client="common_name"),
        }
    )


def _pomerium(options: dict[str, Any]) -> Preset:
    host = _taken(options, "host", _HOST, "the host of the route, such as 'llm.corp.example'")
    return Preset(
        {
            "issuer": host,
            "jwks_url": f"https://{host}/.well-known/pomerium/jwks.json",
            "algorithms": ["ES256"],
            "header": "x-pomerium-jwt-assertion",
            "claims": ClaimMap(user="sub", email="email", groups="groups"),
        }
    )


def _taken(options: dict[str, Any], name: str, grammar: re.Pattern[str], expected: str, *, default: str | None = None) -> str:
    value = options.pop(name, default)
    if not isinstance(value, str) or grammar.fullmatch(value) is None:
        raise ConfigurationError(name, f"takes {expected}" if value is not None else f"is missing: {expected}")
    return value


def _base_url(options: dict[str, Any], *, default: str = "") -> str:
    return check_url("base_url", options.pop("base_url", default)).rstrip("/")


_PRESETS: Final[dict[str, Callable[[dict[str, Any]], Preset]]] = {
    "entra": _entra,
    "google": _google,
    "okta": _okta,
    "auth0": _auth0,
    "keycloak": _keycloak,
    "cognito": _cognito,
    "gitlab": _gitlab,
    "onelogin": _onelogin,
    "github-actions": _github_actions,
    "google-iap": _google_iap,
    "aws-alb": _aws_alb,
    "cloudflare-access": _cloudflare_access,
    "pomerium": _pomerium,
}
