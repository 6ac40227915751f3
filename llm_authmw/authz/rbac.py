"""May they: roles, and what these allow, held against each request before the app sees it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

import msgspec
from starlette.middleware.cors import CORSMiddleware

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, layers_inside, refuse_recording_inside, send_denial
from llm_authmw.authz.access import AccessRequest, Authorizer, AuthorizerFunction
from llm_authmw.authz.authorizer import Engine
from llm_authmw.authz.case import Basis, Case
from llm_authmw.authz.explanation import Explanation
from llm_authmw.authz.frames import JudgedSocket
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.model_list import ModelListAnswer, asking_for_all, lists_models
from llm_authmw.authz.roles import Role
from llm_authmw.authz.rules import AccessRules
from llm_authmw.authz.sources import check_grants
from llm_authmw.call import UNLISTED
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.context import Decision, RequestContext, logger
from llm_authmw.errors import ConfigurationError
from llm_authmw.identity import GivesIdentity, IdentitySource, ReadsIdentity
from llm_authmw.lens import DEFAULT_LENS, RequestLens
from llm_authmw.names import Names
from llm_authmw.overrides import remove_overrides
from llm_authmw.protected_resource import ProtectedResourceMiddleware

# Where no roles are given the engine decides alone, and what a credential is restricted to holds all the same.
_EVERYTHING: Final = {"authorizer": Role(routes=("*",), models=("*",), tools=("*",))}
_OF_ROLES: Final = ("grants", "default_role", "route_groups", "model_groups", "filter_models")


class RBACMiddleware(ReadsIdentity):
    """Let a caller do what one of its roles allows: the route, the kind of request, every model, every tool.

    What no role allows is denied. It stands inside of the authentication layers, which say who is calling; several of them may stand one
    inside the other, and then all of them have to allow a request. A body is read only where a role, the credential or the engine looks
    at what it asks for, and goes on byte for byte.

    Args:
        app: The app that the layer stands in front of, or the next layer.
        roles: Each role under its name.
        grants: Which facts of a caller give which role.
        default_role: The role of an authenticated caller who has no other.
        route_groups: Route patterns under a name, for `group:NAME` in a role's `routes`.
        model_groups: Model patterns under a name, likewise.
        authorizer: An engine or a function of your own, asked last. It can only narrow what roles allow; without roles it decides alone.
            Anything but True, False or a `Denial` within the deadline denies with 503.
        authorizer_deadline: Seconds that an answer of it may take; 5 where it is left out.
        lens: How requests are read: operations of your own, the size of bodies.
        filter_models: Whether `GET /v1/models` shows only what the caller may use.
        shadow: Whether the layer is on trial: all that it would deny is recorded and counted, and nothing is denied.
        clock: Tells how long ago a caller logged in.

    Raises:
        ConfigurationError: an option is wrong or would be ignored, or the layer is misplaced.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        roles: Mapping[str, Role] | None = None,
        grants: Sequence[Grant] = (),
        default_role: str | None = None,
        route_groups: Mapping[str, Names] | None = None,
        model_groups: Mapping[str, Names] | None = None,
        authorizer: Authorizer | AuthorizerFunction | None = None,
        authorizer_deadline: float | None = None,
        lens: RequestLens = DEFAULT_LENS,
        filter_models: bool = False,
        shadow: bool = False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for option, value in (("filter_models", filter_models), ("shadow", shadow)):
            if not isinstance(value, bool):
                raise ConfigurationError(option, "is True or False")
        if not isinstance(lens, RequestLens):
            raise ConfigurationError("lens", "takes RequestLens(…)")
        if authorizer is None and authorizer_deadline is not None:
            raise ConfigurationError("authorizer_deadline", "is for authorizer, and would be ignored")
        if filter_models and shadow:
            raise ConfigurationError("filter_models", "would be ignored: a layer on trial changes nothing")
        if roles is None:
            if authorizer is None:
                raise ConfigurationError("roles", "or authorizer is needed, or nobody could ever get in")
            given = dict(zip(_OF_ROLES, (grants, default_role, route_groups, model_groups, filter_models), strict=True))
            ignored = [option for option, value in given.items() if value]
            if ignored:
                raise ConfigurationError(ignored[0], "is for roles, and would be ignored")
        self.app: Final = app
        self.name: Final = type(self).__name__
        self.rules: Final = AccessRules(
            roles=_EVERYTHING if roles is None else roles,
            grants=grants,
            default_role=next(iter(_EVERYTHING)) if roles is None else default_role,
            route_groups=route_groups,
            model_groups=model_groups,
        )
        self.lens: Final = lens
        self.shadow: Final = shadow
        self._basis: Final = Basis(
            layer=self.name,
            rules=self.rules,
            has_roles=roles is not None,
            engine=None if authorizer is None else Engine(authorizer, deadline=authorizer_deadline),
            lens=lens,
            clock=clock,
            shadow=shadow,
        )
        self._filters: Final = filter_models
        self._by: Final = {
            "roles": dict(roles or {}),
            "grants": list(grants),
            "default_role": default_role,
            "route_groups": dict(route_groups or {}),
            "model_groups": dict(model_groups or {}),
        }
        self._said_that_nobody_authenticates = False
        unknown = self.rules.operations - {operation.name for operation in lens.operations} - {UNLISTED}
        if unknown:
            raise ConfigurationError("operations", f"names {min(unknown)!r}, which is in no table of operations")
        self._check_what_stands_inside()

    def __repr__(self) -> str:
        decides = f"roles={list(self.rules.tables.names)}" if self._basis.has_roles else f"authorizer={self._basis.engine!r}"
        return f"RBACMiddleware({decides}{', shadow=True' if self.shadow else ''})"

    @property
    def stands(self) -> str:
        """All of its roles and grants; see `Deciding`."""
        return f"{self!r}: {self._by}"

    @property
    def engine(self) -> Engine | None:
        """The engine of the user's own, asked last."""
        return self._basis.engine

    def check_identity(self, sources: Sequence[IdentitySource], *, whole: bool) -> None:
        """Hold the grants against the sources of the callers; see `ReadsIdentity`.

        Raises:
            ConfigurationError: a grant could never give its role, or could on the word of a source that it was not meant for.
        """
        check_grants(self.rules.grants, sources, whole=whole)

    def explain(self, request: AccessRequest) -> Explanation:
        """Say how the roles decide a request, and on what. The engine is not asked, and nothing is recorded.

        Raises:
            ValueError: `call` is missing from the request, and matters.
            AuthmwError: a restriction of the credential's own cannot be read, so that nothing can be decided.
        """
        if not self._basis.has_roles:
            request = msgspec.structs.replace(request, principal=msgspec.structs.replace(request.principal, roles=()))
        found = self.rules.explain(request)
        return msgspec.structs.replace(found, allowed=True, shadowed=True) if self.shadow and not found.allowed else found

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on that is allowed, or deny it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        if context.authentication is None and not context.principal.is_authenticated:
            self._say_once_that_nobody_authenticates()
        case = Case(self._basis, scope, receive, context)
        denial = await case.judge()
        if denial is not None:
            await send_denial(scope, send, denial, context)
            return
        if case.gone and not self.shadow:
            # Nobody waits for an answer any more, and what was asked for was not read to its end.
            return
        if not case.shadowed:
            context.decided(Decision(self.name, "allowed", None, context.principal.credential_id, None, case.rule))
        remove_overrides(scope)
        asked = case.asked
        if asked is not None and case.watched:
            await JudgedSocket(case, asked, send).run(self.app)
            return
        if self._filters and asked is not None and lists_models(asked.request.method, asked.request.found):
            scope, send = asking_for_all(scope), ModelListAnswer(send, partial(self.rules.allowed_models, asked.holder))
        await self.app(scope, case.receive, send)

    def _say_once_that_nobody_authenticates(self) -> None:
        if not self._said_that_nobody_authenticates:
            self._said_that_nobody_authenticates = True
            logger.error("no authentication layer stands outside of %s, so it denies everybody", self.name)

    def _check_what_stands_inside(self) -> None:
        refuse_recording_inside(self.name, self.app)
        for layer in layers_inside(self.app):
            if isinstance(layer, GivesIdentity):
                raise ConfigurationError(
                    self.name, f"{type(layer).__name__} stands inside, so nobody is known yet: put {self.name} further in, behind it"
                )
            if isinstance(layer, CORSMiddleware | ProtectedResourceMiddleware):
                raise ConfigurationError(
                    self.name, f"{type(layer).__name__} stands inside, where nobody without a credential gets to: put it further out"
                )
