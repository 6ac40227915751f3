"""`llm-authmw`: keys and accounts from the command line."""

import json
import sys


def main() -> None:
    """Run the program and end the process: 0 for done, 1 for refused or failed, 2 for a wrong command line, 130 for Ctrl-C."""
    try:
        from llm_authmw.cli.program import program  # noqa: PLC0415 - click and rich come with an extra, and may be missing
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        problem = "llm-authmw needs an optional dependency: pip install 'llm-authmw[server]'"
        sys.exit(json.dumps({"error": {"code": "missing_extra", "message": problem}}) if "--json" in sys.argv else problem)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        # A name that the terminal's encoding cannot say is printed with escapes, as Python does on stderr.
        reconfigure(errors="backslashreplace")
    program.main()
