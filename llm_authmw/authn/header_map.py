"""`HeaderMap`: which headers of a proxy become which fields of a principal, and what well-known proxies call them."""

from typing import Any, Final, Literal, TypeAlias, get_args

import msgspec

from llm_authmw.authn.credentials import CALLER_HEADERS
from llm_authmw.authn.header_encodings import STRUCTURED, Encoding, encoded_fields
from llm_authmw.authn.identity_headers import IdentityHeaders, header_name
from llm_authmw.errors import ConfigurationError

Separator: TypeAlias = Literal[",", ";", "|", " "]
Preset: TypeAlias = Literal["oauth2-proxy", "authelia", "pomerium", "google-iap", "azure-easy-auth", "istio", "envoy", "tailscale"]

FIELDS: Final = (
    *("user", "email", "client", "team", "org", "tenant", "groups"),
    *("roles", "scopes", "tags", "tier", "models", "limits", "budgets"),
)
NARROWING: Final = ("tenant", "tier", "models", "limits", "budgets")
"""Fields that narrow what a caller may do. A header that does so has to be there: some proxies let the client name headers
in `Connection` that they then drop (CVE-2022-31813), and a caller must not shed a limit that way."""

_UNSIGNED: Final = (b"x-goog-authenticated-user-", b"x-ms-client-principal")
"""Headers of clouds that the same cloud also has in a signed form, or that only its own front end keeps clients from sending."""


class HeaderMap(msgspec.Struct, frozen=True, kw_only=True):
    """Which headers become which fields of the principal. A field that no header is named for stays empty.

    Each header has exactly one value. Lists are groups, roles, scopes, tags, models, limits and budgets; everything else is one
    name, in which a comma means that somebody has joined two values.

    A header that is not there leaves its field empty; but one that narrows what the caller may do (tenant, tier, models, limits,
    budgets) has to be there, if need be without a value: empty `models` allow none, empty `limits` and `budgets` set none.

    Attributes:
        user: The person. A request without a user and a client is nobody's.
        email: The address that the proxy vouches for.
        client: The OAuth client or workload that acts.
        team: The team that the use is counted to.
        org: The organisation.
        tenant: The tenant, where the proxy serves several.
        groups: Groups.
        roles: Roles that the proxy names. They grant nothing until a rule of ours says so.
        scopes: OAuth scopes, between blanks (RFC 6749 §3.3).
        tags: Labels.
        tier: The named set of limits.
        models: Model patterns that the caller may use.
        limits: Rate limits such as `60 requests/minute`, several between `;`, since a limit may hold a comma.
        budgets: Budgets such as `50 usd/month`, likewise.
        separator: What stands between groups, roles, tags and models.
        encoding: How the proxy writes values: "plain"; "rfc2047" (Q-encoding, Tailscale); "google-iap" (`accounts.google.com:`
            before user and email); "azure-easy-auth" (user, client, groups and roles in one header of base64 JSON); "xfcc" (user or
            client is the URI of the certificate in Envoy's header).

    Raises:
        ConfigurationError: a name is not that of a header that may be trusted, is given twice, or no field says who is calling.
    """

    user: str | None = None
    email: str | None = None
    client: str | None = None
    team: str | None = None
    org: str | None = None
    tenant: str | None = None
    groups: str | None = None
    roles: str | None = None
    scopes: str | None = None
    tags: str | None = None
    tier: str | None = None
    models: str | None = None
    limits: str | None = None
    budgets: str | None = None
    separator: Separator = ","
    encoding: Encoding = "plain"

    def __post_init__(self) -> None:
        if self.separator not in get_args(Separator):
            raise ConfigurationError("separator", f"is one of {get_args(Separator)}")
        if self.encoding not in get_args(Encoding):
            raise ConfigurationError("encoding", f"is one of {get_args(Encoding)}")
        if self.user is None and self.client is None:
            raise ConfigurationError("user", "or client names a header: headers that say nobody is calling are no identity")
        named = self.named
        for field, header in named.items():
            if header in CALLER_HEADERS:
                raise ConfigurationError(field, f"{header.decode()!r} carries the caller's own credential, which no proxy vouches for")
        self._check_encoding(named)
        IdentityHeaders(named.values())

    @classmethod
    def preset(cls, name: Preset, **changes: str | None) -> "HeaderMap":
        """Return what is known of a proxy.

        Args:
            name: The proxy.
            changes: Fields on top of it, or in place of its own: `HeaderMap.preset("authelia", team="x-team")`.

        Raises:
            ConfigurationError: no such proxy is known, or a field does not exist or is wrong.
        """
        known = _PRESETS.get(name)
        if known is None:
            raise ConfigurationError("name", f"{name!r} is not a known proxy: expected one of {', '.join(_PRESETS)}")
        for field in changes:
            if field not in cls.__struct_fields__:
                raise ConfigurationError(field, "is no field of a HeaderMap")
        fields: dict[str, Any] = {**known, **changes}
        return cls(**fields)

    @property
    def named(self) -> dict[str, bytes]:
        """The fields that headers are named for, each with its header."""
        given: dict[str, Any] = {field: getattr(self, field) for field in FIELDS}
        return {field: header_name(field, header) for field, header in given.items() if header is not None}

    @property
    def needs_strong_proof(self) -> bool:
        """Whether an address is too weak a proof for these headers."""
        return any(header.startswith(_UNSIGNED) for header in self.named.values())

    def _check_encoding(self, named: dict[str, bytes]) -> None:
        encoded = [field for field in named if field in encoded_fields(self.encoding)]
        if self.encoding != "plain" and not encoded:
            raise ConfigurationError(
                "encoding", f"{self.encoding!r} is for {', '.join(encoded_fields(self.encoding))}, which no header is named for"
            )
        apart = list(named)
        if self.encoding in STRUCTURED:
            if len({named[field] for field in encoded}) > 1:
                raise ConfigurationError("encoding", f"{self.encoding!r} has {' and '.join(encoded)} in one and the same header")
            if self.encoding == "xfcc" and len(encoded) > 1:
                raise ConfigurationError("encoding", "'xfcc' names one caller: a user or a client")
            apart = [field for field in named if field not in encoded] + encoded[:1]
        headers = [named[field] for field in apart]
        for field in apart:
            if headers.count(named[field]) > 1:
                raise ConfigurationError(field, f"{named[field].decode()!r} is named for two fields")


_PRESETS: Final[dict[str, dict[str, Any]]] = {
    # What it passes to its upstream (pass_user_headers). Behind nginx's auth_request, name what nginx sets.
    "oauth2-proxy": {"user": "x-forwarded-user", "email": "x-forwarded-email", "groups": "x-forwarded-groups"},
    "authelia": {"user": "remote-user", "email": "remote-email", "groups": "remote-groups"},
    # With `jwt_claims_headers: [user, email, groups]`. Its signed assertion is for JWTMiddleware.
    "pomerium": {"user": "x-pomerium-claim-user", "email": "x-pomerium-claim-email", "groups": "x-pomerium-claim-groups"},
    "google-iap": {
        "user": "x-goog-authenticated-user-id",
        "email": "x-goog-authenticated-user-email",
        "encoding": "google-iap",
    },
    "azure-easy-auth": {
        "user": "x-ms-client-principal",
        "groups": "x-ms-client-principal",
        "roles": "x-ms-client-principal",
        "encoding": "azure-easy-auth",
    },
    "istio": {"client": "x-forwarded-client-cert", "encoding": "xfcc"},
    "envoy": {"client": "x-forwarded-client-cert", "encoding": "xfcc"},
    "tailscale": {"user": "tailscale-user-login", "encoding": "rfc2047"},
}
