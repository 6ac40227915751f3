"""`explain`: why what guards an app lets a request through, or does not, and what would have been needed."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette

from llm_authmw.accounts.records import AccountRecord, accounts_of
from llm_authmw.authz.access import AccessRequest
from llm_authmw.authz.explanation import Explanation
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.call import LLMCall
from llm_authmw.clock import SYSTEM_CLOCK
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.inventory.layers import innermost, layers_around, layers_listed, layers_of
from llm_authmw.ledger.buckets import BucketRef
from llm_authmw.lens import RequestLens
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.explanation import AppliedLimit, Inquiry, applied
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.llm.operation import Found
from llm_authmw.llm.outside_body import models_named_outside
from llm_authmw.llm.requests import read_request, reading_of
from llm_authmw.names import Names, name_set
from llm_authmw.network import Address, parse_address
from llm_authmw.patterns import canonical_route
from llm_authmw.policy import PolicyRouter
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.stack import Stack

_MODEL: Final = "{model}"


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """Why a request gets through what guards an app, or does not. It holds no secret, and is JSON for `msgspec.json.encode`.

    Attributes:
        allowed: Whether it gets through, as far as roles and policies say. How much was used before is not looked at.
        status: The HTTP status of the denial; 200 where there is none.
        reason: Its exact reason code.
        subject: Who is calling.
        route: The method and the path.
        policies: The policies that decide about the route, the outermost first.
        public: Whether one of them is public.
        layers: What each `RBACMiddleware` on the way says, the outermost first, up to the one that denies.
        limits: The limits and budgets that it falls under, in the order of their layers, up to the layer that denies.
        not_asked: The authorizers on the way, which have a word in it too.
    """

    allowed: bool
    status: int
    reason: str | None
    subject: str
    route: str
    policies: tuple[str, ...]
    public: bool
    layers: tuple[Explanation, ...]
    limits: tuple[AppliedLimit, ...]
    not_asked: tuple[str, ...]


def explain(
    guard: Any,
    request: str,
    *,
    as_: Principal | None = None,
    model: str | None = None,
    tools: Names = (),
    json: Mapping[str, Any] | None = None,
    address: str | None = None,
    accounts: Sequence[AccountRecord] = (),
    now: float | None = None,
) -> Explained:
    """Say why a request gets through what guards an app, or does not: every grant, every role, each check, and what limits it.

    Nothing is sent and nobody is asked: neither a store, nor a ledger, nor an issuer, nor an authorizer of your own. Whether a credential
    is good is not looked at, nor what is left of a limit: who is calling is given.

    Args:
        guard: A `Stack`, what it guards, a `PolicyRouter`, or an app of Starlette's or FastAPI's with a list of middlewares.
        request: Method and path, such as `POST /v1/chat/completions`; `WS` is the method of a WebSocket. `{model}` in it stands for
            the model.
        as_: Who is calling; nobody where it is left out.
        model: The model that the request names.
        tools: The tools that it uses, as roles name them: `web_search`, `prompt:summary`.
        json: Its body, in place of `model` and `tools`.
        address: The client's address.
        accounts: Accounts, whose limits and budgets are looked at where the caller belongs to them.
        now: The time, in seconds since 1970. Left out: this moment.

    Raises:
        ConfigurationError: `guard` guards nothing, or another argument is outside its grammar or contradicts one.
        AuthmwError: a restriction of the principal's own cannot be read, so that nothing can be decided.
    """
    asked = _Asked.read(request, model=model, tools=tools, json=json)
    principal = ANONYMOUS if as_ is None else as_
    client = None if address is None else parse_address(address)
    if address is not None and client is None:
        raise ConfigurationError("address", f"{address!r} is not an IP address")
    found = _Found(principal.subject, asked.text)
    belongs = accounts_of(principal)
    own = tuple(account for account in accounts if account.ref in belongs)
    if asked.route is None:
        return found.end(Denial("ambiguous_path"))
    moment = SYSTEM_CLOCK.now() if now is None else now
    ahead = list(_met(guard))
    while ahead:
        layer = ahead.pop(0)
        denial: Denial | None = None
        if isinstance(layer, PolicyRouter):
            policy = layer.find(*asked.route)
            if policy is None:
                denial = Denial("policy_missing")
            else:
                found.policies.append(policy.name)
                found.public = found.public or policy.public
                ahead[:0] = () if policy.stack is None else layers_of(policy.stack)
        elif isinstance(layer, RBACMiddleware):
            denial = found.add(layer, asked, principal, client, moment)
        elif isinstance(layer, RateLimitMiddleware | BudgetMiddleware):
            denial = found.limit(layer, asked, principal, client, own)
        if denial is not None:
            return found.end(denial)
    return found.end(None)


class _Asked(msgspec.Struct, frozen=True):
    """A request, as far as it is known without a layer."""

    text: str
    route: tuple[str, str] | None
    query: bytes
    named: tuple[str, ...]
    tools: tuple[str, ...]
    body: bytes | None

    @classmethod
    def read(cls, request: str, *, model: str | None, tools: Names, json: Mapping[str, Any] | None) -> "_Asked":
        method, blank, target = request.partition(" ")
        if not blank or not method.isupper() or not target.startswith("/") or not target.isascii():
            raise ConfigurationError("request", f"{request!r} is not a method and a path in ASCII, such as 'POST /v1/chat/completions'")
        if json is not None and (model is not None or tools):
            raise ConfigurationError("json", "says what the request asks for, and so do model and tools: give one of them")
        named = () if model is None else (model,)
        if _MODEL in target:
            if model is None:
                raise ConfigurationError("model", f"is left out, and {target!r} has a place for it")
            target, named = target.replace(_MODEL, model), ()
        path, _, query = target.partition("?")
        kind = {"type": "websocket"} if method == "WS" else {"type": "http", "method": method}
        route = canonical_route({**kind, "path": unquote(path), "raw_path": path.encode()})
        body = None if json is None else msgspec.json.encode(json)
        return cls(f"{method} {path}", route, query.encode(), named, name_set("tools", tools), body)

    def call(self, lens: RequestLens, found: Found | None) -> LLMCall:
        """Return what is asked for, as the lens reads it.

        Raises:
            Denial: it cannot be read in one way only.
        """
        outside = models_named_outside(self.query, ())
        if self.body is not None:
            return read_request(found, content_type=b"application/json", body=self.body, named=outside, allowed_fields=lens.allow_fields)
        reading = reading_of(found, outside, lens.allow_fields, socket=self.text.startswith("WS "))
        for name in self.named:
            reading.add_model(name)
            reading.chosen = True
        return msgspec.structs.replace(reading.call(), tools=self.tools)


class _Found:
    """What is found out on the way in."""

    def __init__(self, subject: str, route: str) -> None:
        self._subject: Final = subject
        self._route: Final = route
        self._layers: Final[list[Explanation]] = []
        self._limits: Final[list[AppliedLimit]] = []
        self._counted: Final[set[tuple[int, BucketRef]]] = set()
        self._tier: str | None = None
        self._not_asked: Final[list[str]] = []
        self.policies: Final[list[str]] = []
        self.public = False

    def add(self, layer: RBACMiddleware, asked: _Asked, principal: Principal, address: Address | None, now: float) -> Denial | None:
        """Hold the request against a layer; return its denial, or None."""
        method, path = asked.route or ("", "")
        try:
            found = layer.lens.find(method, path)
            call = asked.call(layer.lens, found)
        except Denial as denial:
            return None if layer.shadow else denial
        explanation = layer.explain(
            AccessRequest(principal=principal, method=method, path=path, found=found, call=call, address=address, now=now)
        )
        self._layers.append(explanation)
        self._tier = explanation.tier
        if layer.engine is not None:
            self._not_asked.append(repr(layer.engine))
        return None if explanation.allowed or explanation.reason is None else Denial(explanation.reason)

    def limit(
        self,
        layer: RateLimitMiddleware | BudgetMiddleware,
        asked: _Asked,
        principal: Principal,
        address: Address | None,
        accounts: Sequence[AccountRecord],
    ) -> Denial | None:
        """Find out which limits of a layer a request falls under; return its denial, or None."""
        method, path = asked.route or ("", "")
        try:
            found = layer.lens.find(method, path)
            request = Inquiry(principal, self._tier, method, path, address, accounts, found, partial(asked.call, layer.lens, found))
            self._limits.extend(applied(layer, request, self._counted))
        except Denial as denial:
            return denial
        return None

    def end(self, denial: Denial | None) -> Explained:
        return Explained(
            allowed=denial is None,
            status=200 if denial is None else denial.status,
            reason=None if denial is None else denial.reason,
            subject=self._subject,
            route=self._route,
            policies=tuple(self.policies),
            public=self.public,
            layers=tuple(self._layers),
            limits=tuple(self._limits),
            not_asked=tuple(self._not_asked),
        )


def _met(guard: Any) -> Iterator[Any]:
    """Yield the layers, and routers of policies, that every request meets, the outermost first.

    Raises:
        ConfigurationError: there are none.
    """
    met: Sequence[Any] = layers_of(guard) if isinstance(guard, Stack) else layers_around(guard)
    inner = None if isinstance(guard, Stack) else innermost(guard)
    if isinstance(inner, Starlette):
        met = (*met, *layers_listed(inner.user_middleware))
    if not met:
        raise ConfigurationError("guard", f"is {type(guard).__name__}, with none of our layers around it: give what guards the app")
    yield from met
