"""An app that takes all that it is sent, and remembers it to the byte."""

from typing import Any, Final

from llm_authmw.asgi import Receive, Scope, Send


class Recorder:
    """An app for tests of what passes a layer, and in which form.

    A request is read to its end and answered with 200 and `{}`. A socket is accepted, and each of its messages is answered with
    `heard`. It has no lifespan.

    Attributes:
        scopes: The scopes of the requests and sockets that reached it, the oldest first.
        bodies: The bodies of the requests; what had come of one whose client left.
        frames: The messages of the sockets: each a text or bytes.
        ends: How each socket ended, by its close code.
    """

    def __init__(self) -> None:
        self.scopes: Final[list[Any]] = []
        self.bodies: Final[list[bytes]] = []
        self.frames: Final[list[str | bytes]] = []
        self.ends: Final[list[int]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take one request or socket.

        Raises:
            NotImplementedError: it is a lifespan.
        """
        if scope["type"] == "lifespan":
            raise NotImplementedError("a recorder has no lifespan")
        self.scopes.append(scope)
        if scope["type"] == "websocket":
            await self._listen(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}", "more_body": False})

    async def _listen(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            text = message.get("text")
            self.frames.append(message["bytes"] if text is None else text)
            await send({"type": "websocket.send", "text": "heard"})
        self.ends.append(message["code"])
