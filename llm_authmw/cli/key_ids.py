"""The id of a key on a command line, where its text must not stand."""

import click

from llm_authmw.errors import InvalidValueError
from llm_authmw.keys.format import parse_key


def checked_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """Return what was given, if it is not the text of a key.

    Raises:
        InvalidValueError: it is one.
    """
    found = None if value is None else parse_key(value)
    if found is not None:
        # It stands in the shell's history and was in the process list: say so without printing it once more.
        raise InvalidValueError(f"give the key's id, {found}, and not its text, which other users of this machine can see there")
    return value
