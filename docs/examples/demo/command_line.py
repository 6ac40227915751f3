"""The operator: somebody at the command line, on the machine of the proxy."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from screen import Screen


class Operator:
    """Somebody at the command line.

    Args:
        screen: Where commands and what they write are shown.
        directory: Where they are run.
        environment: What is set besides what is set anyway.

    Attributes:
        directory: Where they are run.
    """

    def __init__(self, screen: Screen, directory: Path, environment: Mapping[str, str]) -> None:
        self._screen: Final = screen
        self.directory: Final = directory
        self._environment: Final = {**os.environ, **environment}

    def run(self, line: str, *, show: bool = False) -> str:
        """Run `llm-authmw` with these arguments, show the command, and return what it wrote."""
        done = self._run(line, show=show)
        if done.returncode != 0:
            raise SystemExit(f"llm-authmw {line} exited with {done.returncode}:\n{done.stderr}")
        return done.stdout

    def verify(self, options: str) -> tuple[int, str]:
        """Have the records verified; return the exit code, which says whether they are as they were written, and what was found."""
        done = self._run(f"audit verify {options}", show=True)
        return done.returncode, done.stdout

    def export(self, name: str) -> Path:
        """Have all records written into a file, and return where it is."""
        path = self.directory / name
        path.write_text(self._run("audit export", shown=f"audit export > {name}").stdout, encoding="ascii")
        return path

    def mint(self, options: str) -> tuple[str, str]:
        """Make a key; return its id and its text."""
        made: dict[str, Any] = json.loads(self.run(f"keys create {options} --json"))
        key: str = made["key"]
        key_id: str = made["id"]
        self._screen.output(f"{key[:24]}…{key[-4:]}, shown once and kept as an HMAC")
        return key_id, key

    def _run(self, line: str, *, shown: str | None = None, show: bool = False) -> subprocess.CompletedProcess[str]:
        self._screen.command(f"llm-authmw {shown or line}")
        command = [sys.executable, "-m", "llm_authmw.cli", *shlex.split(line)]
        done = subprocess.run(command, cwd=self.directory, env=self._environment, capture_output=True, text=True, check=False, timeout=60)
        if show:
            self._screen.output(done.stdout)
        return done
