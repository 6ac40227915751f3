"""The auth layer for Python LLM proxies: composable ASGI middlewares that share one principal."""

from llm_authmw.accounts.records import AccountRecord, AccountRef
from llm_authmw.accounts.service import AccountService
from llm_authmw.authn.keys import KeyAuthMiddleware
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
from llm_authmw.quota import Budget, Limit
from llm_authmw.secrets import Secret, register_resolver
from llm_authmw.stack import GuardedApp, Stack
from llm_authmw.stores import Store, open_store

__version__ = "0.1.0"

__all__ = [
    "ANONYMOUS",
    "AccountRecord",
    "AccountRef",
    "AccountService",
    "Assurance",
    "AuthmwError",
    "Budget",
    "Clock",
    "ConfigurationError",
    "ConflictError",
    "CreatedKey",
    "Decision",
    "Denial",
    "GuardedApp",
    "InvalidValueError",
    "KeyAuthMiddleware",
    "KeyRecord",
    "KeyService",
    "Limit",
    "MissingExtraError",
    "NotFoundError",
    "Principal",
    "RequestContext",
    "Secret",
    "Stack",
    "StaticKey",
    "StaticKeys",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreReadOnlyError",
    "StoreUnavailableError",
    "TrustedProxies",
    "__version__",
    "current_principal",
    "open_store",
    "register_resolver",
]
