"""Which certificates are accepted, and who presents them."""

import math
import re
from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypedDict, Unpack, get_args

from llm_authmw import fields
from llm_authmw.certificates.authority import read_authority, signed_by
from llm_authmw.certificates.certificate import Certificate, dns_name, email_name, ip_name, spiffe_id, uri_name
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.names import Names, name_set
from llm_authmw.patterns import RoutePattern
from llm_authmw.principal import Assurance, Principal
from llm_authmw.quota import Budget, Limit
from llm_authmw.secrets import Secret

NameSource: TypeAlias = Literal["spiffe", "dns", "uri", "email"]

CERTIFICATES_REALM: Final = "certificates"
"""The realm of a rule that names none: people and clients whom only certificates make known."""

_FINGERPRINT: Final = re.compile(r"[0-9A-Fa-f]{2}(?::?[0-9A-Fa-f]{2}){31}")

_NAMES: Final[dict[str, Callable[[str], str]]] = {"dns": dns_name, "uri": uri_name, "email": email_name, "ip": ip_name}
_CHECKS: Final[dict[str, fields.Check]] = {
    "tenant": fields.text,
    "realm": fields.text,
    "user": fields.user,
    "client": fields.text_or_none,
    "email": fields.text_or_none,
    "team": fields.text_or_none,
    "org": fields.text_or_none,
    "roles": name_set,
    "scopes": name_set,
    "groups": name_set,
    "tags": name_set,
    "tier": fields.text_or_none,
    "models": fields.models,
    "routes": fields.routes,
    "networks": fields.networks,
    "limits": fields.limits,
    "budgets": fields.budgets,
}


class RuleFields(TypedDict, total=False):
    """What a rule says of whoever presents a certificate.

    Attributes:
        tenant: Whose they are.
        realm: Where the names mean one person or client; give an issuer's realm to make its users and these the same people.
        team: The team that the use is counted to.
        org: The organisation.
        roles: Roles.
        scopes: OAuth scopes.
        groups: Groups.
        tags: Labels.
        tier: The named set of limits that applies.
        models: Model patterns; None is no restriction, an empty list allows none.
        routes: Route patterns; None is no restriction, an empty list allows none.
        networks: Networks that the certificate may be used from; None is no restriction.
        limits: Rate limits, as `Limit` or text.
        budgets: Budgets, as `Budget` or text.
    """

    tenant: str
    realm: str
    team: str | None
    org: str | None
    roles: Names
    scopes: Names
    groups: Names
    tags: Names
    tier: str | None
    models: Names | None
    routes: Names | None
    networks: Names | None
    limits: list[str] | list[Limit] | tuple[str, ...] | tuple[Limit, ...]
    budgets: list[str] | list[Budget] | tuple[str, ...] | tuple[Budget, ...]


class Accepted(NamedTuple):
    """What a rule says of a certificate.

    Attributes:
        principal: Who presents it.
        starts: Seconds since 1970 from which that holds.
        ends: Seconds since 1970 at which it ends.
    """

    principal: Principal
    starts: float
    ends: float


class CertRule:
    """Accept certificates, and say who presents them.

    A rule has one condition at least; several must all hold. It names a user, a client, or both: outright, or by a name that
    the certificate has exactly one of. The subject is never looked at: it is text that means what its reader makes of it.

    Args:
        spiffe: A SPIFFE ID, such as `spiffe://corp.example/ns/prod/sa/*`: `*` is one whole segment, a final `/**` the rest.
        dns: A DNS name that the certificate has; no wildcard.
        uri: A URI that it has, compared letter by letter.
        email: An e-mail address that it has; it becomes the principal's.
        ip: An IP address that it has.
        fingerprint: The SHA-256 of the certificate, in hexadecimal digits, with or without colons.
        issuer: The certificate of the authority that has signed it, as PEM or `file:PATH`; not its name, which anybody may take.
        user: The person.
        user_from: Where the certificate names the person: "spiffe", "dns", "uri" or "email".
        client: The client that acts.
        client_from: Where the certificate names the client.
        given: Everything else that is said of them; see `RuleFields`.

    Raises:
        ConfigurationError: there is no condition, nobody is named, or a value is outside its grammar.
    """

    __slots__ = ("_authority", "_fields", "_fingerprint", "_has", "_named_by", "_repr", "_spiffe")

    def __init__(
        self,
        *,
        spiffe: str | None = None,
        dns: str | None = None,
        uri: str | None = None,
        email: str | None = None,
        ip: str | None = None,
        fingerprint: str | None = None,
        issuer: str | Secret | None = None,
        user: str | None = None,
        user_from: NameSource | None = None,
        client: str | None = None,
        client_from: NameSource | None = None,
        **given: Unpack[RuleFields],
    ) -> None:
        conditions = {"spiffe": spiffe, "dns": dns, "uri": uri, "email": email, "ip": ip, "fingerprint": fingerprint, "issuer": issuer}
        wanted = {name: value for name, value in conditions.items() if value is not None}
        if not wanted:
            raise ConfigurationError("CertRule", f"needs a condition, or it would accept every certificate: {', '.join(conditions)}")
        self._spiffe = None if spiffe is None else _spiffe_pattern(spiffe)
        self._has = tuple((name, _name(name, wanted[name])) for name in _NAMES if name in wanted)
        self._fingerprint = None if fingerprint is None else _fingerprint(fingerprint)
        self._authority = None if issuer is None else read_authority("issuer", issuer)
        self._named_by: dict[str, NameSource] = {}
        named: dict[str, Any] = {"realm": CERTIFICATES_REALM, **given, "email": dict(self._has).get("email")}
        sources: dict[str, NameSource | None] = {"user": user_from, "client": client_from}
        for (field, source), name in zip(sources.items(), (user, client), strict=True):
            if source is not None:
                if source not in get_args(NameSource):
                    raise ConfigurationError(f"{field}_from", f"is one of {', '.join(get_args(NameSource))}")
                if name is not None:
                    raise ConfigurationError(f"{field}_from", f"contradicts {field}")
                self._named_by[field] = source
            named[field] = name
        if user is None and client is None and not self._named_by:
            raise ConfigurationError("CertRule", "names nobody: give user, user_from, client or client_from")
        try:
            self._fields = fields.checked("a certificate rule", _CHECKS, named)
        except InvalidValueError as error:
            raise ConfigurationError("CertRule", str(error)) from None
        self._repr = ", ".join(f"{name}={value!r}" for name, value in wanted.items() if name != "issuer")

    def __repr__(self) -> str:
        return f"CertRule({self._repr})"

    def match(self, certificate: Certificate, assurance: Assurance) -> Accepted | None:
        """Say who presents a certificate, or None where the rule is not about it.

        Args:
            certificate: The certificate. Whoever presents it has been shown to hold its key.
            assurance: How that was shown.
        """
        if not self._holds(certificate):
            return None
        named = dict(self._fields)
        for field, source in self._named_by.items():
            names = _names_of(certificate, source)
            # Of two names, neither is the one; and a wildcard names nobody.
            if len(names) != 1 or "*" in names[0]:
                return None
            named[field] = names[0]
            if (field, source) == ("user", "email"):
                named["email"] = names[0]
        authority = self._authority
        starts, ends = certificate.not_before, certificate.not_after
        if authority is not None:
            starts = max(starts, authority.not_valid_before_utc.timestamp())
            ends = min(ends, authority.not_valid_after_utc.timestamp() + 1.0)
        try:
            principal = Principal(
                **named,
                method="client_cert",
                issuer=certificate.issuer,
                credential_id=certificate.credential_id,
                confirmation=(("x5t#S256", certificate.thumbprint),),
                expires_at=None if ends == math.inf else ends,
                assurance=assurance,
            )
        except InvalidValueError:
            # What the certificate says makes no name, such as a SPIFFE ID longer than names are.
            return None
        return Accepted(principal, starts, ends)

    def _holds(self, certificate: Certificate) -> bool:
        if self._fingerprint is not None and self._fingerprint != certificate.fingerprint:
            return False
        if any(name not in _names_of(certificate, kind) for kind, name in self._has):
            return False
        if self._spiffe is not None:
            if certificate.spiffe is None:
                return False
            (trust_domain, pattern), (own_domain, path) = self._spiffe, _split(certificate.spiffe)
            if own_domain != trust_domain or not pattern.matches("", path):
                return False
        return self._authority is None or signed_by(certificate, self._authority)


def _names_of(certificate: Certificate, kind: str) -> tuple[str, ...]:
    if kind == "spiffe":
        return () if certificate.spiffe is None else (certificate.spiffe,)
    names: tuple[str, ...] = getattr(certificate, kind)
    return names


def _split(spiffe: str) -> tuple[str, str]:
    trust_domain, _, path = spiffe.removeprefix("spiffe://").partition("/")
    return trust_domain, f"/{path}"


def _name(option: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigurationError(option, f"takes a text, not {type(value).__name__}")
    try:
        name = _NAMES[option](value)
    except InvalidValueError as error:
        raise ConfigurationError(option, str(error)) from None
    if "*" in name and option == "dns":
        raise ConfigurationError(option, "is compared as a whole name: '*' stands for nothing")
    return name


def _spiffe_pattern(value: Any) -> tuple[str, RoutePattern]:
    problem = "is a SPIFFE ID, such as 'spiffe://corp.example/ns/prod/sa/*', with '*' for one whole segment and '/**' for the rest"
    segments = value.split("/") if isinstance(value, str) else []
    if spiffe_id(("/".join("x" if segment in ("*", "**") else segment for segment in segments),)) is None:
        raise ConfigurationError("spiffe", problem)
    trust_domain, path = _split(value)
    try:
        pattern = RoutePattern.parse(path)
    except InvalidValueError:
        raise ConfigurationError("spiffe", problem) from None
    if trust_domain == "*":
        raise ConfigurationError("spiffe", "names its trust domain: who may name people in one may not in another")
    return trust_domain, pattern


def _fingerprint(value: Any) -> bytes:
    if not isinstance(value, str) or _FINGERPRINT.fullmatch(value) is None:
        raise ConfigurationError("fingerprint", "is a SHA-256: 64 hexadecimal digits, with or without colons between each two")
    return bytes.fromhex(value.replace(":", ""))
