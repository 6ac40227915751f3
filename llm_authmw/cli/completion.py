"""Shell completion: the scripts, and the ids of keys and revocations that a store knows."""

from typing import Final

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ShellComplete, ZshComplete

from llm_authmw.cli.output import printable
from llm_authmw.cli.target import Target
from llm_authmw.errors import AuthmwError

PROGRAM: Final = "llm-authmw"
VARIABLE: Final = "_LLM_AUTHMW_COMPLETE"
"""The environment variable through which a shell asks for completions."""

_SHELLS: Final[dict[str, type[ShellComplete]]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


def complete_key_id(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the ids that begin with what was typed. Says nothing at all where there is no store, or it has trouble."""
    try:
        target = Target(context)
        page = target.run(lambda store: store.keys.list(search=incomplete or None, size=50))
    except (AuthmwError, OSError):
        return []
    return [
        CompletionItem(record.id, help=printable(record.name or record.state(target.now)))
        for record in page.keys
        if record.id.startswith(incomplete)
    ]


def complete_revocation_id(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the ids of revocations that stand and begin with what was typed, among the newest thousand; like `complete_key_id`."""
    try:
        page = Target(context).run(lambda store: store.revocations.list(size=1000))
    except (AuthmwError, OSError):
        return []
    return [
        CompletionItem(revocation.id, help=printable(f"{revocation.kind} {revocation.value}"))
        for revocation in page.revocations
        if revocation.id.startswith(incomplete)
    ]


@click.command(
    epilog="""\b
Put one of these into your shell's start file:
  bash   eval "$(llm-authmw completion bash)"       ~/.bashrc
  zsh    eval "$(llm-authmw completion zsh)"        ~/.zshrc, after compinit
  fish   llm-authmw completion fish | source        ~/.config/fish/config.fish"""
)
@click.argument("shell", type=click.Choice(tuple(_SHELLS)))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the ids of keys and revocations.
    """
    click.echo(_SHELLS[shell](context.find_root().command, {}, PROGRAM, VARIABLE).source(), nl=False)
