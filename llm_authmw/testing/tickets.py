"""An authentication layer of another kind, to put beside the real ones in a test."""

import anyio.lowlevel

from llm_authmw.asgi import ASGIApp, Scope
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.run import Run
from llm_authmw.context import RequestContext
from llm_authmw.errors import Denial
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import Assurance, Principal


class TicketLayer(AuthenticationLayer):
    """Let callers in who present a ticket: `good-ada` in the header `x-ticket` is the user ada; any other one is bad.

    Args:
        app: The app that the layer stands in front of, or the next authentication layer.
        required: As for every authentication layer.
        trusted_proxies: Likewise.
        query_parameter: A query parameter that carries a ticket too.
    """

    challenge = "Ticket"

    def __init__(
        self,
        app: ASGIApp,
        *,
        required: bool = True,
        trusted_proxies: TrustedProxies | None = None,
        query_parameter: str | None = None,
    ) -> None:
        parameters = frozenset[str]() if query_parameter is None else frozenset({query_parameter})
        super().__init__(
            app, required=required, trusted_proxies=trusted_proxies, headers=frozenset({b"x-ticket"}), query_parameters=parameters
        )
        self._channels = {b"x-ticket", *(b"?" + parameter.encode() for parameter in parameters)}

    async def authenticate(self, scope: Scope, context: RequestContext, run: Run) -> Principal | Denial | None:
        """Judge the ticket, if there is one; not at once, as a layer that asks somebody would."""
        del scope, context
        if run.credential is None or run.credential.channel not in self._channels:
            return None
        await anyio.lowlevel.checkpoint()
        kind, _, user = run.credential.token.decode().partition("-")
        if kind != "good":
            return Denial("invalid_token")
        return Principal(user=user, realm="tickets", method="ticket", assurance=Assurance.SHARED_SECRET)
