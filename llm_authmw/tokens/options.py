"""Options that several objects here have: one check each. Every one raises `ConfigurationError` with the option's name."""

import math
from typing import Any

from llm_authmw.errors import ConfigurationError
from llm_authmw.names import name_problem


def name(option: str, value: Any) -> str:
    """Return a usable name."""
    problem = name_problem(value) if isinstance(value, str) else "takes a text"
    if problem is not None:
        raise ConfigurationError(option, problem)
    return str(value)


def seconds(option: str, value: Any, *, most: float = math.inf) -> float:
    """Return a number of seconds that is not below zero."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or value == math.inf:
        raise ConfigurationError(option, "is a number of seconds, not below zero" + (f", at most {most:g}" if most < math.inf else ""))
    return float(value)


def seconds_above_zero(option: str, value: Any) -> float:
    """Return a number of seconds above zero."""
    if seconds(option, value) == 0:
        raise ConfigurationError(option, "is a number of seconds above zero")
    return float(value)


def count(option: str, value: Any) -> int:
    """Return a whole number above zero."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(option, "is a whole number above zero")
    return value
