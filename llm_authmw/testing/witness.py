"""An app that says who is calling, to put behind the layers of a test."""

from typing import Any, Final

import msgspec

from llm_authmw.asgi import Receive, Scope, Send


class Witness:
    """An app that says who is calling, and remembers everything that reached it.

    A request is answered with 200 and the principal's subject and method as JSON. A socket is accepted; each message is answered
    with the subject. It has no lifespan.

    Attributes:
        scopes: The scopes of the requests and sockets that reached it, the oldest first.
    """

    def __init__(self) -> None:
        self.scopes: Final[list[Any]] = []

    @property
    def subjects(self) -> list[str | None]:
        """Who called, each time; None where no layer had said so."""
        return [None if (user := scope.get("user")) is None else user.subject for scope in self.scopes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request or socket.

        Raises:
            NotImplementedError: it is a lifespan.
        """
        if scope["type"] == "lifespan":
            raise NotImplementedError("a witness has no lifespan")
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await self._converse(receive, send)
            return
        user = scope.get("user")
        body = msgspec.json.encode({"subject": user and user.subject, "method": user and user.method})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _converse(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": str(self.subjects[-1])})
