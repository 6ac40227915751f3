"""The lifespan of an app: its start-up, the time in which it serves, its shutdown."""

from typing import Any, Final

from llm_authmw.asgi import ASGIApp
from llm_authmw.testing.asgi.conversation import DEFAULT_TIME_LIMIT, Conversation
from llm_authmw.testing.asgi.rules import ProtocolError

_PHASES: Final = ("startup", "shutdown")


class LifespanFailed(Exception):  # noqa: N818 - the name of the message that it stands for
    """The app answered a lifespan event with `lifespan.startup.failed` or `lifespan.shutdown.failed`.

    Attributes:
        phase: "startup" or "shutdown".
        message: What the app said.
    """

    def __init__(self, phase: str, message: str) -> None:
        super().__init__(f"lifespan.{phase}.failed: {message}")
        self.phase = phase
        self.message = message


class Lifespan(Conversation):
    """One lifespan of an app. Made by `lifespan`.

    Attributes:
        state: What the app left for its requests; give them a copy, as servers do: `scope={"state": dict(life.state)}`.
        supported: Whether the app knows lifespans. Servers go on without, and so does this, if `reraise` is off.
    """

    def __init__(self, app: ASGIApp, scope: dict[str, Any], *, time_limit: float, reraise: bool) -> None:
        super().__init__(app, scope, time_limit=time_limit, reraise=reraise)
        self.state: dict[str, Any] = scope["state"]
        self.supported: bool = False
        self._asked = 0
        self._answered = 0
        self._failure: LifespanFailed | None = None

    async def _open(self) -> None:
        await self._ask()
        self.supported = self._answered == 1

    async def _leave(self) -> None:
        if self.supported:
            await self._ask()

    async def _ask(self) -> None:
        phase = _PHASES[self._asked]
        self._asked += 1
        self._give({"type": f"lifespan.{phase}"})
        await self._wait_until(lambda: self._answered == self._asked, f"the app's {phase}")
        if self._failure is not None:
            raise self._failure
        self._fail()

    def _next_event(self) -> dict[str, Any] | None:
        return self._incoming.pop(0) if self._incoming else None

    def _unfinished(self) -> str | None:
        return None if self._answered == len(_PHASES) or self._failure is not None else "before its lifespan was over"

    def _admit(self, kind: str, message: dict[str, Any]) -> bool:
        if self._answered == self._asked or self._failure is not None:
            raise ProtocolError(f"{kind} was sent, and no event is waiting for an answer")
        phase = _PHASES[self._answered]
        if kind == f"lifespan.{phase}.failed":
            self._failure = LifespanFailed(phase, message.get("message", ""))
        elif kind != f"lifespan.{phase}.complete":
            raise ProtocolError(f"{kind} was sent in answer to lifespan.{phase}")
        self._answered += 1
        return False


def lifespan(
    app: ASGIApp, *, state: dict[str, Any] | None = None, time_limit: float = DEFAULT_TIME_LIMIT, reraise: bool = True
) -> Lifespan:
    """Start an app, and shut it down at the end of the block.

    Use it as `async with lifespan(app) as life: …`.

    Args:
        app: The app, or a stack around it.
        state: The state that the app may write into.
        time_limit: Seconds that start-up and shutdown may take, each.
        reraise: Raise in the test what the app raised; if not, an app without lifespan support is served without.
    """
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {} if state is None else state}
    return Lifespan(app, scope, time_limit=time_limit, reraise=reraise)
