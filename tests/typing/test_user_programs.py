"""Programs that a user would write, seen by the type checkers that users run, against the package as it is installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
WRONG = PROGRAMS / "wrong.py"
RIGHT = sorted(path for path in [*PROGRAMS.glob("*.py"), *ROOT.glob("docs/examples/*.py")] if path != WRONG)

_REFUSED = re.compile(r"# refused: (?P<mypy>[a-z-]+), (?P<pyright>[A-Za-z]+)")
_MYPY_LINE = re.compile(r"(?P<file>\w+\.py):(?P<line>\d+): error: .*\[(?P<rule>[a-z-]+)\]")

Complaint = tuple[str, int, str]
"""A file, a line and the rule that it breaks."""


class _Position(msgspec.Struct):
    line: int


class _Range(msgspec.Struct):
    start: _Position


class _Diagnostic(msgspec.Struct):
    file: str
    severity: str
    message: str
    range: _Range
    rule: str = ""


class _Report(msgspec.Struct, rename="camel"):
    general_diagnostics: list[_Diagnostic]


class _Completeness(msgspec.Struct, rename="camel"):
    completeness_score: float
    symbols: list["_Symbol"]


class _Symbol(msgspec.Struct, rename="camel"):
    name: str
    is_exported: bool
    is_type_known: bool


class _Verified(msgspec.Struct, rename="camel"):
    type_completeness: _Completeness


def _run(directory: Path, *command: str) -> str:
    scripts = Path(sys.executable).parent
    # Pyright finds the environment by these; a user's shell has them once the environment is active.
    environment = {**os.environ, "VIRTUAL_ENV": str(scripts.parent), "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    completed = subprocess.run(
        [sys.executable, "-m", *command], cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=110
    )
    assert completed.stderr == ""
    return completed.stdout


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("programs")
    for path in (*RIGHT, WRONG):
        # The examples and the programs may share names; a user has one of them.
        shutil.copy(path, directory / (path.name if path.parent == PROGRAMS else f"example_{path.name}"))
    return directory


@pytest.fixture(scope="session")
def by_mypy(programs: Path) -> set[Complaint]:
    output = _run(programs, "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache" / "user_programs"), ".")
    lines = [line for line in output.splitlines() if ": error: " in line]
    found = [match for line in lines if (match := _MYPY_LINE.fullmatch(line)) is not None]
    assert len(lines) == len(found), output
    return {(match["file"], int(match["line"]), match["rule"]) for match in found}


@pytest.fixture(scope="session")
def by_pyright(programs: Path) -> set[Complaint]:
    (programs / "pyrightconfig.json").write_bytes(b'{"typeCheckingMode": "strict"}')
    report = msgspec.json.decode(_run(programs, "pyright", "--outputjson"), type=_Report)
    return {(Path(found.file).name, found.range.start.line + 1, found.rule) for found in report.general_diagnostics}


def _expected(checker: str) -> set[Complaint]:
    lines = enumerate(WRONG.read_text(encoding="utf-8").splitlines(), start=1)
    return {(WRONG.name, number, match[checker]) for number, line in lines if (match := _REFUSED.search(line)) is not None}


def test_mypy_accepts_every_program_and_refuses_every_wrong_line_for_its_reason(by_mypy: set[Complaint]) -> None:
    assert _expected("mypy") == by_mypy


def test_pyright_accepts_every_program_and_refuses_every_wrong_line_for_its_reason(by_pyright: set[Complaint]) -> None:
    assert _expected("pyright") == by_pyright


def test_the_wrong_program_is_wrong_in_more_than_a_few_ways() -> None:
    assert len(_expected("mypy")) == len(_expected("pyright")) > 20


def test_every_program_that_type_checks_also_runs(tmp_path: Path) -> None:
    program = "import runpy, sys\nfor path in sys.argv[1:]:\n    runpy.run_path(path, run_name='__main__')\n"
    command = [sys.executable, "-W", "error", "-c", program, *map(str, RIGHT)]
    # A program imports the modules beside it, as where a user starts it.
    environment = {**os.environ, "PYTHONPATH": str(PROGRAMS)}
    completed = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (0, "", "") == (completed.returncode, completed.stdout, completed.stderr)


def test_every_public_name_has_a_type_that_pyright_knows(tmp_path: Path) -> None:
    report = _run(tmp_path, "pyright", "--verifytypes", "llm_authmw", "--ignoreexternal", "--outputjson")
    verified = msgspec.json.decode(report, type=_Verified).type_completeness
    assert [] == [symbol.name for symbol in verified.symbols if symbol.is_exported and not symbol.is_type_known]
    assert verified.completeness_score == 1
