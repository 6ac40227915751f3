"""Named groups of models that are limited together."""

from collections.abc import Mapping
from typing import Any, Final, cast

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.names import name_problem, names
from llm_authmw.patterns import ModelPattern, model_allowed

MAX_REMEMBERED: Final = 4096
"""Models whose groups are remembered: clients choose the names."""


class ModelGroups:
    """Which groups a model is in.

    Letters count alike in both cases, since some of those who serve models take them alike, and nobody is to get around a limit by that.

    Args:
        groups: Model patterns under the name of each group.

    Raises:
        ConfigurationError: a group or a pattern is outside its grammar.
    """

    __slots__ = ("_patterns", "_remembered")

    def __init__(self, groups: Any) -> None:
        if not isinstance(groups, Mapping):
            raise ConfigurationError(
                "model_groups", f"takes names and lists of patterns, such as {{'cheap': […]}}, not {type(groups).__name__}"
            )
        self._patterns: Final[dict[str, tuple[ModelPattern, ...]]] = {}
        self._remembered: Final[dict[str, tuple[str, ...]]] = {}
        for name, patterns in cast("Mapping[object, object]", groups).items():
            problem = name_problem(name) if isinstance(name, str) else "is not a text"
            if problem is not None:
                raise ConfigurationError("model_groups", f"has a name that {problem}")
            texts = names(f"model_groups[{name!r}]", patterns)
            if not texts:
                raise ConfigurationError("model_groups", f"has {name!r}, which holds no pattern")
            try:
                self._patterns[str(name)] = tuple(ModelPattern.parse(text.lower()) for text in texts)
            except InvalidValueError as error:
                raise ConfigurationError("model_groups", str(error)) from error

    @property
    def names(self) -> frozenset[str]:
        """The names of the groups."""
        return frozenset(self._patterns)

    def of(self, model: str) -> tuple[str, ...]:
        """Return the names of the groups that a model is in, given in lower case."""
        known = self._remembered.get(model)
        if known is None:
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            known = tuple(name for name, patterns in self._patterns.items() if model_allowed(patterns, model))
            self._remembered[model] = known
        return known
