"""The app behind the layers: it says who is calling, and knows nothing of how that was found out."""

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def me(request: Request) -> Response:
    return Response(msgspec.json.encode(request.user), media_type="application/json")


app = Starlette(routes=[Route("/v1/me", me)])
