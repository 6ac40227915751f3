"""What a test needs that may not be installed."""

import importlib.util
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).parent / "node_modules"
# Debian keeps servers where the search path of people who are not root does not lead.
_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"])


def program(name: str) -> str | None:
    """Return where a program is, or None."""
    return shutil.which(name, path=_PATH)


def need(*packages: str, npm: Sequence[str] = (), programs: Sequence[str] = (), files: Mapping[str, str] | None = None) -> None:
    """Skip the test if something is missing, and fail it in CI, which installs all of it.

    Args:
        packages: Python packages, by the names that are imported.
        npm: Packages of `tests/peers/package.json`, which `npm ci --prefix tests/peers` installs.
        programs: Programs of the system.
        files: Packages of the system that have no program, each with the pattern of a file that it has, from the root on.
    """
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    missing += [f"npm package {name} (.venv/bin/npm ci --prefix tests/peers)" for name in npm if not (NODE_MODULES / name).is_dir()]
    missing += [f"the program {name}" for name in programs if program(name) is None]
    missing += [f"the package {name}" for name, pattern in (files or {}).items() if not any(Path("/").glob(pattern))]
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"needs what is not installed: {', '.join(missing)}")
