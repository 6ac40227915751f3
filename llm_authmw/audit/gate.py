"""`AuditGate`: the innermost layer of mode "required", behind which nothing happens that is not recorded."""

from typing import Final

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, layers_inside, send_denial
from llm_authmw.audit.observation import Observation
from llm_authmw.audit.part import intend
from llm_authmw.context import RequestContext, logger
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import Deciding, Recording


class AuditGate:
    """Let a request through once a durable sink has accepted that it will be let through.

    It stands right in front of the app, inside of every other layer of ours: what it records is who is let in, by which decisions, and what
    was reserved for it. A `Stack` places it where it has an `AuditMiddleware(mode="required")`; in a plain list of layers, and in front of
    the app of a `PolicyRouter`, it is named.

    Where no sink accepts the record in time, the request is denied with 503, what was reserved for it is given back, and the app is not
    called. So is a request that comes by no `AuditMiddleware(mode="required")`.

    Args:
        app: The app.

    Raises:
        ConfigurationError: a layer of ours stands inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app: Final = app
        self.name: Final = type(self).__name__
        self._said_that_nobody_requires_it: bool = False
        for layer in layers_inside(app):
            if isinstance(layer, Deciding | Recording | AuditGate):
                raise ConfigurationError(
                    self.name, f"{type(layer).__name__} stands inside, so its decision would be missing: put {self.name} further in"
                )

    def __repr__(self) -> str:
        return "AuditGate()"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on that is recorded, or deny it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        if await self._may_pass(context):
            await self.app(scope, receive, send)
            return
        denial = Denial("audit_unavailable", layer=self.name)
        if context.exchange is not None:
            # The app will not run, so what was reserved for it is given back before anybody hears of it.
            await context.exchange.release()
        context.record(denial, credential_id=context.principal.credential_id)
        await send_denial(scope, send, denial, context)

    async def _may_pass(self, context: RequestContext) -> bool:
        seen = Observation.of(context)
        if seen is None or not any(part.acceptance for part in seen.parts):
            if not self._said_that_nobody_requires_it:
                self._said_that_nobody_requires_it = True
                logger.error("no AuditMiddleware(mode='required') stands outside of %s, so it denies everybody", self.name)
            return False
        return await intend(seen.parts, seen.intent())
