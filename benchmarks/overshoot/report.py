"""The table: one line for each thing that was found, one column for each guard."""

from collections.abc import Callable, Sequence
from typing import Final

from benchmarks.overshoot.runs import Found

NONE: Final = "–"


def table(found: Sequence[Found]) -> str:
    """Return what was found as a Markdown table, so that a page can show it as it is."""
    rows = [(name, *(value(one) for one in found)) for name, value in _ROWS]
    head = ("", *(one.name for one in found))
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ("---", *("---:" for _ in found)), *rows))


def dollars(nano: int) -> str:
    """Return an amount with all its nano-dollars that are not zero."""
    text = f"{abs(nano) / 1e9:.9f}".rstrip("0")
    return f"{'-' if nano < 0 else ''}${text}{'00'[: max(0, 2 - len(text.partition('.')[2]))]}"


def _share(nano: int, limit: int) -> str:
    return f"{100 * nano / limit:.2f} %"


def _number(number: int | None) -> str:
    return NONE if number is None else f"{number}"


def _beyond(found: Found) -> str:
    beyond = found.spent - found.limit
    return f"{dollars(beyond)} ({_share(beyond, found.limit)})" if beyond > 0 else "0"


def _part(found: Found, kind: str) -> str:
    return NONE if found.books.charges is None else _share(found.beyond.get(kind, 0), found.limit)


_ROWS: Final[tuple[tuple[str, Callable[[Found], str]], ...]] = (
    ("requests: served", lambda found: _number(found.ends.get("served", 0))),
    ("the client left", lambda found: _number(found.ends.get("left", 0))),
    ("failed, of these with 503", lambda found: f"{found.ends.get('failed', 0)}, {found.unavailable}"),
    ("refused for the budget", lambda found: _number(found.ends.get("refused", 0))),
    ("workers killed, store restarted", lambda found: f"{found.kills}, {found.restarts}"),
    ("budget", lambda found: dollars(found.limit)),
    ("spent, by the upstream's own notes", lambda found: f"{dollars(found.spent)} ({_share(found.spent, found.limit)})"),
    ("**spent over the budget**", _beyond),
    ("the guard's ledger says", lambda found: f"{dollars(found.books.used)} ({_share(found.books.used, found.limit)})"),
    ("**drift**: ledger, less all charges", lambda found: dollars(found.books.used - found.books.charged)),
    ("charged beyond the truth: complete answers", lambda found: _part(found, "answered")),
    ("answers without usage, whose estimates stand", lambda found: _part(found, "no usage")),
    ("broken off: what was seen, and the bound of the input", lambda found: _part(found, "broken off")),
    ("under way in a worker that was killed: the estimates", lambda found: _part(found, "killed")),
    ("requests charged less than they cost", lambda found: NONE if found.books.charges is None else f"{len(found.less)}"),
    (
        "**usable**: charged when it refused with nothing in flight",
        lambda found: _share(found.books.charged, found.limit) if found.used_up else "it never refused",
    ),
    ("**reservations left behind**", lambda found: _number(found.books.left_behind)),
    ("seconds until all clients had given up", lambda found: f"{found.seconds:.0f}"),
    ("refused though there was room, by the truth", lambda found: _number(found.false_refusals)),
    ("refused though there was room, by its own books", lambda found: _number(found.books.false_refusals)),
)
