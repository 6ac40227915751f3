"""`Policy` and `PolicyRouter`: another stack for every route, and nothing for a route that nobody has named."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, cast

from llm_authmw.asgi import ASGIApp, Branching, Receive, Scope, Send, refuse_recording_inside, send_denial
from llm_authmw.audit.gate import AuditGate
from llm_authmw.authn.guard import Guard
from llm_authmw.authn.identity_headers import IdentityHeaders, without
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.context import Decision, RequestContext, publish, unpublish
from llm_authmw.errors import ConfigurationError, Denial, InvalidValueError
from llm_authmw.identity import IdentitySource, ReadsIdentity
from llm_authmw.inventory.startup import InventoryMode, StartUpInventory
from llm_authmw.lifespan import run_lifespan
from llm_authmw.names import Names, name_problem, names
from llm_authmw.network import TrustedProxies
from llm_authmw.overrides import remove_overrides
from llm_authmw.patterns import RoutePattern, canonical_route, is_canonical
from llm_authmw.principal import ANONYMOUS
from llm_authmw.resource import Resource
from llm_authmw.specificity import Specificity, conflict, example, is_exact, is_within_but_for_slashes
from llm_authmw.stack import GuardedApp, Layered, Stack, resources_of


class Policy:
    """What guards a route: a stack, or, where that is said, nothing.

    Args:
        route: The route, in the language of route patterns; or several of them.
        stack: The layers in front of it.
        public: True in place of a stack: everybody may. Each route then names its methods and has no wildcard, so that nothing
            becomes public by being added to the app.
        name: What records and errors call it; the route where it is left out.

    Raises:
        ConfigurationError: a route is none, there is not exactly one of `stack` and `public`, or a public route is not exact.
    """

    __slots__ = ("name", "patterns", "public", "routes", "stack")

    def __init__(self, route: str | Names, stack: Stack | None = None, *, public: bool = False, name: str | None = None) -> None:
        self.routes: Final = names("route", [route] if isinstance(route, str) else route)
        if not self.routes:
            raise ConfigurationError("route", "names none")
        try:
            self.patterns: Final = tuple(RoutePattern.parse(text) for text in self.routes)
        except InvalidValueError as error:
            raise ConfigurationError("route", str(error)) from error
        self.name: Final = _name(name, self.routes)
        if not isinstance(public, bool):
            raise ConfigurationError("public", "is True or False")
        if stack is not None and not isinstance(stack, Stack):
            raise ConfigurationError("stack", f"takes Stack(…), not {type(stack).__name__}")
        if (stack is None) != public:
            raise ConfigurationError("public", f"and a stack: {self.name!r} has {'neither' if stack is None else 'both'}, and needs one")
        self.stack: Final = stack
        self.public: Final = public
        if public:
            for text, pattern in zip(self.routes, self.patterns, strict=True):
                if not pattern.methods or not is_exact(pattern):
                    raise ConfigurationError("public", f"needs a method and a path without a wildcard, such as 'GET /health', not {text!r}")

    def __repr__(self) -> str:
        routes = repr(self.routes[0] if len(self.routes) == 1 else list(self.routes))
        name = "" if self.name == ", ".join(self.routes) else f", name={self.name!r}"
        return f"Policy({routes}, {'public=True' if self.stack is None else repr(self.stack)}{name})"


class PolicyRouter(Layered, Branching, ReadsIdentity):
    """Choose a stack by route, around one app. A route that no policy names is denied.

    The most specific policy that covers a request decides, whatever the order in which they were written. Each stack is composed
    around the app once, when the router is made.

    Args:
        app: The app that all the policies guard.
        policies: The policies.
        inventory: What becomes of errors that `route_inventory` finds once the app has started, or at the first request where no
            lifespan arrives: "error" refuses the app, "warn" logs them, "off" does not look.

    Raises:
        ConfigurationError: there is no policy; two of them cover a route, and neither is the more specific one; one can never decide;
            in a stack a layer refuses its place, or nothing asks who is calling or whether they may; two stacks trust other proxies
            or spellings of one header; or an authentication layer stands outside, where a policy authenticates or is public.
    """

    def __init__(self, app: ASGIApp, *, policies: Sequence[Policy], inventory: InventoryMode = "error") -> None:
        self.app: Final = app
        self.name: Final = type(self).__name__
        refuse_recording_inside(self.name, app)
        self.policies: Final = _checked(policies)
        rules = [(policy, pattern) for policy in self.policies for pattern in policy.patterns]
        _refuse_conflicts(rules)
        self._patterns: Final = [pattern for _, pattern in rules]
        self._specificity: Final = Specificity(self._patterns)
        guarded = {policy: policy.stack(app) for policy in self.policies if policy.stack is not None}
        self._guarded: Final = tuple(guarded.values())
        _refuse_open_stacks(guarded)
        self.trusted_proxies: TrustedProxies | None = _one_setting(self._guarded)
        self._resources: Final[tuple[Resource, ...]] = resources_of(self.all_layers)
        ways = _ways(self.policies, guarded, app, self.name)
        self._ways: Final = [ways[policy] for policy, _ in rules]
        self._authenticates: Final = any(isinstance(layer, AuthenticationLayer) for layer in self.all_layers)
        self._refuse_what_never_decides(rules)
        self._inventory: Final = StartUpInventory(self, inventory)

    @property
    def branches(self) -> tuple[ASGIApp, ...]:
        """The app behind each policy's stack, and the app itself."""
        return (*self._guarded, self.app)

    @property
    def all_layers(self) -> tuple[ASGIApp, ...]:
        """The layers of every policy's stack."""
        return tuple(layer for guarded in self._guarded for layer in guarded.all_layers)

    def find(self, method: str, path: str) -> Policy | None:
        """Return the policy that decides about a route, or None where it is denied.

        Args:
            method: In upper case; `WS` for a WebSocket.
            path: The path below the app's own root, decoded.
        """
        way = self._find(method, path) if is_canonical(path) else None
        return way.policy if isinstance(way, _Way) else None

    def around(self, app: ASGIApp) -> "PolicyRouter":
        """Return a router with the same policies around another app."""
        gated = AuditGate(app) if isinstance(self.app, AuditGate) else app
        return PolicyRouter(gated, policies=self.policies, inventory=self._inventory.mode)

    def check_identity(self, sources: Sequence[IdentitySource], *, whole: bool) -> None:
        """Refuse a layer outside that says who is calling, where the policies say so themselves.

        Raises:
            ConfigurationError: a policy authenticates, or is public.
        """
        del sources, whole
        if self._authenticates or len(self._guarded) < len(self.policies):
            raise ConfigurationError(
                self.name,
                "stands inside of an authentication layer, and has policies that authenticate or are public: "
                "put the layer into the policies' stacks",
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the policy that covers it, or deny it."""
        kind = scope["type"]
        if kind == "lifespan":
            await run_lifespan(self._inventory.after(self.app), self._resources, scope, receive, send)
            return
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope, self.trusted_proxies)
        if self._inventory.refusal() is not None:
            await self._deny(scope, send, context, Denial("authorization_unavailable", layer=self.name))
            return
        route = canonical_route(scope)
        way = "ambiguous_path" if route is None else self._find(*route)
        if isinstance(way, str):
            await self._deny(scope, send, context, Denial(way, layer=self.name))
            return
        remove_overrides(scope)
        if way.strange is not None:
            found = way.strange.find(scope["headers"])
            if isinstance(found, Denial):
                found.layer, found.rule = self.name, way.policy.name
                await self._deny(scope, send, context, found)
                return
            if found:
                scope["headers"] = without(scope["headers"], way.strange.names)
        context.decided(way.decision)
        await way.app(scope, receive, send)

    def __repr__(self) -> str:
        return f"PolicyRouter({', '.join(map(repr, self.policies))})"

    def __str__(self) -> str:
        rules = [(text, policy) for policy in self.policies for text in policy.routes]
        ordered = [rules[number] for number in self._specificity.order]
        width = max(len(text) for text, _ in ordered)
        lines = [f"  {text:<{width}}  {'public' if policy.public else repr(policy.stack)}" for text, policy in ordered]
        return "\n".join(["PolicyRouter, the most specific first:", *lines, "  anything else is denied"])

    def _find(self, method: str, path: str) -> "_Way | str":
        """Return where a canonical route goes to, or the reason code that denies it."""
        number = self._specificity.find(method, path)
        if number is None:
            return "policy_missing"
        way = self._ways[number]
        pattern = self._patterns[number]
        if path != "/" and not is_exact(pattern):
            # Some apps serve a path and the same with a slash behind as one route. No caller may get around a policy by that.
            other = self._specificity.find(method, path[:-1] if path.endswith("/") else f"{path}/")
            if other is not None and self._ways[other] is not way and not is_within_but_for_slashes(pattern, self._patterns[other]):
                return "ambiguous_path"
        return way

    async def _deny(self, scope: Scope, send: Send, context: RequestContext, denial: Denial) -> None:
        context.record(denial)
        await send_denial(scope, send, denial, context)

    def _refuse_what_never_decides(self, rules: Sequence[tuple[Policy, RoutePattern]]) -> None:
        for policy, pattern in rules:
            if not any(self.find(method, path) is policy for method, path in self._specificity.requests_of(pattern)):
                raise ConfigurationError("policies", f"no request comes to {pattern} of {policy.name!r}: other policies cover it all")


def _name(name: object, routes: tuple[str, ...]) -> str:
    if name is None:
        return ", ".join(routes)
    problem = name_problem(name) if isinstance(name, str) else "is not a text"
    if problem is not None:
        raise ConfigurationError("name", problem)
    return str(name)


class _Public:
    """The app, for everybody."""

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = RequestContext.of(scope)
        # A run in which nobody is required, so that whoever looks for one (a framework dependency) finds that nobody is known.
        context.authentication = Run(None, outer=context.authentication)
        context.principal, context.roles, context.tier = ANONYMOUS, (), None
        token = publish(scope, ANONYMOUS)
        guard = Guard(scope, receive, send, context, None)
        try:
            if scope["type"] == "http":
                await self.app(scope, receive, guard.http_send)
            else:
                await guard.websocket(self.app)
        finally:
            unpublish(token)


class _Way(NamedTuple):
    """Where a request goes to.

    Attributes:
        policy: The policy.
        app: The app behind it.
        decision: What the record says.
        strange: The identity headers that another policy's layers trust and this one's do not; None where there are none.
    """

    policy: Policy
    app: ASGIApp
    decision: Decision
    strange: IdentityHeaders | None


def _checked(policies: object) -> tuple[Policy, ...]:
    if not isinstance(policies, Sequence) or not policies:
        raise ConfigurationError("policies", "takes a list of Policy(…), at least one")
    checked: list[Policy] = []
    for policy in cast("Sequence[object]", policies):
        if not isinstance(policy, Policy):
            raise ConfigurationError("policies", f"takes Policy(…) entries, not {type(policy).__name__}")
        if any(policy.name == other.name for other in checked):
            raise ConfigurationError("policies", f"has two that are called {policy.name!r}")
        checked.append(policy)
    return tuple(checked)


def _refuse_conflicts(rules: Sequence[tuple[Policy, RoutePattern]]) -> None:
    for number, (policy, pattern) in enumerate(rules):
        for other, another in rules[:number]:
            both = None if other is policy else conflict(pattern, another)
            if both is not None:
                raise ConfigurationError(
                    "policies",
                    f"{other.name!r} and {policy.name!r} both cover {' '.join(example(both))}, and neither is the more specific one: "
                    f"{another} and {pattern} overlap",
                )


def _one_setting(guarded: Sequence[GuardedApp]) -> TrustedProxies | None:
    settings = {id(one.trusted_proxies): one.trusted_proxies for one in guarded if one.trusted_proxies is not None}
    if len(settings) > 1:
        raise ConfigurationError("trusted_proxies", "differ between the policies' stacks: give one to a Stack around the PolicyRouter")
    return next(iter(settings.values()), None)


def _refuse_open_stacks(guarded: Mapping[Policy, GuardedApp]) -> None:
    for policy, one in guarded.items():
        if not any(isinstance(layer, AuthenticationLayer | ReadsIdentity) for layer in one.all_layers):
            raise ConfigurationError(
                "stack",
                f"of {policy.name!r} lets everybody in: nothing in it asks who is calling or whether they may",
            )


def _ways(policies: Sequence[Policy], guarded: Mapping[Policy, GuardedApp], app: ASGIApp, layer: str) -> dict[Policy, _Way]:
    trusted = {policy: _trusted_headers(guarded.get(policy)) for policy in policies}
    # One object for all of them, since it refuses two spellings of one name.
    every = IdentityHeaders(frozenset[bytes]().union(*trusted.values())).names
    ways: dict[Policy, _Way] = {}
    for policy in policies:
        strange = every - trusted[policy]
        decision = Decision(layer, "allowed", rule="public") if policy.public else Decision(layer, "passed", rule=policy.name)
        ways[policy] = _Way(policy, guarded.get(policy) or _Public(app), decision, IdentityHeaders(strange) if strange else None)
    return ways


def _trusted_headers(guarded: GuardedApp | None) -> frozenset[bytes]:
    layers = () if guarded is None else guarded.all_layers
    return frozenset[bytes]().union(*(layer.edge_headers for layer in layers if isinstance(layer, AuthenticationLayer)))
