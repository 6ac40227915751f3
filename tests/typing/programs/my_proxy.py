"""The app that the programs guard."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route


async def health(request: Request) -> Response:
    return PlainTextResponse("fine" if request.method == "GET" else "")


app = Starlette(routes=[Route("/health", health)])
