"""An engine of the user's own that is asked about a request: what it may be, and what its answer may be."""

import inspect
from typing import Any, Final

from llm_authmw.authz.access import AccessRequest, Authorizer, AuthorizerFunction
from llm_authmw.callbacks import DEFAULT_DEADLINE, Callback
from llm_authmw.errors import ConfigurationError, Denial

_OPTION: Final = "authorizer"
_DEADLINE: Final = "authorizer_deadline"


class Engine:
    """An `Authorizer`, or a function in the place of one, sync or async.

    Args:
        given: Which.
        deadline: Seconds that an answer may take; 5 where it is left out.

    Attributes:
        needs_call: Whether it looks at what the request asks for, so that the body has to be read for it. A function always does.

    Raises:
        ConfigurationError: it is neither, does not say whether it needs the call, or the deadline is no number of seconds.
    """

    __slots__ = ("_ask", "needs_call")

    def __init__(self, given: Authorizer | AuthorizerFunction, *, deadline: float | None) -> None:
        asked: Any = given
        self.needs_call: Final[bool] = _needs_call(asked)
        try:
            self._ask: Final = Callback(
                _OPTION, getattr(asked, "authorize", asked), deadline=DEFAULT_DEADLINE if deadline is None else deadline
            )
        except ConfigurationError as error:
            raise ConfigurationError(_DEADLINE if error.option == "deadline" else _OPTION, error.problem) from None

    def __repr__(self) -> str:
        return repr(self._ask)

    async def judge(self, request: AccessRequest) -> Denial | None:
        """Ask; return why the request is not allowed, or None.

        Raises:
            TypeError: the answer is none.
            TimeoutError: there is none within the deadline.
            Exception: whatever the engine raises.
        """
        try:
            answer = await self._ask(request)
        except Denial as raised:
            return raised
        # No other value is true enough, so that a forgotten `await` or a list of problems lets nobody through.
        if answer is True:
            return None
        if answer is False:
            return Denial("not_authorized", rule=repr(self))
        if isinstance(answer, Denial):
            return answer
        raise TypeError(f"an authorizer returned {type(answer).__name__} instead of True, False or a Denial")


def _needs_call(asked: Any) -> bool:
    if inspect.isclass(asked):
        raise ConfigurationError(_OPTION, f"takes an object, and {asked.__name__} is a class")
    if not hasattr(asked, "authorize"):
        return True
    needs = getattr(asked, "needs_call", None)
    if not isinstance(needs, bool):
        raise ConfigurationError(_OPTION, "has needs_call, True or False: whether it looks at what the request asks for")
    return needs
