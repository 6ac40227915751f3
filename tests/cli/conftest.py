import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from llm_authmw.cli.program import program


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("AUTHMW_STORE", "AUTHMW_COUNTERS", "AUTHMW_LEDGER", "AUTHMW_PEPPER", "FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run the program in an empty directory and hand back what came out; only its own ways of ending are let through."""

    def runs(*arguments: str, exit_code: int = 0, **options: Any) -> Result:
        result = CliRunner().invoke(program, arguments, **options)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert exit_code == result.exit_code, result.output
        return result

    return runs


@pytest.fixture
def make_key(run: Callable[..., Result]) -> Callable[..., tuple[str, str]]:
    """Make a key with some options, and return its id and its text."""

    def makes(*options: str) -> tuple[str, str]:
        text = run("keys", "create", *options).stdout.strip()
        return text.removeprefix("sk-").partition("_")[0], text

    return makes


@pytest.fixture
def module(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module into the directory where the program runs, and return its name; every test has modules of its own."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    loaded = set(sys.modules)

    def writes(text: str, name: str = "myapp") -> str:
        (directory / f"{name}.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        return name

    yield writes
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(directory)):
            del sys.modules[name]
