"""The app that a verb looks at: imported from where the command runs, as a server would."""

import contextlib
import importlib
import inspect
import sys
import traceback
from pathlib import Path
from typing import Any, Final

import click

from llm_authmw.cli.options import Option
from llm_authmw.errors import AuthmwError, InvalidValueError, NotFoundError
from llm_authmw.stack import Stack

factory_option: Final[Option] = click.option(
    "--factory", is_flag=True, help="What is named is a function that returns it, and takes nothing."
)


class AppImportError(AuthmwError):
    """The module that has the app could not be imported, or its factory did not return one."""


def load(name: str, *, factory: bool) -> Any:
    """Return what `MODULE:NAME` names. What is printed meanwhile goes to stderr: the answer is alone on stdout.

    Args:
        name: A module, a colon, and an attribute of it, or one of that.
        factory: Whether to call it.

    Raises:
        InvalidValueError: `name` is not written so.
        NotFoundError: there is no such module or attribute.
        AppImportError: the module, or the factory, raises.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise InvalidValueError(f"{name!r} is not MODULE:NAME, such as myapp:app")
    # As `python -m` does it: a script of an environment has its own directory there, and not the one that it is called from.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with contextlib.redirect_stdout(sys.stderr):
        found: Any = _imported(module_name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                raise NotFoundError(f"{module_name} has no {attribute}")
            found = getattr(found, part)
        return _made(found, name) if factory else found


def app_problem(app: Any) -> str | None:
    """Say why something is no ASGI app, or None."""
    if isinstance(app, Stack):
        return "is a Stack, which is around no app yet: name what Stack(…)(app) returns"
    if inspect.isclass(app) or not callable(app):
        return f"is {'a class' if inspect.isclass(app) else type(app).__name__}, and no ASGI app"
    try:
        inspect.signature(app).bind({}, None, None)
    except TypeError:
        return "takes something else than scope, receive and send: is it a factory? Then add --factory"
    except ValueError:  # what is written in C may have no signature
        return None
    return None


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise NotFoundError(f"there is no module {error.name} in {Path.cwd()} or among the installed ones") from None
        raise AppImportError(f"{name} cannot be imported: {_told(error)}") from error
    except (Exception, SystemExit) as error:
        raise AppImportError(f"{name} cannot be imported: {_told(error)}") from error


def _made(factory: Any, name: str) -> Any:
    try:
        return factory()
    except (Exception, SystemExit) as error:
        raise AppImportError(f"{name} raises: {_told(error)}") from error


def _told(error: BaseException) -> str:
    """Return what was raised, and where the user's own code was then."""
    frames = traceback.extract_tb(error.__traceback__)
    where = next((frame for frame in reversed(frames) if Path(frame.filename).is_relative_to(Path.cwd())), None)
    place = "" if where is None else f", at {where.filename}:{where.lineno}"
    return f"{type(error).__name__}: {error}{place}"
