"""Every fenced block of every page runs: what a page shows is what happens.

The blocks of one page run in order, in one empty directory. ```python``` blocks share a namespace and may await; a block with
a `title` is also written to that file. ```pycon``` blocks are doctests in that namespace. ```console``` blocks run in a shell:
a command exits with 0 (or with what a comment `# exits with N` says), and shows the lines that stand under it, in which `…`
stands for anything. Servers that a page starts are real ones, on a free port. ```text``` is for diagrams.
"""

import ast
import asyncio
import contextlib
import doctest
import importlib.metadata
import inspect
import os
import re
import shlex
import subprocess
import sys
import textwrap
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from packaging.requirements import Requirement

from llm_authmw.testing.servers import HOST, ServerName, serve

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
STAND_INS = Path(__file__).parent / "stand_ins"
SERVERS: dict[str, ServerName] = {"uvicorn": "uvicorn-h11", "hypercorn": "hypercorn", "granian": "granian"}
SHOWN_ADDRESS = "127.0.0.1:8000"

_FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,})(?P<info>.*)")
_TITLE = re.compile(r'title="([^"]+)"')
_EXITS = re.compile(r"# exits with (\d)$")


class Block(NamedTuple):
    language: str
    title: str | None
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    found: list[Block] = []
    lines = iter(enumerate(page.read_text(encoding="utf-8").splitlines(), start=1))
    for number, line in lines:
        opening = _FENCE.fullmatch(line)
        if opening is None:
            continue
        body: list[str] = []
        for _, inner in lines:
            if inner.strip() == opening["ticks"]:
                break
            body.append(inner)
        else:
            raise AssertionError(f"{page.name}:{number}: the fence is never closed")
        language, _, rest = opening["info"].strip().partition(" ")
        title = _TITLE.search(rest)
        found.append(Block(language, title[1] if title else None, textwrap.dedent("\n".join(body)) + "\n", number))
    return found


class Page:
    """One page while it runs."""

    def __init__(self, path: Path, runner: asyncio.Runner, cleanup: contextlib.ExitStack) -> None:
        self.path = path
        self.module = types.ModuleType(f"page_{path.stem.replace('-', '_')}")
        self._runner = runner
        self._cleanup = cleanup
        self._address = SHOWN_ADDRESS
        self._state = Path("shell_state").absolute()
        self._state.touch()

    def run_all(self) -> None:
        for block in blocks_of(self.path):
            # A language without a method of its own fails here: no block is passed over.
            getattr(self, f"run_{block.language}", self.run_unknown)(block)

    def run_unknown(self, block: Block) -> None:
        raise AssertionError(f"{self.path.name}:{block.line}: nothing runs a block of {block.language!r}")

    def run_python(self, block: Block) -> None:
        if block.title is not None:
            Path(block.title).write_text(block.code, encoding="utf-8")
        # The blank lines make a traceback point at the line of the page.
        source = "\n" * block.line + block.code
        code = compile(source, str(self.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        # Not `exec`, which drops the coroutine of a block that awaits.
        outcome: Any = eval(code, self.module.__dict__)
        if inspect.iscoroutine(outcome):
            self._runner.run(outcome)

    def run_pycon(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(block.code, self.module.__dict__, self.path.name, str(self.path), block.line)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        outcome = runner.run(test, out=report.append, clear_globs=False)
        assert (0, True) == (outcome.failed, outcome.attempted > 0), "".join(report)
        self.module.__dict__.update(test.globs)

    def run_console(self, block: Block) -> None:
        commands = re.split(r"(?m)^\$ ", block.code)
        assert commands[0] == "", f"{self.path.name}:{block.line}: a console block begins with a command"
        assert len(commands) > 1
        for entry in commands[1:]:
            lines = entry.splitlines()
            command = lines.pop(0)
            while command.endswith("\\"):
                command = f"{command[:-1]} {lines.pop(0).strip()}"
            self._command(command, "\n".join(lines), f"{self.path.name}:{block.line}: {command}")

    def run_toml(self, block: Block) -> None:
        assert tomllib.loads(block.code)

    def run_yaml(self, block: Block) -> None:
        if block.title is not None:
            Path(block.title).write_text(block.code, encoding="utf-8")
        assert yaml.safe_load(block.code)

    def run_json(self, block: Block) -> None:
        assert msgspec.json.decode(block.code)

    def run_text(self, block: Block) -> None:
        assert block.code.strip()

    def _command(self, command: str, shown: str, where: str) -> None:
        words = shlex.split(command, comments=True)
        if words[0] == "make":
            completed = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
            assert completed.returncode == 0, f"{where}\n{completed.stderr}"
        elif words[:2] == ["pip", "install"]:
            for word in words[2:]:
                _check_installable(Requirement(re.sub(r"^\.", "llm-authmw", word)))
        elif words[0] in SERVERS:
            server = SERVERS[words[0]]
            served = serve(words[1], server=server, directory=Path.cwd(), env=self._environment(), options=words[2:])
            self._address = f"{HOST}:{self._cleanup.enter_context(served).port}"
        else:
            self._in_shell(command, shown, where)

    def _environment(self) -> dict[str, str]:
        """Return what the page has exported so far."""
        listed = subprocess.run(["bash", "-c", f'source "{self._state}"; env -0'], capture_output=True, text=True, check=True).stdout
        return dict(entry.split("=", 1) for entry in listed.split("\0") if entry)

    def _in_shell(self, command: str, shown: str, where: str) -> None:
        program = command.replace(SHOWN_ADDRESS, self._address)
        stand_ins = "".join(f'{script.stem}() {{ "{sys.executable}" "{script}" "$@"; }}\n' for script in sorted(STAND_INS.glob("*.py")))
        script = f'{stand_ins}source "{self._state}"\nset -euo pipefail\nset -a\n{program}\ndeclare -px >"{self._state}"\n'
        completed = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=60)
        exits = _EXITS.search(command)
        output = completed.stdout + completed.stderr
        assert (int(exits[1]) if exits else 0) == completed.returncode, f"{where}\n{output}"
        assert not shown.strip() or _is_shown(output, shown), f"{where}\nthe page shows:\n{shown}\nit printed:\n{output}"


def _is_shown(output: str, shown: str) -> bool:
    """Say whether the output is what the page shows, blanks aside, where `…` stands for anything."""
    rest = " ".join(output.split())
    begins, *found_later = (part.strip() for part in " ".join(shown.split()).split("…"))
    if not found_later:
        return rest == begins
    *between, ends = found_later
    if not rest.startswith(begins):
        return False
    rest = rest[len(begins) :]
    for part in between:
        _, found, rest = rest.partition(part) if part else ("", " ", rest)
        if not found:
            return False
    return rest.endswith(ends)


def _check_installable(requirement: Requirement) -> None:
    distribution = importlib.metadata.distribution(requirement.name)
    assert set(distribution.metadata.get_all("Provides-Extra") or ()) >= requirement.extras
    assert requirement.specifier.contains(distribution.version)


@pytest.fixture
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in os.environ if name.startswith("AUTHMW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    loaded = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - loaded:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", [pytest.param(page, id=str(page.relative_to(ROOT))) for page in PAGES])
def test_every_block_of_a_page_does_what_the_page_says(page: Path, empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.ExitStack() as cleanup:
        running = Page(page, cleanup.enter_context(asyncio.Runner()), cleanup)
        monkeypatch.setitem(sys.modules, running.module.__name__, running.module)
        running.run_all()


def test_a_block_that_bears_the_name_of_an_example_is_that_example() -> None:
    examples = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "examples").glob("*.py")}
    shown = [(block.title, block.code) for page in PAGES for block in blocks_of(page) if block.title in examples]
    assert examples.keys() == {title for title, _ in shown}, "an example that no page shows"
    for title, code in shown:
        assert examples[title or ""] == code, title


BROKEN = {
    "no language": "```\nplain\n```\n",
    "a language that nothing runs": "```ruby\nputs 1\n```\n",
    "a fence that is never closed": "```python\n",
    "a program that raises": "```python\nraise ValueError\n```\n",
    "a program that awaits what is not there": "```python\nawait nothing\n```\n",
    "a doctest with a wrong answer": "```pycon\n>>> 1 + 1\n3\n```\n",
    "a doctest that asks nothing": "```pycon\n1 + 1\n```\n",
    "a command that fails": "```console\n$ false\n```\n",
    "a command that does not fail as it should": "```console\n$ true # exits with 1\n```\n",
    "other output": "```console\n$ echo one\ntwo\n```\n",
    "other output around what is left out": "```console\n$ echo one two three\none … four\n```\n",
    "more output than is shown": "```console\n$ echo one two\none\n```\n",
    "a console block without a command": "```console\nls\n```\n",
    "an unknown target": "```console\n$ make there-is-no-such-target\n```\n",
    "an unknown extra": "```console\n$ pip install 'llm-authmw[nothing]'\n```\n",
    "broken toml": "```toml\na =\n```\n",
    "broken json": "```json\n{\n```\n",
    "an empty diagram": "```text\n```\n",
}


@pytest.mark.parametrize("text", [pytest.param(text, id=what) for what, text in BROKEN.items()])
def test_a_block_that_does_not_do_what_it_says_is_found(text: str, empty_directory: Path) -> None:
    page = empty_directory / "page.md"
    page.write_text(text, encoding="utf-8")
    with contextlib.ExitStack() as cleanup:
        running = Page(page, cleanup.enter_context(asyncio.Runner()), cleanup)
        with pytest.raises((AssertionError, ValueError, NameError, msgspec.DecodeError)):
            running.run_all()
