"""For FastAPI: who is calling, as a typed dependency that also documents how to log in.

`CurrentPrincipal` works on HTTP and WebSocket routes, behind any authentication layer of ours. To ask for scopes::

    caller: Annotated[Principal, Security(current_caller, scopes=["llm:read"])]
"""

from typing import Annotated, Final

try:
    from fastapi import Depends, Security
    from fastapi.openapi.models import APIKey, APIKeyIn, HTTPBearer
    from fastapi.openapi.models import SecurityBase as SecurityModel
    from fastapi.security import SecurityScopes
    from fastapi.security.base import SecurityBase
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError("llm_authmw.fastapi is for FastAPI apps: pip install fastapi") from _error

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from llm_authmw.asgi import POLICY_VIOLATION
from llm_authmw.context import CONTEXT_KEY, RequestContext
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.principal import Principal


class _Scheme(SecurityBase):
    """A way to log in, for the OpenAPI document. The layer in front has verified the credential already."""

    def __init__(self, name: str, model: SecurityModel) -> None:
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None:
        """Verify nothing."""


_BEARER: Final = _Scheme("BearerAuth", HTTPBearer(description="An API key, or an access token."))
_API_KEY: Final = _Scheme("ApiKeyAuth", APIKey.model_validate({"in": APIKeyIn.header, "name": "x-api-key", "description": "An API key."}))


async def current_caller(
    connection: HTTPConnection,
    scopes: SecurityScopes,
    _bearer: Annotated[None, Security(_BEARER)],
    _api_key: Annotated[None, Security(_API_KEY)],
) -> Principal:
    """Return who is calling.

    A caller who is nobody, or who lacks a scope that the route asks for, is denied in the dialect of the layer in front.

    Raises:
        HTTPException: the caller is denied; on a WebSocket, WebSocketException.
        ConfigurationError: no authentication layer stands in front of the app, so nobody could be known.
    """
    context: RequestContext | None = connection.scope.get(CONTEXT_KEY)
    if context is None or context.authentication is None:
        raise ConfigurationError("CurrentPrincipal", "needs an authentication layer such as KeyAuthMiddleware in front of the app")
    user = connection.scope.get("user")
    # A copy of the scope that went its own way has its own caller, and the one context knows only the last of them.
    principal = user if isinstance(user, Principal) else context.principal
    denial: Denial | None = None
    if not principal.is_authenticated:
        denial = Denial("missing_credential", layer="CurrentPrincipal", challenges=("Bearer",))
    else:
        missing = [scope for scope in scopes.scopes if scope not in principal.scopes]
        if missing:
            denial = Denial("insufficient_scope", layer="CurrentPrincipal", need=" ".join(missing), challenges=("Bearer",))
    if denial is None:
        return principal
    # The framework's own exception ends the route; the layer in front renders the denial in place of the framework's answer.
    context.denial = denial
    context.record(denial, credential_id=principal.credential_id)
    if connection.scope["type"] == "websocket":
        raise WebSocketException(POLICY_VIOLATION, denial.public_reason)
    raise HTTPException(denial.status, denial.message)


CurrentPrincipal = Annotated[Principal, Depends(current_caller)]
"""The principal of the request, for route signatures: `async def chat(caller: CurrentPrincipal)`."""
