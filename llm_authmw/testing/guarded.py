"""Layers around a witness, open for as long as a test asks them: for layers that ask somebody else over a network."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

from starlette.middleware import Middleware

from llm_authmw.asgi import ASGIApp
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.principal import Principal
from llm_authmw.stack import Stack
from llm_authmw.testing.asgi import Response, lifespan, stream
from llm_authmw.testing.asgi.scopes import RawHeaders
from llm_authmw.testing.witness import Witness

TIME_LIMIT: Final = 10.0
"""Seconds that an answer may take, that of a provider included."""


class Outcome(NamedTuple):
    """What became of a request.

    Attributes:
        status: The status of the answer.
        reason: The exact reason code of a denial, which the client may not be told; None where there was none.
        caller: Who called, if the app was reached; None if it was not.
        response: The answer.
    """

    status: int
    reason: str | None
    caller: Principal | None
    response: Response


class Guarded:
    """A witness behind layers. Made by `guarded`.

    Attributes:
        witness: The app behind the layers.
    """

    def __init__(self, app: ASGIApp, witness: Witness) -> None:
        self.witness: Final = witness
        self._app: Final = app

    async def ask(self, token: str | None = None, *, headers: RawHeaders = ()) -> Outcome:
        """Send a request, with a bearer token if there is one."""
        bearer = [] if token is None else [(b"authorization", b"Bearer " + token.encode("latin-1"))]
        async with stream(self._app, "GET /v1/models", headers=[*headers, *bearer], time_limit=TIME_LIMIT) as exchange:
            async for _ in exchange:
                pass
        context: RequestContext = exchange.scope[CONTEXT_KEY]
        denied = [decision.reason for decision in context.decisions if decision.outcome == "denied"]
        # The very scope, since other requests are under way.
        reached = any(scope is exchange.scope for scope in reversed(self.witness.scopes))
        return Outcome(exchange.response.status, denied[-1] if denied else None, context.principal if reached else None, exchange.response)


@asynccontextmanager
async def guarded(*layers: Middleware) -> AsyncGenerator[Guarded]:
    """Put layers around a witness, and start and close what they share."""
    witness = Witness()
    app = Stack(*layers)(witness)
    async with lifespan(app):
        yield Guarded(app, witness)
