"""Who may do what: every principal, on every route, with every model, as a table that shows a change as a diff."""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from llm_authmw.errors import ConfigurationError
from llm_authmw.names import Names, name_problem, names
from llm_authmw.principal import Principal
from llm_authmw.testing.answers import Answer
from llm_authmw.testing.bench import Bench, Guarding

_NO_MODEL: Final = "(no model)"
_NOT_ASKED: Final = "·"
_CELL: Final = 26
"""Characters of a column. It does not depend on what the cells say, so that one that changes leaves the other lines as they are."""


@dataclass(frozen=True, repr=False)
class Matrix:
    """Who may do what. Made by `matrix`; its text is the table.

    Attributes:
        cells: The answers, by principal, route and model; the model is None where the route has no place for one.
    """

    cells: Mapping[tuple[str, str, str | None], Answer]

    def __str__(self) -> str:
        models = sorted(dict.fromkeys(model for _, _, model in self.cells), key=lambda model: model is None)
        rows = list(dict.fromkeys((principal, route) for principal, route, _ in self.cells))
        lines = [["principal", "route", *(model or _NO_MODEL for model in models)]]
        for principal, route in rows:
            asked = [self.cells.get((principal, route, model)) for model in models]
            lines.append([principal, route, *(_NOT_ASKED if answer is None else answer.verdict for answer in asked)])
        widths = [max(len(line[0]) for line in lines), max(len(line[1]) for line in lines)]
        widths += [max(len(name), _CELL) for name in lines[0][2:]]
        return "\n".join("  ".join(f"{text:{width}}" for text, width in zip(line, widths, strict=True)).rstrip() for line in lines)

    def __repr__(self) -> str:
        return f"<Matrix of {len(self.cells)} answers, {sum(answer.allowed for answer in self.cells.values())} of them allowed>"

    def diff(self, kept: str) -> str:
        """Return what has changed since the table was kept, as a unified diff; nothing where nothing has.

        Args:
            kept: The text of the table then. How many blanks stand between its columns says nothing.
        """
        then, now = _rows(kept), _rows(str(self))
        return "\n".join(difflib.unified_diff(then, now, "kept", "now", lineterm="", n=0))


async def matrix(guard: Guarding, *, principals: Mapping[str, Principal | None], routes: Names, models: Names = ()) -> Matrix:
    """Ask for every principal, on every route, with every model.

    A route that has no place for a model is asked once.

    Args:
        guard: What is asked; see `call`.
        principals: Who calls, under a name for the table; None is a caller who shows no credential.
        routes: What they call, such as `POST /v1/chat/completions` or `POST /model/{model}/invoke`.
        models: Which models they name.

    Raises:
        ConfigurationError: there is nobody or nothing to ask for, a model would never be named, or as `call`.
        Exception: what a layer raises.
    """
    targets, wanted = names("routes", routes), names("models", models)
    if not principals or not targets:
        raise ConfigurationError("routes" if principals else "principals", "is empty, so nothing would be asked")
    for name in principals:
        problem = name_problem(name)
        if problem is not None:
            raise ConfigurationError("principals", f"has a name that {problem}")
    bench = Bench(guard)
    asked = {target: wanted if wanted and bench.place_of(target) is not None else (None,) for target in targets}
    if wanted and not any(model for some in asked.values() for model in some):
        raise ConfigurationError("models", "would never be named: no route has a place for one")
    cells = {
        (name, target, model): await bench.ask(target, as_=principal, model=model)
        for name, principal in principals.items()
        for target, some in asked.items()
        for model in some
    }
    return Matrix(cells)


def _rows(text: str) -> list[str]:
    return [re.sub(r" {2,}", "  ", line.rstrip()) for line in text.strip().splitlines()]
