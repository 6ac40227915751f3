"""The inventory, taken once: when the app has started and has all its routes, or at the first request where no lifespan arrives."""

from typing import Final, Literal, TypeAlias, get_args

from llm_authmw.asgi import ASGIApp, Message, Receive, Scope, Send
from llm_authmw.context import logger
from llm_authmw.errors import ConfigurationError
from llm_authmw.inventory.report import route_inventory

InventoryMode: TypeAlias = Literal["error", "warn", "off"]


class StartUpInventory:
    """What a router of policies finds wrong with the routes of its app.

    Args:
        router: The router, whose app is looked into.
        mode: "error" refuses the app for errors, and logs warnings; "warn" logs both; "off" does not look.

    Raises:
        ConfigurationError: `mode` is none of these.
    """

    def __init__(self, router: ASGIApp, mode: InventoryMode) -> None:
        if mode not in get_args(InventoryMode):
            raise ConfigurationError("inventory", "is 'error', 'warn' or 'off'")
        self.mode: Final[InventoryMode] = mode
        self._router: Final = router
        self._taken = mode == "off"
        self._refusal: ConfigurationError | None = None

    def refusal(self) -> ConfigurationError | None:
        """Return why no request may go on, or None. The first call takes the inventory, unless a lifespan has."""
        if not self._taken:
            self.take()
        return self._refusal

    def after(self, app: ASGIApp) -> ASGIApp:
        """Return an app that has the lifespan of another one, and takes the inventory once that has started.

        An app that the inventory refuses is stopped again, and the server is told why.
        """
        return app if self.mode == "off" else _Started(app, self)

    def take(self) -> ConfigurationError | None:
        """Take the inventory, whether or not it has been taken, and return why no request may go on, or None."""
        self._taken, self._refusal = True, None
        inventory = route_inventory(self._router)
        for problem in inventory.grave("warning"):
            if problem.level == "warning" or self.mode == "warn":
                logger.warning("%s", problem)
        if self.mode == "error":
            try:
                inventory.check("error")
            except ConfigurationError as error:
                logger.error("%s", error)
                self._refusal = error
        return self._refusal


class _Started:
    """An app's lifespan, with the inventory between its start and the server's knowing of it."""

    def __init__(self, app: ASGIApp, inventory: StartUpInventory) -> None:
        self._app: Final = app
        self._inventory: Final = inventory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answered = False
        refusal: ConfigurationError | None = None

        async def hear() -> Message:
            return await receive() if refusal is None else {"type": "lifespan.shutdown"}

        async def say(message: Message) -> None:
            nonlocal answered, refusal
            if not answered and message["type"] == "lifespan.startup.complete":
                refusal = self._inventory.take()
            answered = True
            if refusal is None:
                await send(message)

        try:
            await self._app(scope, hear, say)
        except Exception as error:
            if not answered:
                # It has no lifespan, and all its routes nevertheless.
                refusal = self._inventory.take()
            if refusal is None:
                raise
            logger.debug("the app that was refused has not stopped well: %s", type(error).__name__)
        if refusal is not None:
            await send({"type": "lifespan.startup.failed", "message": f"{type(refusal).__name__}: {refusal}"})
