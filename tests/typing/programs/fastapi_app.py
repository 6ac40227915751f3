"""A FastAPI app: the guard as an entry of the list, the caller as a typed dependency, scopes, HTTP and WebSocket routes."""

from typing import Annotated, assert_type

from fastapi import FastAPI, Request, Security, WebSocket
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Principal, Stack, TrustedProxies, current_principal, open_store
from llm_authmw.fastapi import CurrentPrincipal, current_caller

store = open_store("memory://")
guard = Stack(Middleware(KeyAuthMiddleware, keys=store.keys, required=True, header=None), trusted_proxies=TrustedProxies(["10.0.0.0/8"]))

app = FastAPI(middleware=[Middleware(guard)])


@app.post("/v1/chat/completions")
async def chat(caller: CurrentPrincipal) -> dict[str, str | None]:
    assert_type(caller, Principal)
    return {"subject": caller.subject, "team": caller.team}


@app.get("/v1/models")
async def models(caller: Annotated[Principal, Security(current_caller, scopes=["llm:read"])]) -> list[str]:
    return list(caller.models or ())


@app.get("/whoami")
def whoami(request: Request) -> str:
    assert_type(current_principal(), Principal)
    return str(request.user.display_name)


@app.websocket("/v1/realtime")
async def realtime(socket: WebSocket, caller: CurrentPrincipal) -> None:
    await socket.accept()
    await socket.send_text(caller.identity)


added = FastAPI()
added.add_middleware(KeyAuthMiddleware, keys=store.keys)
added.add_middleware(guard)
