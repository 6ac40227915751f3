"""Layers around an app that only says that it was reached, so that nothing but their decision is asked for."""

import ipaddress
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias, cast

from msgspec import field
from starlette.middleware import Middleware

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, send_denial
from llm_authmw.authn.credentials import AUTHORIZATION, find_credential
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.context import CONTEXT_KEY, RequestContext, publish, unpublish
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import IdentitySource
from llm_authmw.lens import DEFAULT_LENS
from llm_authmw.patterns import canonical_route
from llm_authmw.policy import PolicyRouter
from llm_authmw.principal import NAMED_BY_OTHERS, Principal
from llm_authmw.restrictions import restriction_of
from llm_authmw.stack import GuardedApp, Layered, Stack
from llm_authmw.testing.answers import Answer
from llm_authmw.testing.asgi import Response, WebSocketClosed, request, websocket
from llm_authmw.testing.asgi.scopes import RawHeaders
from llm_authmw.testing.questions import Find, Place, Question, make_question, place_of, read_target

Guarding: TypeAlias = Stack | GuardedApp | PolicyRouter | Sequence[Middleware | Stack]
"""What can be asked: a stack, its layers, the app that it guards, or a router of policies."""

TIME_LIMIT: Final = 10.0
"""Seconds that each single wait may take, that for an issuer or a store included."""

_METHODS: Final = NAMED_BY_OTHERS | {"key", "master_key"}
_CLIENT_PORT: Final = 50_000
_EMPTY_LIST: Final = b'{"object":"list","data":[]}'
"""What the app answers: also what a layer that filters lists of models takes for one."""


class Bench:
    """Layers around an app that only says that it was reached, to be asked more than once.

    Args:
        guard: What is asked; see `call`.

    Raises:
        ConfigurationError: `guard` is nothing that can be asked.
    """

    def __init__(self, guard: Guarding) -> None:
        self._app: Final = _around(guard)

    def place_of(self, target: str) -> Place | None:
        """Return where a request for this target names its model, or None where it has no place for one."""
        return place_of(target, self._find(read_target(target)))

    async def ask(
        self,
        target: str,
        *,
        as_: Principal | None = None,
        bearer: str | None = None,
        model: str | None = None,
        json: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        headers: RawHeaders = (),
        query: str = "",
        address: str | None = None,
        time_limit: float = TIME_LIMIT,
    ) -> Answer:
        """Ask; the arguments are those of `call`."""
        find = self._find(read_target(target, model))
        asked = make_question(target, find, model=model, json=json, body=body, query=query)
        lines = [*asked.headers, *headers]
        if bearer is not None:
            lines.append((AUTHORIZATION, b"Bearer " + bearer.encode("latin-1")))
        context = _Watched()
        changes: dict[str, Any] = {CONTEXT_KEY: context}
        if address is not None:
            changes["client"] = (_checked_address(address), _CLIENT_PORT)
        app, published = self._app, None
        if as_ is not None:
            if bearer is not None:
                raise ConfigurationError("as_", "and bearer exclude each other: a token is judged, and a principal was")
            scope = asked.scope(headers=lines, changes=changes)
            refusal = self._let_in(as_, scope, context)
            app = self._app if refusal is None else _refusing(refusal, context)
            if refusal is None and context.authentication is None:
                # Nobody in there asks who is calling, so somebody outside has.
                context.principal, published = as_, publish(changes, as_)
        try:
            response = await _sent(app, asked, lines, changes, time_limit)
        finally:
            if published is not None:
                unpublish(published)
        return _answer(_words(asked, model, as_ or context.principal), asked, response, context)

    def _find(self, asked: Question) -> Find:
        """Return what the layers that a request meets know of routes."""
        return next((layer.lens.find for layer in _met(self._app, asked.route) if isinstance(layer, RBACMiddleware)), DEFAULT_LENS.find)

    def _let_in(self, principal: Principal, scope: Scope, context: RequestContext) -> Denial | None:
        """Let the principal stand where the authentication layers of this request would have put it.

        Returns:
            Why they would not have.

        Raises:
            ConfigurationError: the principal is nobody, the request has a credential of its own, or is asked for another one further in.
        """
        if not principal.is_authenticated:
            raise ConfigurationError("as_", "is nobody: leave it out for a caller who shows no credential")
        met = list(_met(self._app, canonical_route(scope)))
        layers = [layer for layer in met if isinstance(layer, AuthenticationLayer)]
        if not layers:
            return None
        run = list(_run_of(layers[0]))
        if any(layer not in run for layer in layers):
            raise ConfigurationError("as_", "two runs of authentication layers decide on this request: ask with a credential for each")
        first = layers[0]
        if find_credential(scope, first.headers, first.query_parameters) is not None:
            raise ConfigurationError("as_", "and a credential in the request exclude each other: it would not be looked at")
        if not _may_come_from(principal, first.run_sources):
            return Denial("credential_not_accepted", layer=run[-1].name)
        # Known to the layers only through the run that they go on with, as if an outer one of theirs had let the caller in.
        context.authentication = Run(
            None,
            expected=first,
            principal=principal,
            entrance=first,
        )
        context.proxies = next((one.trusted_proxies for one in met if _says_whom_to_trust(one)), None)
        reason = restriction_of(principal, scope, context)
        return None if reason is None else Denial(reason, layer=first.name)


class _Watched(RequestContext):
    """A context that keeps the denials whole: the decisions say less."""

    denials: list[Denial] = field(default_factory=list[Denial])
    shadowed: list[Denial] = field(default_factory=list[Denial])
    reached: bool = False
    messages: int = 0

    def record(self, denial: Denial, *, credential_id: str | None = None, mark: str | None = None) -> None:
        self.denials.append(denial)
        super().record(denial, credential_id=credential_id, mark=mark)

    def record_shadow(self, denial: Denial) -> None:
        self.shadowed.append(denial)
        super().record_shadow(denial)


async def _reached(scope: Scope, receive: Receive, send: Send) -> None:
    """Be the app: say that the request has come through."""
    context: _Watched = scope[CONTEXT_KEY]
    context.reached = True
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            context.messages += 1
            await send({"type": "websocket.send", "text": ""})
        return
    while (await receive()).get("more_body", False):
        pass
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(_EMPTY_LIST))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else _EMPTY_LIST})


def _around(guard: Any, app: ASGIApp = _reached) -> ASGIApp:
    """Put what guards an app around another one.

    Raises:
        ConfigurationError: it is nothing of which that can be done.
    """
    if isinstance(guard, Stack):
        return guard(app)
    if isinstance(guard, GuardedApp):
        return guard.stack(_around(guard.inside, app) if isinstance(guard.inside, Layered) else app)
    if isinstance(guard, PolicyRouter):
        return guard.around(app)
    if isinstance(guard, list | tuple):
        layers = cast("Sequence[Middleware | Stack]", guard)
        return Stack(*layers)(app)
    raise ConfigurationError("guard", f"takes a Stack, what it guards, a PolicyRouter or a list of layers, not {type(guard).__name__}")


def _met(app: Any, route: tuple[str, str] | None) -> Iterator[Any]:
    """Yield what a request for a route meets of ours, the outermost first."""
    yield app
    if isinstance(app, GuardedApp):
        for layer in app.layers:
            yield from _met(layer, route)
        if isinstance(app.inside, Layered):
            yield from _met(app.inside, route)
    elif isinstance(app, PolicyRouter) and route is not None:
        # Its branches are the apps behind its policies' stacks, in the order of these.
        stacked = [policy for policy in app.policies if policy.stack is not None]
        behind = dict(zip(stacked, app.branches, strict=False))
        decides = app.find(*route)
        if decides is not None and not decides.public:
            yield from _met(behind[decides], route)


def _run_of(layer: AuthenticationLayer | None) -> Iterator[AuthenticationLayer]:
    while layer is not None:
        yield layer
        layer = layer.neighbour


def _may_come_from(principal: Principal, sources: Sequence[IdentitySource]) -> bool:
    """Say whether layers with these sources could have made the principal; one of a method that is none of ours, whichever they are."""
    if principal.method not in _METHODS:
        return True
    for source in sources:
        # A function of the user's own may make any.
        if source.kept_claims is None:
            return True
        if source.method == principal.method and (principal.issuer is None or not source.issuers or principal.issuer in source.issuers):
            return True
    return False


def _says_whom_to_trust(one: Any) -> bool:
    return isinstance(one, Layered | AuthenticationLayer) and one.trusted_proxies is not None


def _refusing(denial: Denial, context: RequestContext) -> ASGIApp:
    """Return an app that denies as the outermost authentication layer would."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        context.record(denial)
        await send_denial(scope, send, denial, context)

    return refuse


def _checked_address(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise ConfigurationError("address", f"{address!r} is not an IP address") from None


async def _sent(app: ASGIApp, asked: Question, headers: RawHeaders, changes: Mapping[str, Any], time_limit: float) -> Response:
    if asked.method != "WS":
        return await request(app, asked.target, headers=headers, body=asked.body, scope=changes, time_limit=time_limit)
    async with websocket(app, asked.path, headers=headers, scope=changes, time_limit=time_limit) as socket:
        if asked.body and socket.accepted:
            with suppress(WebSocketClosed):
                await socket.send_text(asked.body.decode())
                await socket.receive()
    return socket.response


def _words(asked: Question, model: str | None, caller: Principal) -> str:
    # Without its query, in which there may be a credential.
    return f"{asked.method} {asked.path.partition('?')[0]}{'' if model is None else f' for {model}'} as {caller.subject}"


def _answer(question: str, asked: Question, response: Response, context: _Watched) -> Answer:
    unheard = asked.method == "WS" and bool(asked.body) and not context.messages
    allowed = context.reached and not unheard
    denial = context.denials[-1] if context.denials and not allowed else None
    return Answer(
        question=question,
        allowed=allowed,
        # A socket that was accepted, and refused its first message, has been answered with 101 before.
        status=denial.status if denial is not None and unheard else response.status,
        denial=denial,
        principal=context.principal,
        roles=context.roles,
        tier=context.tier,
        call=context.call,
        decisions=tuple(context.decisions),
        shadowed=tuple(context.shadowed),
        response=response,
    )
