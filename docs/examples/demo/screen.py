"""How the demo looks on a terminal, and in a log."""

import json
import sys
from typing import Any, Final, NamedTuple

from clients import Seen
from rich.console import Console, Group
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

_WIDEST: Final = 110
_COLUMNS: Final = (1, 9, 26, 3)


class Scene(NamedTuple):
    """One thing that is shown.

    Attributes:
        client: Who called.
        call: What was called.
        expected: What the client should have seen.
        seen: What it saw.
    """

    client: str
    call: str
    expected: Seen
    seen: Seen

    @property
    def met(self) -> bool:
        """Whether it went as expected; the wording of an error is not compared."""
        return self.expected == (self.seen._replace(body="") if self.seen.error else self.seen)


class Screen:
    """A terminal that counts what went as expected, and what did not."""

    def __init__(self) -> None:
        stdout: Any = sys.stdout
        if hasattr(stdout, "reconfigure"):
            stdout.reconfigure(errors="replace")  # a terminal that knows no check mark shows a question mark
        self._console: Final = Console(highlight=False)
        self._console.width = min(self._console.width, _WIDEST) if self._console.is_terminal else _WIDEST
        self.met = 0
        self.unmet = 0

    def title(self, *lines: str) -> None:
        """Open the show."""
        self._console.print(Panel(Group(*lines), title="llm_authmw", title_align="left", border_style="cyan", padding=(0, 1)))

    def section(self, name: str) -> None:
        """Begin a part of the show."""
        self._console.print()
        self._console.print(Rule(Text(name, "bold"), align="left", style="dim"))

    def command(self, line: str) -> None:
        """Show a command that is run."""
        self._console.print(Text.assemble(("$ ", "cyan"), (line, "bold")), soft_wrap=True)

    def output(self, text: str) -> None:
        """Show what a command wrote."""
        for line in text.rstrip().split("\n"):
            self._console.print(Text(f"  {line}", "dim"), soft_wrap=True)

    def scene(self, scene: Scene) -> None:
        """Show one call: what was expected of it is marked as met, or not."""
        if scene.met:
            self.met += 1
            mark = Text("✓", "bold green")
        else:
            self.unmet += 1
            mark = Text("✗", "bold red")
        seen = scene.seen
        row = Table.grid(padding=(0, 1), expand=True)
        for width in _COLUMNS:
            row.add_column(width=width)
        row.add_column(ratio=1)
        status = Text(str(seen.status), "green" if seen.status < 400 else "yellow")
        if seen.error:
            told = Text.assemble((seen.error, "yellow"), "\n", ("x-authmw-reason: ", "dim"), seen.reason)
        else:
            room = self._console.width - sum(_COLUMNS) - len(_COLUMNS)
            gap = "  " if len(seen.body) + 2 + len(seen.note) <= room else "\n"
            told = Text.assemble(seen.body, gap if seen.note else "", (seen.note, "dim"))
        row.add_row(mark, Text(scene.client, "bold"), scene.call, status, told)
        self._console.print(row)
        if seen.error:
            self._console.print(Padding(Text(_spaced(seen.body), "dim"), (0, 0, 0, 2)))
            if seen.note:
                self._console.print(Padding(seen.note, (0, 0, 0, 2)))
        if not scene.met:
            expected = " ".join(str(part) for part in scene.expected if part)
            self._console.print(Padding(Text(f"expected: {expected}", "red"), (0, 0, 0, 2)))

    def summary(self) -> None:
        """Say how it went."""
        self._console.print()
        total = self.met + self.unmet
        if self.unmet:
            self._console.print(Text(f"✗ {self.unmet} of {total} did not go as expected.", "bold red"))
        else:
            self._console.print(Text(f"✓ All {total} went as expected.", "bold green"))

    def to_copy(self, caption: str, line: str) -> None:
        """Show a line to copy: it is not broken, however long it is."""
        self._console.print()
        self._console.print(Text(caption, "dim"))
        self._console.print(Text(line), soft_wrap=True)

    def remark(self, text: str) -> None:
        """Show a remark."""
        self._console.print()
        self._console.print(Text(text))


def _spaced(body: str) -> str:
    try:
        return json.dumps(json.loads(body))  # with blanks, where a line may break
    except ValueError:
        return body
