"""What every authentication layer does, whatever its credential is.

The neighbour rule (design §3): a request without the layer's credential passes on only if the very next app is an
authentication layer of ours. The last layer of such a run denies unless somebody decided who is calling, or nobody was
required. What one run has decided does not count for another one further in.
"""

import copy
import traceback
from functools import cached_property
from typing import Any, Final

from starlette.middleware.cors import CORSMiddleware

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, layers_inside, refuse_recording_inside, send_denial, unwrap
from llm_authmw.authn.credentials import AUTHORIZATION, CALLER_HEADERS, NEVER_A_CREDENTIAL, find_credential
from llm_authmw.authn.guard import Guard
from llm_authmw.authn.run import Run
from llm_authmw.context import Decision, RequestContext, logger, publish, unpublish
from llm_authmw.errors import ConfigurationError, Denial, StoreError
from llm_authmw.identity import CountsFailures, GivesIdentity, IdentitySource, ReadsIdentity
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.protected_resource import ProtectedResource, ProtectedResourceMiddleware
from llm_authmw.resource import Resource


class AuthenticationLayer(GivesIdentity):
    """The base of our authentication layers. A subclass says what its credential is, and judges it.

    Args:
        app: The app that the layer stands in front of, or the next layer.
        required: Whether a caller must have this layer's credential, or that of a layer beside it. Anonymous callers get
            through only where every layer of a run says False.
        trusted_proxies: Whose word about the client's address is taken, where no `Stack` says it for all layers.
        headers: Further headers that carry a caller's credential, in lower case.
        query_parameters: Query parameters that do.
        resource: What this service is called to clients that look for the way to log in (RFC 9728); it goes into the challenge.

    Raises:
        ConfigurationError: something foreign stands between two of our authentication layers, CORS stands inside, two layers
            of one kind stand side by side, or two of them say whose word about addresses is taken.
    """

    challenge: str
    """What the layer would accept, for `WWW-Authenticate` (RFC 9110 §11.6.1)."""
    edge: bool = False
    """Whether what it judges is a fact that the connection or a proxy adds: it may accompany a caller's own credential."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        required: bool = True,
        trusted_proxies: TrustedProxies | None = None,
        headers: frozenset[bytes] = frozenset(),
        query_parameters: frozenset[str] = frozenset(),
        resource: ProtectedResource | None = None,
    ) -> None:
        if not isinstance(required, bool):
            raise ConfigurationError("required", "is True or False")
        if trusted_proxies is not None and not isinstance(trusted_proxies, TrustedProxies):
            raise ConfigurationError("trusted_proxies", "takes TrustedProxies([…])")
        if not headers.isdisjoint(NEVER_A_CREDENTIAL):
            raise ConfigurationError("headers", f"{min(headers & NEVER_A_CREDENTIAL)!r} means something else to servers")
        if resource is not None:
            if not isinstance(resource, ProtectedResource):
                raise ConfigurationError("resource", "takes ProtectedResource(…)")
            self.challenge = resource.challenge
        self.app: Final = app
        self.required: Final = required
        self.trusted_proxies: Final = trusted_proxies
        self.name: Final = type(self).__name__
        neighbour = unwrap(app)
        # Seen once, here, and never inferred further in: only this object may go on with a run.
        self.neighbour: Final[AuthenticationLayer | None] = neighbour if isinstance(neighbour, AuthenticationLayer) else None
        # One pass over the headers serves the whole run, so the outermost layer knows what the inner ones look for.
        beside = self.neighbour
        self.headers: Final[frozenset[bytes]] = CALLER_HEADERS | headers | (frozenset() if beside is None else beside.headers)
        self.query_parameters: Final[frozenset[str]] = query_parameters | (frozenset() if beside is None else beside.query_parameters)
        self.tell_sources(whole=False)
        if beside is None:
            self._check_what_stands_inside(neighbour)
        else:
            self._check_the_run()

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The sources that it takes its principals from; asked for when it is built, by this class. Left as it is: they cannot be known."""
        return (IdentitySource(method=self.name, issuers=None, kept_claims=None),)

    @property
    def resources(self) -> tuple[Resource, ...]:
        """What the app's lifespan starts and closes."""
        return ()

    @property
    def edge_headers(self) -> frozenset[bytes]:
        """The headers that it takes an edge's word from, in lower case: an app behind may take them for the edge's too."""
        return frozenset()

    @cached_property
    def read_headers(self) -> frozenset[bytes]:
        """All headers that the layers of the run, from this one inwards, look into."""
        further_in = frozenset[bytes]() if self.neighbour is None else self.neighbour.read_headers
        return self.headers | self.edge_headers | further_in

    @cached_property
    def offered(self) -> tuple[str, ...]:
        """What the layers of the run, from this one inwards, would accept, for `WWW-Authenticate`."""
        further_in = () if self.neighbour is None else self.neighbour.offered
        return tuple(dict.fromkeys((self.challenge, *further_in)))

    @cached_property
    def run_name(self) -> bytes:
        """What tells the layers of the run, from this one inwards, from those of another run that judges otherwise."""
        further_in = b"" if self.neighbour is None else self.neighbour.run_name
        return repr(self).encode("utf-8", "surrogatepass") + b"\n" + further_in

    @property
    def run_sources(self) -> tuple[IdentitySource, ...]:
        """The sources of the layers of the run, from this one inwards."""
        further_in = () if self.neighbour is None else self.neighbour.run_sources
        return (*self.identity_sources, *further_in)

    def tell_sources(self, *, whole: bool) -> None:
        """Tell the layers inside, which decide by who is calling, where that comes from.

        Args:
            whole: Whether the run begins with this layer.

        Raises:
            ConfigurationError: one of their rules does not go with these sources.
        """
        for layer in layers_inside(self.app):
            if isinstance(layer, ReadsIdentity):
                layer.check_identity(self.run_sources, whole=whole)

    def problem_beside(self, inner: "AuthenticationLayer") -> str | None:
        """Say why this layer must not stand outside of another one of the same run, or None."""
        if type(inner) is type(self) and inner.edge == self.edge:
            return f"two {self.name} stand side by side, and the second would never see a credential: give one of them both"
        return None

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        """Judge this layer's credential.

        Returns:
            Who is calling; why the credential is bad; or None where `run.credential` is none of this layer's.

        Raises:
            Denial: the same as returning it.
        """
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, hand it to the layer beside this one, or deny it."""
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope, self.trusted_proxies)
        run = context.authentication
        outcome: Principal | Denial | None = None
        if run is None or run.expected is not self:
            context.principal = ANONYMOUS
            found = find_credential(scope, self.headers, self.query_parameters)
            if isinstance(found, Denial):
                outcome, found = found, None
            run = context.authentication = Run(found, outer=run, entrance=self)
            if outcome is None and context.attempt is not None:
                refused = await context.attempt.begin(scope, context, run)
                if refused is not None:
                    # Nothing was judged, so there is neither a challenge to give nor a failure to count: a flood is to cost little.
                    context.record(refused)
                    await send_denial(scope, send, refused, context)
                    return
        run.expected = None
        if outcome is None and (run.principal is None or self.edge):
            try:
                outcome = _checked(await self.authenticate(scope, context, run))
            except Denial as raised:
                outcome = raised
            except Exception as error:  # noqa: BLE001 - a check that failed to run has failed: a denial, never a 500
                context.store_trouble = context.store_trouble or isinstance(error, StoreError)
                outcome = check_failed(self.name, error)
        if isinstance(outcome, Denial):
            await self._deny(scope, send, context, run, outcome)
            return
        if outcome is None:
            if run.principal is None:
                run.pending = run.pending or self.required
                run.challenges.append(self.challenge)
            context.decided(Decision(self.name, "passed"))
        else:
            if not self.edge:
                run.principal = outcome
            elif run.edge is None:
                run.edge = outcome
            context.decided(Decision(self.name, "allowed", None, outcome.credential_id, run.mark))
            run.mark = None
        if self.neighbour is not None:
            run.expected = self.neighbour
            # Again, since somebody outside may have sent two copies of the scope on at once: each goes on with its own run.
            context.authentication = run
            await self.app(scope, receive, send)
            return
        denial = self._conclude(context, run)
        if denial is not None:
            await self._deny(scope, send, context, run, denial)
            return
        await self._enter(scope, receive, send, context, run)

    def _conclude(self, context: RequestContext, run: Run) -> Denial | None:
        """Decide at the end of the run; set the context's principal."""
        if run.principal is not None:
            context.principal = run.principal
            return None
        if run.credential is not None:
            # Whatever an edge says: the caller presented something, and nobody has found it good.
            bearer = run.credential.channel == AUTHORIZATION and run.credential.scheme == b"bearer"
            return Denial("invalid_token" if bearer else "credential_not_accepted")
        if run.edge is not None:
            context.principal, run.standing = run.edge, run.edge_standing
            return None
        return Denial("missing_credential") if run.pending else None

    async def _deny(self, scope: Scope, send: Send, context: RequestContext, run: Run, denial: Denial) -> None:
        # A copy: a denial may be a constant of the layer that returned it, or of a user's own function.
        denial = copy.copy(denial)
        denial.layer = denial.layer or self.name
        if denial.status in (400, 401) and not denial.challenges:
            denial.challenges = (*run.challenges, self.challenge)
        context.record(denial, credential_id=denial.credential_id, mark=run.mark)
        if context.attempt is not None:
            counted = await context.attempt.failed(scope, context, run, denial)
            if counted is not denial:
                context.record(counted, credential_id=denial.credential_id)
                denial = counted
        await send_denial(scope, send, denial, context)

    async def _enter(self, scope: Scope, receive: Receive, send: Send, context: RequestContext, run: Run) -> None:
        if context.attempt is not None:
            context.attempt.succeeded(context)
        token = publish(scope, context.principal)
        guard = Guard(scope, receive, send, context, run.standing)
        try:
            if scope["type"] == "http":
                await self.app(scope, guard.http_receive, guard.http_send)
            else:
                await guard.websocket(self.app)
        except Exception:
            # What an app raises after its stream was ended here says nothing but that.
            if not guard.ended:
                raise
        finally:
            unpublish(token)
            # What stands knows the context too: neither is to wait, with the headers of the request, until garbage is collected. The run
            # itself stays: whoever sent the request on twice may have left a copy running, and it says what is a credential there.
            run.standing = run.edge_standing = None

    def _check_the_run(self) -> None:
        layer = self.neighbour
        while layer is not None:
            problem = self.problem_beside(layer)
            if problem is not None:
                raise ConfigurationError(self.name, problem)
            if layer.trusted_proxies is not None and self.trusted_proxies is not None:
                raise ConfigurationError("trusted_proxies", f"is given to {self.name} and to {layer.name} beside it: give it to the Stack")
            layer = layer.neighbour

    def _check_what_stands_inside(self, app: Any) -> None:
        refuse_recording_inside(self.name, app)
        for layer in layers_inside(app):
            if isinstance(layer, CORSMiddleware):
                raise ConfigurationError(
                    self.name, "CORSMiddleware stands inside, so preflights would be denied: put it outside of authentication"
                )
            if isinstance(layer, ProtectedResourceMiddleware):
                raise ConfigurationError(
                    self.name, "ProtectedResourceMiddleware stands inside, so nobody could read it: put it outside of authentication"
                )
            if isinstance(layer, CountsFailures):
                name = type(layer).__name__
                raise ConfigurationError(self.name, f"{name} stands inside, so it would hear of no failure: put {name} outside of it")
            if isinstance(layer, AuthenticationLayer):
                raise ConfigurationError(
                    self.name, f"something foreign stands between it and {layer.name}: put authentication layers side by side"
                )


def _checked(outcome: Any) -> Principal | Denial | None:
    """Return what a layer, which may be of a user's own, has found out.

    Raises:
        TypeError: it is no such thing, or a principal who is nobody: neither may become a caller.
    """
    if outcome is None or isinstance(outcome, Denial) or (isinstance(outcome, Principal) and outcome.is_authenticated):
        return outcome
    raise TypeError("authenticate() returns a principal who is somebody, a Denial, or None")


def check_failed(layer: str, error: Exception) -> Denial:
    """Log that a check failed to run, and return the denial that this is."""
    # Where and what, but not the error's own text, which may quote what was being judged.
    place = traceback.extract_tb(error.__traceback__)[-1]
    logger.error("%s could not judge a credential: %s at %s:%s", layer, type(error).__name__, place.filename, place.lineno)
    return Denial("check_failed", layer=layer)
