"""An app behind a front proxy that says what has reached it."""

from starlette.requests import Request
from starlette.responses import JSONResponse

from llm_authmw.asgi import Receive, Scope, Send


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    assert "http" == scope["type"]
    request = Request(scope)
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    answer = {"method": request.method, "path": request.url.path, "client": scope["client"], "headers": headers}
    await JSONResponse(answer)(scope, receive, send)
