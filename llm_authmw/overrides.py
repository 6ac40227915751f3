"""Headers that make some apps act on another method or path than the one that was judged."""

from typing import Any, Final

from llm_authmw.header_names import ORDINARY, fold

OVERRIDES: Final = frozenset(
    {
        b"x-http-method",
        b"x-http-method-override",
        b"x-method-override",
        b"x-original-method",
        b"x-original-uri",
        b"x-original-url",
        b"x-rewrite-url",
    }
)
"""Their names, as `fold` gives them."""


def remove_overrides(scope: Any) -> None:
    """Take them out of a scope, in every spelling. The list of headers is not touched: somebody outside may hold the same one."""
    headers = scope["headers"]
    for name, _ in headers:
        if name not in ORDINARY and fold(name) in OVERRIDES:
            scope["headers"] = [line for line in headers if fold(line[0]) not in OVERRIDES]
            return
