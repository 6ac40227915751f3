"""What the records say of the show: who asked for what, that nobody has changed it, and what it came to."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from clients import CLAUDE, DEARER_CLAUDE, Seen
from command_line import Operator
from screen import Scene, Screen

COPY: Final = "copy.jsonl"
PUBLIC_KEY: Final = "audit.pub"
_CHARGE: Final = re.compile(r'(?<="charge":\{"amount":)[1-9]')


def records(screen: Screen, operator: Operator, *, sent: int, answered: int) -> Iterator[Scene]:
    """Show the record of a call that was denied and of one that was not, that an edit is found, and the sums."""
    told = operator.run(f"audit search --model {DEARER_CLAUDE}", show=True)
    yield _of_command("the denied call", "one record: denied, 403 model_not_allowed", _one(told, "denied", "403 model_not_allowed"))
    told = operator.run(f"audit search --model {CLAUDE} --limit 1", show=True)
    yield _of_command("the last good one", "one record: allowed, 200", _one(told, "allowed", "200"))

    code, told = operator.verify(f"--key {PUBLIC_KEY}")
    yield _of_command("nothing was changed", "as they were written", _verdict(told), (0, code))
    line = _make_cheaper(operator.export(COPY))
    screen.output(f"Somebody makes a charge in line {line} of the copy smaller, by one digit.")
    code, told = operator.verify(f"--key {PUBLIC_KEY} --file {COPY}")
    found = re.search(rf"(?m)^(\w+) +{re.escape(COPY)}:(\d+)", told)
    seen = f"line {found[2]} is {found[1]}; {_verdict(told)}" if found else _verdict(told)
    yield _of_command("one digit was changed", f"line {line} is edited; NOT as they were written", seen, (1, code))

    told = operator.run("usage --by team --by model", show=True)
    total = told.splitlines()[-1].split()
    expected = f"{sent} requests, {sent - answered} of them denied"
    yield _of_command("what it came to", expected, f"{total[1]} requests, {total[2]} of them denied")


def _of_command(what: str, expected: str, seen: str, codes: tuple[int, int] = (0, 0)) -> Scene:
    return Scene("operator", what, *(Seen(code, body=body) for code, body in zip(codes, (expected, seen), strict=True)))


def _one(table: str, outcome: str, answer: str) -> str:
    _, *rows = table.splitlines() or [""]
    if len(rows) == 1 and f" {outcome} " in rows[0] and f" {answer} " in rows[0]:
        return f"one record: {outcome}, {answer}"
    return f"{len(rows)} records"


def _verdict(report: str) -> str:
    return report.splitlines()[-1].removeprefix("verdict").strip()


def _make_cheaper(copy: Path) -> int:
    """Make the last charge in a file of records smaller by its first digit; return in which line that is, 0 for none."""
    lines = copy.read_text(encoding="ascii").splitlines(keepends=True)
    charged = [number for number, line in enumerate(lines, start=1) if _CHARGE.search(line)]
    if not charged:
        return 0
    lines[charged[-1] - 1] = _CHARGE.sub("0", lines[charged[-1] - 1])
    copy.write_text("".join(lines), encoding="ascii")
    return charged[-1]
