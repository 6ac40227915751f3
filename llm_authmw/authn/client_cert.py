"""Client certificates: from the connection itself, or from the header in which a proxy hands one on."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias, get_args

from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.expiry import Expiry
from llm_authmw.authn.identity_headers import IdentityHeaders, header_name, without
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.proof import Proof, chosen_proof, spent_headers
from llm_authmw.authn.run import Run
from llm_authmw.certificates.headers import HeaderForm, SeveralHopsError, from_header
from llm_authmw.certificates.known import KnownCertificate, KnownCertificates
from llm_authmw.certificates.parse import first_of, read_certificate
from llm_authmw.certificates.rules import CertRule
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial, InvalidValueError
from llm_authmw.identity import IdentitySource
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import Assurance, Principal
from llm_authmw.restrictions import restriction_of

CertSource: TypeAlias = Literal["tls"] | HeaderForm
Hops: TypeAlias = Literal["single", "nearest"]

_SOURCES: Final[tuple[str, ...]] = ("tls", *get_args(HeaderForm))
_HEADERS: Final = {"client-cert": b"client-cert", "xfcc": b"x-forwarded-client-cert"}
_CHAIN: Final = b"client-cert-chain"
"""What comes beside `Client-Cert` (RFC 9440 §2.3). Nobody reads it here, and no stranger's may stay."""


class ClientCertMiddleware(AuthenticationLayer):
    """Let callers in who present a client certificate.

    The server, or the proxy in front, has verified the certificate and that the client holds its key. Here it is decided whose
    it is, and whether it is in its time. A caller may send a credential of its own as well: that is who is calling then, and
    a token that is bound to the certificate (RFC 8705) is held to it.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        rules: Which certificates are accepted, and who presents them. The first rule that a certificate fits decides.
        source: Where the certificate is: "tls", the connection itself (the ASGI TLS extension; for uvicorn see
            `llm_authmw.uvicorn`); "client-cert", the header of RFC 9440; "xfcc", Envoy's and Istio's
            `x-forwarded-client-cert`; "nginx", percent-encoded PEM in the header that `header` names.
        proof: What shows that a header is the proxy's own: `SharedSecret`, `UnixSocket`, `ProxyCertificate`. A header source needs
            one, and "tls" takes none.
        header: The header for "nginx", such as `x-ssl-client-cert`, in lower case.
        hops: For "xfcc", where the header holds the elements of several proxies: "single" refuses it, "nearest" takes the last,
            which is the word of the proxy that was proven about its own client.
        required: Whether a caller must be known, by a certificate or by a layer beside this one.
        clock: Tells which certificates are in their time.
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, there is no rule, or the layer is misplaced.
    """

    # No scheme is registered for what happens below HTTP, and a 401 needs a challenge (RFC 9110 §15.5.2).
    challenge = "ClientCertificate"
    edge = True

    def __init__(
        self,
        app: ASGIApp,
        *,
        rules: Sequence[CertRule],
        source: CertSource = "tls",
        proof: Proof | None = None,
        header: str | None = None,
        hops: Hops | None = None,
        required: bool = True,
        clock: Clock = SYSTEM_CLOCK,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        given: Any = rules
        if not isinstance(given, list | tuple) or not all(isinstance(rule, CertRule) for rule in rules):
            raise ConfigurationError("rules", "takes a list of CertRule(…)")
        if not rules:
            raise ConfigurationError("rules", "holds no rule, so nobody could ever get in")
        if source not in _SOURCES:
            raise ConfigurationError("source", f"is one of {', '.join(_SOURCES)}")
        if hops not in (None, *get_args(Hops)):
            raise ConfigurationError("hops", "is 'single' or 'nearest'")
        if hops is not None and source != "xfcc":
            raise ConfigurationError("hops", f"is for source='xfcc', and would be ignored with {source!r}")
        self.source: Final = source
        self.proof: Final = _proof(source, proof)
        super().__init__(app, required=required, trusted_proxies=trusted_proxies)
        self._header: Final = _header(source, header)
        self._trusted: Final = frozenset({self._header, _CHAIN} if source == "client-cert" else {self._header})
        beside = frozenset[bytes]() if self.proof is None else self.proof.headers
        clash = self._trusted & (self.headers | beside)
        if clash:
            raise ConfigurationError("header", f"{min(clash)!r} carries another credential")
        self._identity: Final = IdentityHeaders(self._trusted | beside)
        self._spent: Final = beside if self.proof is None else spent_headers(self.proof, self.neighbour)
        self._read: Final = read_certificate if source == "tls" else functools.partial(from_header, source, nearest=hops == "nearest")
        # Who else holds the proxy's word holds no more than that: the weakest link decides.
        self._known: Final = KnownCertificates(rules, Assurance.BOUND if source == "tls" else Assurance.PEER_TRUSTED)
        self._clock: Final = clock
        self._rules_repr: Final = repr(list(rules))

    def __repr__(self) -> str:
        return f"ClientCertMiddleware(source={self.source!r}, rules={self._rules_repr}, required={self.required})"

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The certificates; their issuer is whatever name its authority has."""
        return (IdentitySource(method="client_cert", issuers=None),)

    @property
    def edge_headers(self) -> frozenset[bytes]:
        """The headers that a proxy writes the certificate into, and those that prove it."""
        return frozenset() if self.proof is None else self._identity.names

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        """Judge the client's certificate, if there is one."""
        try:
            presented = _from_connection(scope) if self.proof is None else self._from_proxy(scope, self.proof)
            if presented is None or isinstance(presented, Denial):
                return presented
            known = self._known.of(presented, self._read)
        except SeveralHopsError:
            return Denial("identity_header_repeated")
        except InvalidValueError:
            return Denial("certificate_malformed")
        run.certificate = known.certificate.fingerprint
        reason = self._refusal(known, scope, context)
        if reason is not None or known.accepted is None:
            denial = Denial(reason or "certificate_not_accepted")
            denial.credential_id = known.certificate.credential_id
            run.proven = None if known.accepted is None else known.accepted.principal
            return denial
        if run.edge is None and known.accepted.ends < math.inf:
            run.edge_standing = Expiry(self.name, known.accepted.ends, self._clock, "certificate_expired", known.certificate.credential_id)
        return known.accepted.principal

    def _refusal(self, known: KnownCertificate, scope: Scope, context: RequestContext) -> str | None:
        if known.accepted is None:
            return "certificate_not_accepted"
        now = self._clock.now()
        if now < known.accepted.starts:
            return "certificate_not_yet_valid"
        if now >= known.accepted.ends:
            return "certificate_expired"
        return restriction_of(known.accepted.principal, scope, context)

    def _from_proxy(self, scope: Scope, proof: Proof) -> bytes | Denial | None:
        """Return the header's value if it is the proxy's, and leave nothing in the scope that a stranger has written."""
        found = self._identity.find(scope["headers"])
        if isinstance(found, Denial):
            return found
        verdict = proof.judge(scope)
        if verdict == "wrong":
            return Denial("proxy_proof_invalid")
        if verdict != "proven":
            if found:
                scope["headers"] = without(scope["headers"], self._trusted | self._spent)
            return None
        if self._spent:
            scope["headers"] = without(scope["headers"], self._spent)
        values = [value for name, value in found if name == self._header]
        if len(values) > 1:
            return Denial("identity_header_repeated")
        # Some proxies set a header to nothing where there is nothing to say.
        return (values[0].strip(b" \t") or None) if values else None


def _from_connection(scope: Scope) -> bytes | Denial | None:
    extensions: Any = scope.get("extensions")
    tls: Any = extensions.get("tls") if extensions else None
    if not tls:
        return None
    presented = first_of(tls.get("client_cert_chain"))
    # A server may let a request in whose certificate it could not verify, and say so here.
    return Denial("certificate_not_accepted") if presented is not None and tls.get("client_cert_error") is not None else presented


def _proof(source: str, proof: Proof | None) -> Proof | None:
    if source != "tls":
        return chosen_proof(proof=proof, peers=None, server_does_not_rewrite=False)
    if proof is not None:
        raise ConfigurationError("proof", "is for certificates in a header; with source='tls' it would be ignored")
    return None


def _header(source: str, header: str | None) -> bytes:
    if source == "nginx":
        if header is None:
            raise ConfigurationError("header", "is missing: which header does nginx set to $ssl_client_escaped_cert?")
        return header_name("header", header)
    if header is not None:
        raise ConfigurationError("header", f"is for source='nginx', and would be ignored with {source!r}")
    return _HEADERS.get(source, b"")
