"""More money for a time: a budget that is raised until a moment, or reset, so that what was used does not count until its window ends.

A budget has one increase at a time. Both are changes of the budget's text, kept and shown like any other.
"""

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from llm_authmw.errors import InvalidValueError
from llm_authmw.quota import Budget, Window

Which: TypeAlias = Window | Literal["ever"]
"""Which of several budgets: the one with this window, or the one for ever."""

BudgetChange: TypeAlias = Callable[[tuple[Budget, ...]], tuple[Budget, ...]]
"""What `KeyService.change_budgets` and `AccountService.change_budgets` are given; it is called again where somebody else was faster."""

FOR_GOOD: Final = 8_993_721_600
"""The end of an increase that has none, in seconds since 1970: the first day of 2255, in which the moments that can be counted end."""


def with_increase(budgets: Sequence[Budget], by: str, *, until: str, now: float, which: Which | None = None) -> tuple[Budget, ...]:
    """Return the budgets, one of them with more money until a moment. What it has more until that very moment is added up.

    Args:
        budgets: All budgets of a key or an account.
        by: How much more, such as `20 usd`.
        until: When that is over: a date in the budget's time zone, at whose beginning it ends, or a time with an offset.
        now: Seconds since 1970.
        which: Which of several budgets.

    Raises:
        InvalidValueError: an argument is outside its grammar, there is no such budget, or it has an increase with another end.
    """
    place, budget = _chosen(budgets, which)
    if "," in by:
        raise InvalidValueError(f"{by!r} is not an amount such as '20 usd'")
    raised = Budget.parse(f"{_without(budget)}, plus {by} until {until}")
    if raised.until is None or raised.until <= now:
        raise InvalidValueError(f"an increase until {until} would be over already")
    if budget.until is not None and budget.until > now:
        if budget.until != raised.until:
            raise InvalidValueError(f"'{budget}' has an increase already: give the same end to add to it, or replace it")
        raised = msgspec.structs.replace(raised, plus=raised.plus + budget.plus)
    return _with(budgets, place, raised)


def with_reset(budgets: Sequence[Budget], used: int, *, until: int | None, now: float, which: Which | None = None) -> tuple[Budget, ...]:
    """Return the budgets, one of them with so much more that its whole amount is left until its window ends.

    It is as it was where that much is left already, so that doing it twice does what doing it once does.

    Args:
        budgets: All budgets of a key or an account.
        used: Nano-dollars that are used in the window.
        until: When the window ends, seconds since 1970; None for a budget for ever, whose increase then has no end.
        now: Seconds since 1970.
        which: Which of several budgets.

    Raises:
        InvalidValueError: there is no such budget, it has an increase that outlasts the window, or more is used than can be added.
    """
    place, budget = _chosen(budgets, which)
    end = FOR_GOOD if until is None else until
    if budget.until is not None and budget.until > now:
        if budget.plus >= used:
            return tuple(budgets)
        if budget.until > end:
            raise InvalidValueError(f"'{budget}' has an increase that goes on when its window ends, and would be lost: replace it")
    return tuple(budgets) if used == 0 else _with(budgets, place, msgspec.structs.replace(budget, plus=used, until=end))


def without_increase(budgets: Sequence[Budget], *, which: Which | None = None) -> tuple[Budget, ...]:
    """Return the budgets, one of them without what it has more for a time.

    Raises:
        InvalidValueError: there is no such budget.
    """
    place, budget = _chosen(budgets, which)
    return _with(budgets, place, _without(budget))


def chosen(budgets: Sequence[Budget], which: Which | None = None) -> Budget:
    """Return the budget that is meant.

    Raises:
        InvalidValueError: there is none, or several and it was not said which.
    """
    return _chosen(budgets, which)[1]


def _chosen(budgets: Sequence[Budget], which: Which | None) -> tuple[int, Budget]:
    if not budgets:
        raise InvalidValueError("it has no budget of its own; give it one first, such as '50 usd/month'")
    found = [(place, budget) for place, budget in enumerate(budgets) if which is None or (budget.window or "ever") == which]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(f"'{budget}'" for budget in budgets)
    if not found:
        raise InvalidValueError(f"it has no budget for {which if which == 'ever' else f'a {which}'}, but {listed}")
    if len({budget.window for _, budget in found}) < len(found):
        raise InvalidValueError(f"it has two budgets for one window: {listed}; write the list anew, with the increase where it is meant")
    raise InvalidValueError(f"it has {listed}: say which by its window")


def _without(budget: Budget) -> Budget:
    return msgspec.structs.replace(budget, plus=0, until=None)


def _with(budgets: Sequence[Budget], place: int, budget: Budget) -> tuple[Budget, ...]:
    return tuple(budget if other == place else one for other, one in enumerate(budgets))
