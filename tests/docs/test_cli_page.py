"""The command line's page shows what `--help` prints, for every command."""

from collections.abc import Iterator
from pathlib import Path

import click

from llm_authmw.cli.program import program

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def _commands(command: click.Command, parent: click.Context | None = None) -> Iterator[click.Context]:
    # With the settings of the command itself, as when it runs: a child has its parent's.
    name = "llm-authmw" if parent is None else command.name
    context = click.Context(command, parent, name, terminal_width=100, help_option_names=command.context_settings.get("help_option_names"))
    yield context
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            yield from _commands(command.commands[name], context)


def _section() -> str:
    return "\n".join(f"### {context.command_path}\n\n```text\n{context.get_help()}\n```\n" for context in _commands(program))


def test_the_page_shows_the_help_of_every_command() -> None:
    text = PAGE.read_text(encoding="utf-8")
    _, _, shown = text.partition("differs -->\n\n")
    expected = _section()
    assert expected == shown.partition("\n<!-- end of commands -->")[0], f"docs/cli.md: between the comments, write\n\n{expected}"
