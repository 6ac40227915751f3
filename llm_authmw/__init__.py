"""The auth layer for Python LLM proxies: composable ASGI middlewares that share one principal."""

from llm_authmw.accounts.records import AccountRecord, AccountRef
from llm_authmw.accounts.service import AccountService
from llm_authmw.authn.client_cert import ClientCertMiddleware
from llm_authmw.authn.custom import CustomAuthMiddleware
from llm_authmw.authn.header_map import HeaderMap
from llm_authmw.authn.introspection import IntrospectionMiddleware
from llm_authmw.authn.jwt import JWTMiddleware
from llm_authmw.authn.keys import KeyAuthMiddleware
from llm_authmw.authn.proof import PeerAddress, Proof, ProxyCertificate, SharedSecret, UnixSocket
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.certificates.rules import CertRule
from llm_authmw.clock import Clock
from llm_authmw.context import Decision, RequestContext, current_principal
from llm_authmw.errors import (
    AuthmwError,
    ConfigurationError,
    ConflictError,
    Denial,
    InvalidValueError,
    MissingExtraError,
    NotFoundError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from llm_authmw.keys.records import CreatedKey, KeyRecord
from llm_authmw.keys.service import KeyService
from llm_authmw.keys.static import StaticKey, StaticKeys
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import ANONYMOUS, Assurance, Principal
from llm_authmw.protected_resource import ProtectedResource, ProtectedResourceMiddleware
from llm_authmw.quota import Budget, Limit
from llm_authmw.secrets import Secret, register_resolver
from llm_authmw.stack import GuardedApp, Stack
from llm_authmw.stores import Store, open_store
from llm_authmw.tokens import ClaimMap, Constant, EmailDomain, Issuer, IssuerUnavailableError, TokenInvalid
from llm_authmw.tokens.introspection import Introspector
from llm_authmw.tokens.revocation_records import Revocation, RevocationPage
from llm_authmw.tokens.revocations import RevocationService
from llm_authmw.upstream import UpstreamCredentialMiddleware

__version__ = "0.1.0"

__all__ = [
    "ANONYMOUS",
    "AccountRecord",
    "AccountRef",
    "AccountService",
    "Assurance",
    "AuthmwError",
    "Budget",
    "CertRule",
    "ClaimMap",
    "ClientCertMiddleware",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "Constant",
    "CreatedKey",
    "CustomAuthMiddleware",
    "Decision",
    "Denial",
    "EmailDomain",
    "GuardedApp",
    "HeaderMap",
    "HeaderTrustMiddleware",
    "IntrospectionMiddleware",
    "Introspector",
    "InvalidValueError",
    "Issuer",
    "IssuerUnavailableError",
    "JWTMiddleware",
    "KeyAuthMiddleware",
    "KeyRecord",
    "KeyService",
    "Limit",
    "MissingExtraError",
    "NotFoundError",
    "PeerAddress",
    "Principal",
    "Proof",
    "ProtectedResource",
    "ProtectedResourceMiddleware",
    "ProxyCertificate",
    "RequestContext",
    "Revocation",
    "RevocationPage",
    "RevocationService",
    "Secret",
    "SharedSecret",
    "Stack",
    "StaticKey",
    "StaticKeys",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "TokenInvalid",
    "TrustedProxies",
    "UnixSocket",
    "UpstreamCredentialMiddleware",
    "__version__",
    "current_principal",
    "open_store",
    "register_resolver",
]
