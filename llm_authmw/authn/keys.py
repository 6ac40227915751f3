"""API keys: from whatever channel a client sends them in."""

import hmac
import math
from typing import Final, Literal

import msgspec

from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.credentials import AUTHORIZATION, KEY_HEADERS, header_channel, query_channel
from llm_authmw.authn.layer import AuthenticationLayer, check_failed
from llm_authmw.authn.run import Run
from llm_authmw.context import RequestContext
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import IdentitySource
from llm_authmw.keys.format import DEFAULT_PREFIX, parse_key
from llm_authmw.keys.hashing import sha256
from llm_authmw.keys.known import KnownKey
from llm_authmw.keys.protocols import Keys, KeyVerification
from llm_authmw.keys.static import StaticKeys
from llm_authmw.keys.strength import check_chosen_key
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import KEYS_REALM, Assurance, Principal
from llm_authmw.protected_resource import ProtectedResource
from llm_authmw.resource import Resource
from llm_authmw.restrictions import restriction
from llm_authmw.secrets import Secret, resolve_secret

MASTER_ROLE: Final = "proxy_admin"
_BOUND_OF_AN_END: Final = 1.0
"""Seconds between two looks at an open stream whose key can do nothing but expire."""

_PREFIX: Final = DEFAULT_PREFIX.encode()


class KeyAuthMiddleware(AuthenticationLayer):
    """Let callers in who present an API key.

    Keys come in `Authorization: Bearer`, `x-api-key`, `api-key`, `x-goog-api-key`, and the WebSocket subprotocol
    `openai-insecure-api-key.<key>`. A key's dates, status, networks and routes are enforced here.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        keys: `store.keys`, or `StaticKeys`.
        required: Whether a caller must be known, by a key or by a layer beside this one.
        header: One more header that carries a key, such as `x-litellm-api-key`.
        query_parameter: The name of a query parameter that carries a key, such as `key`. Off unless named: URLs end up in logs.
        master_key: A key for bootstrapping, of at least 32 characters: its caller has the role `proxy_admin`. Best given as
            `env:NAME`.
        imported: Look up strings that are not of our own form, for keys that were imported from another proxy.
        disclosure: "uniform" tells unknown, wrong, blocked, revoked and expired keys nothing but that they are not valid;
            "exact" tells which, once the secret has been proven right.
        resource: What this service is called to clients that look for the way to log in (RFC 9728).
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, the master key is weak, or the layer is misplaced.
    """

    challenge = "Bearer"

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: Keys,
        required: bool = True,
        header: str | None = None,
        query_parameter: str | None = None,
        master_key: str | Secret | None = None,
        imported: bool = False,
        disclosure: Literal["uniform", "exact"] = "uniform",
        resource: ProtectedResource | None = None,
        trusted_proxies: TrustedProxies | None = None,
    ) -> None:
        if not hasattr(keys, "verifier"):
            raise ConfigurationError("keys", "takes store.keys or StaticKeys")
        if disclosure not in ("uniform", "exact"):
            raise ConfigurationError("disclosure", "is 'uniform' or 'exact'")
        if query_parameter is not None and (query_parameter == "" or type(query_parameter) is not str):
            raise ConfigurationError("query_parameter", "names a parameter; leave it out to accept no key in a URL")
        if not isinstance(imported, bool):
            raise ConfigurationError("imported", "is True or False")
        if imported and isinstance(keys, StaticKeys):
            raise ConfigurationError("imported", "is for keys in a store; StaticKeys takes texts of any form")
        chosen = None if master_key is None else check_chosen_key("master_key", resolve_secret("master_key", master_key))
        # Its digest only, which also makes comparing take the same time whatever the lengths.
        self._master_digest: Final = None if chosen is None else sha256(chosen)
        super().__init__(
            app,
            required=required,
            resource=resource,
            trusted_proxies=trusted_proxies,
            headers=frozenset() if header is None else frozenset({header_channel("header", header)}),
            query_parameters=frozenset() if query_parameter is None else frozenset({query_parameter}),
        )
        self._verifier: Final[KeyVerification] = keys.verifier
        own = [header.encode()] if header is not None else []
        own += [query_channel(query_parameter)] if query_parameter is not None else []
        self._channels: Final = KEY_HEADERS | {b"subprotocol", *own}
        self._can_end: Final = keys.verifier.bound is not None
        self._imported: Final = imported
        self._exact: Final = disclosure == "exact"
        self._keys_repr: Final = repr(keys) if isinstance(keys, StaticKeys) else "store.keys"

    def __repr__(self) -> str:
        return f"KeyAuthMiddleware(keys={self._keys_repr}, required={self.required})"

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The keys, and the master key."""
        methods = ("key",) if self._master_digest is None else ("key", "master_key")
        return tuple(IdentitySource(method=method) for method in methods)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """The store that the keys are in."""
        resource = self._verifier.resource
        return () if resource is None else (resource,)

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        """Judge the API key that the caller presents, if it is one."""
        credential = run.credential
        if credential is None:
            return None
        bearer = credential.channel == AUTHORIZATION
        if bearer:
            if credential.scheme != b"bearer":
                return None
        elif credential.channel not in self._channels:
            return None
        presented = credential.token
        if self._master_digest is not None and hmac.compare_digest(sha256(presented), self._master_digest):
            run.mark = "master_key"
            return _MASTER
        known = self._verifier.recall(presented)
        if known is None:
            if bearer and not self._imported and not _looks_like_a_key(presented):
                return None
            known = await self._verifier.verify(presented, imported=self._imported)
        if known.imported and not self._imported:
            return None if bearer and not _looks_like_a_key(presented) else Denial("key_malformed")
        if known.claimed_id is None and bearer and not _looks_like_a_key(presented):
            return None
        run.mark = known.mark
        denial = self._refusal(known, scope, context)
        if denial is not None:
            run.proven = known.principal if known.key_id is not None else None
            return denial
        if self._can_end or known.ends < math.inf:
            run.standing = _Standing(self, self._verifier, presented, known, scope, context)
        return known.principal

    def _refusal(self, known: KnownKey, scope: Scope, context: RequestContext) -> Denial | None:
        reason = self._verifier.judge(known) or restriction(known.networks, known.routes, scope, context)
        if reason is None:
            return None
        proven = known.key_id is not None
        denial = Denial(reason, layer=self.name, public_reason=reason if proven and self._exact else None)
        denial.credential_id = known.claimed_id
        return denial

    async def confirm(self, presented: bytes, scope: Scope, context: RequestContext) -> tuple[KnownKey, Denial | None]:
        """Ask again about a key that was let in; return what is known of it now, and why it stands no longer."""
        known = await self._verifier.verify(presented, imported=self._imported)
        return known, self._refusal(known, scope, context)


class _Standing(msgspec.Struct, eq=False):
    """A key that was let in, for as long as its stream or socket is open."""

    layer: KeyAuthMiddleware
    verifier: KeyVerification
    presented: bytes
    known: KnownKey
    scope: Scope
    context: RequestContext

    def __repr__(self) -> str:
        return f"_Standing({self.known!r})"

    @property
    def bound(self) -> float:
        return self.verifier.bound or _BOUND_OF_AN_END

    @property
    def due(self) -> float:
        due = min(self.bound, self.verifier.due(self.known))
        return due if due > 0 else self.bound

    def holds(self) -> bool:
        return self.verifier.holds(self.known)

    async def confirm(self) -> Denial | None:
        try:
            self.known, denial = await self.layer.confirm(self.presented, self.scope, self.context)
        except Denial as raised:
            raised.layer = raised.layer or self.layer.name
            return raised
        except Exception as error:  # noqa: BLE001 - as at the beginning: a check that failed to run has failed
            return check_failed(self.layer.name, error)
        return denial


_MASTER: Final = Principal(
    realm=KEYS_REALM, roles=(MASTER_ROLE,), method="master_key", credential_id="master", assurance=Assurance.SHARED_SECRET
)


def _looks_like_a_key(presented: bytes) -> bool:
    return presented.startswith(_PREFIX) or parse_key(presented.decode("ascii", "replace")) is not None
