"""The auth layer for Python LLM proxies: composable ASGI middlewares that share one principal."""

from llm_authmw.accounts.records import AccountRecord, AccountRef
from llm_authmw.accounts.service import AccountService
from llm_authmw.alerts import Alerts, Webhook
from llm_authmw.audit.gate import AuditGate
from llm_authmw.audit.middleware import AuditMiddleware
from llm_authmw.authn.client_cert import ClientCertMiddleware
from llm_authmw.authn.custom import CustomAuthMiddleware
from llm_authmw.authn.header_map import HeaderMap
from llm_authmw.authn.introspection import IntrospectionMiddleware
from llm_authmw.authn.jwt import JWTMiddleware
from llm_authmw.authn.keys import KeyAuthMiddleware
from llm_authmw.authn.proof import PeerAddress, Proof, ProxyCertificate, SharedSecret, UnixSocket
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.authz.access import AccessRequest, Authorizer
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.presets import proxy_roles
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.brute_force.layer import BruteForceMiddleware
from llm_authmw.call import Charge, Usage
from llm_authmw.certificates.rules import CertRule
from llm_authmw.clock import Clock
from llm_authmw.context import Decision, RequestContext, current_principal, shadow_counts
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
from llm_authmw.explained import Explained, explain
from llm_authmw.increases import with_increase, with_reset, without_increase
from llm_authmw.inventory import Inventory, route_inventory
from llm_authmw.keys.records import CreatedKey, KeyRecord
from llm_authmw.keys.service import KeyService
from llm_authmw.keys.static import StaticKey, StaticKeys
from llm_authmw.ledger.service import LedgerService
from llm_authmw.lens import RequestLens
from llm_authmw.limits.alerts import BudgetAlert
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.limits.standing import Standing, standings
from llm_authmw.llm.genai_price_book import GenaiPriceBook
from llm_authmw.llm.operation import Operation
from llm_authmw.llm.price_book import PriceBook, PriceBooks, StaticPriceBook
from llm_authmw.llm.price_files import load_prices
from llm_authmw.llm.prices import Price
from llm_authmw.network import TrustedProxies
from llm_authmw.policy import Policy, PolicyRouter
from llm_authmw.principal import ANONYMOUS, Assurance, Principal
from llm_authmw.protected_resource import ProtectedResource, ProtectedResourceMiddleware
from llm_authmw.quota import Budget, Limit
from llm_authmw.secrets import Secret, register_resolver
from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.function import FunctionSink
from llm_authmw.sinks.http import HTTPSink
from llm_authmw.sinks.only import Only
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.sinks.splunk import SplunkSink
from llm_authmw.sinks.stdout import StdoutSink
from llm_authmw.sinks.syslog import SyslogSink
from llm_authmw.stack import GuardedApp, Stack
from llm_authmw.stores import Store, open_store
from llm_authmw.stores.audit import StoreAudit
from llm_authmw.stores.usage import UsageService
from llm_authmw.telemetry import Alert
from llm_authmw.tokens import ClaimMap, Constant, EmailDomain, Issuer, IssuerUnavailableError, TokenInvalid
from llm_authmw.tokens.introspection import Introspector
from llm_authmw.tokens.revocation_records import Revocation, RevocationPage
from llm_authmw.tokens.revocations import RevocationService
from llm_authmw.trail.checkpoints import FileAnchor
from llm_authmw.trail.protocols import RecordQuery, StoredEntry, UsageRow
from llm_authmw.trail.record import Person, Record, Reserved, Who
from llm_authmw.upstream import UpstreamCredentialMiddleware

__version__ = "0.1.0"

__all__ = [
    "ANONYMOUS",
    "AccessRequest",
    "AccountRecord",
    "AccountRef",
    "AccountService",
    "Alert",
    "Alerts",
    "Assurance",
    "AuditGate",
    "AuditMiddleware",
    "AuditSink",
    "AuthmwError",
    "Authorizer",
    "BruteForceMiddleware",
    "Budget",
    "BudgetAlert",
    "BudgetMiddleware",
    "CertRule",
    "Charge",
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
    "Explained",
    "FileAnchor",
    "FileSink",
    "FunctionSink",
    "GenaiPriceBook",
    "Grant",
    "GuardedApp",
    "HTTPSink",
    "HeaderMap",
    "HeaderTrustMiddleware",
    "IntrospectionMiddleware",
    "Introspector",
    "InvalidValueError",
    "Inventory",
    "Issuer",
    "IssuerUnavailableError",
    "JWTMiddleware",
    "KeyAuthMiddleware",
    "KeyRecord",
    "KeyService",
    "LedgerService",
    "Limit",
    "MissingExtraError",
    "NotFoundError",
    "Only",
    "Operation",
    "PeerAddress",
    "Person",
    "Policy",
    "PolicyRouter",
    "Price",
    "PriceBook",
    "PriceBooks",
    "Principal",
    "Proof",
    "ProtectedResource",
    "ProtectedResourceMiddleware",
    "ProxyCertificate",
    "RBACMiddleware",
    "RateLimitMiddleware",
    "Record",
    "RecordQuery",
    "RequestContext",
    "RequestLens",
    "Reserved",
    "Revocation",
    "RevocationPage",
    "RevocationService",
    "Role",
    "Secret",
    "SharedSecret",
    "SplunkSink",
    "Stack",
    "Standing",
    "StaticKey",
    "StaticKeys",
    "StaticPriceBook",
    "StdoutSink",
    "Store",
    "StoreAudit",
    "StoreCorruptError",
    "StoreError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "StoredEntry",
    "SyslogSink",
    "TokenInvalid",
    "TrustedProxies",
    "UnixSocket",
    "UpstreamCredentialMiddleware",
    "Usage",
    "UsageRow",
    "UsageService",
    "Webhook",
    "Who",
    "__version__",
    "current_principal",
    "explain",
    "load_prices",
    "open_store",
    "proxy_roles",
    "register_resolver",
    "route_inventory",
    "shadow_counts",
    "standings",
    "with_increase",
    "with_reset",
    "without_increase",
]
