"""The program as a whole: its verbs, and how it ends."""

import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from llm_authmw import __version__
from llm_authmw.cli.accounts import accounts
from llm_authmw.cli.audit import audit
from llm_authmw.cli.budgets import budgets
from llm_authmw.cli.completion import PROGRAM, VARIABLE, completion
from llm_authmw.cli.explain import explain
from llm_authmw.cli.failures import error_object, fail, fail_usage
from llm_authmw.cli.keys import keys
from llm_authmw.cli.ledger import ledger
from llm_authmw.cli.limits import limits
from llm_authmw.cli.options import store_option
from llm_authmw.cli.prices import prices
from llm_authmw.cli.revoke import revoke
from llm_authmw.cli.routes import routes
from llm_authmw.cli.usage import usage
from llm_authmw.errors import AuthmwError

DONE: Final = 0
REFUSED: Final = 1
WRONG_USAGE: Final = 2
INTERRUPTED: Final = 130
"""What shells give for a process that Ctrl-C ended: 128 and the signal's number."""


class Program(click.Group):
    """The root of the commands; turns every failure into an exit code and one line, never a traceback."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and end the process."""
        given: Sequence[str] | None = args[0] if args else kwargs.get("args")
        arguments = list(sys.argv[1:] if given is None else given)
        as_json = "--json" in arguments
        code = REFUSED
        try:
            done = super().main(arguments, PROGRAM, VARIABLE, standalone_mode=False)
            code = done if isinstance(done, int) else DONE
        except click.Abort:
            code = INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            code = WRONG_USAGE
        except click.UsageError as error:
            fail_usage(error, arguments, as_json=as_json)
            code = WRONG_USAGE
        except AuthmwError as error:
            fail(error_object(error), as_json=as_json)
        except OSError as error:  # a file that cannot be read, a full disk; a broken pipe ends quietly in click
            problem = f"{error.filename or 'the output'}: {error.strerror or type(error).__name__}"
            fail({"code": "failed", "message": problem}, as_json=as_json)
        sys.exit(code)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  llm-authmw keys create --name ci --team blue --expires 30d
  llm-authmw keys list --unused-for 30d
  llm-authmw accounts block team blue
  llm-authmw budgets show team blue
  llm-authmw revoke subject https://id.example.com ann
  llm-authmw routes myapp:app
  llm-authmw audit search --principal ada --since 24h
  llm-authmw usage --by team --since 30d
  llm-authmw explain myapp:guard 'POST /v1/chat/completions' --model o3 --user ada --role member

Exit codes: 0 done, 1 refused or failed, 2 a wrong command line, 130 Ctrl-C.""",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@store_option
def program() -> None:
    """Manage the API keys, accounts, budgets and revoked tokens of an LLM proxy that llm_authmw guards.

    See also what guards it, what happened, and what was used.
    """


program.add_command(keys)
program.add_command(accounts)
program.add_command(budgets)
program.add_command(limits)
program.add_command(ledger)
program.add_command(prices)
program.add_command(revoke)
program.add_command(routes)
program.add_command(explain)
program.add_command(audit)
program.add_command(usage)
program.add_command(completion)
