"""What a user installs: the metadata, the files, and what an import costs and needs."""

import email
import email.message
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import llm_authmw

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
CORE = {"anyio", "cryptography", "httpx", "joserfc", "msgspec", "starlette"}

# What comes with an extra, or is there only because tests or users brought it.
OPTIONAL = (
    "asyncpg",
    "click",
    "fastapi",
    "granian",
    "hypercorn",
    "litestar",
    "openai",
    "opentelemetry",
    "prometheus_client",
    "pydantic",
    "redis",
    "rich",
    "trio",
    "uvicorn",
    "yaml",
)
# What would make `import llm_authmw` slow, or is needed by later layers only.
# `joserfc` and `cryptography` are loaded: a layer of the public face verifies with them.
HEAVY = (*OPTIONAL, "httpx", "starlette.testclient", "unittest")


def _without(blocked: tuple[str, ...], program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter that cannot import some packages, as if they were not installed."""
    hook = f"""
import importlib.abc, sys
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
    command = [sys.executable, "-W", "error", "-c", hook + program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel and the source archive, built without a network from a copy of the tree."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", ".*", "site", "dist", "*.db*")
    shutil.copytree(ROOT, source, dirs_exist_ok=True, ignore=ignored)
    shutil.copy(ROOT / ".gitignore", source)
    (source / "llm_authmw" / "__pycache__").mkdir()
    (source / "llm_authmw" / "__pycache__" / "left_behind.pyc").touch()
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", "dist"], cwd=source, check=True, capture_output=True, timeout=100)
    return source / "dist"


@pytest.fixture(scope="session")
def wheel(built: Path) -> zipfile.Path:
    (path,) = built.glob("*.whl")
    return zipfile.Path(path)


@pytest.fixture(scope="session")
def metadata(wheel: zipfile.Path) -> email.message.Message:
    return email.message_from_string((wheel / f"llm_authmw-{llm_authmw.__version__}.dist-info" / "METADATA").read_text())


def _files(wheel: zipfile.Path) -> set[str]:
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


def test_the_version_is_written_in_one_place_and_is_the_one_installed() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert importlib.metadata.version("llm-authmw") == llm_authmw.__version__


def test_the_changelog_has_a_dated_section_for_this_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"(?m)^## \[{re.escape(llm_authmw.__version__)}\] - \d{{4}}-\d\d-\d\d$", changelog)
    assert "## [Unreleased]" in changelog


def test_the_metadata_says_what_the_package_is(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "llm-authmw"
    assert metadata["Version"] == llm_authmw.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_core_needs_six_packages_each_with_a_floor(metadata: email.message.Message) -> None:
    needed = [requirement for text in metadata.get_all("Requires-Dist", []) if not (requirement := Requirement(text)).marker]
    assert {requirement.name for requirement in needed} == CORE
    assert all(">=" in str(requirement.specifier) for requirement in needed)


def test_the_extra_called_all_has_every_other_one(metadata: email.message.Message) -> None:
    assert set(metadata.get_all("Provides-Extra", [])) == EXTRAS.keys()
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == EXTRAS.keys() - {"all"}


_SUFFIXES = {".py", ".sql", ".lua"}


def test_the_wheel_holds_every_module_and_the_type_marker_and_nothing_else(wheel: zipfile.Path) -> None:
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "llm_authmw").rglob("*.*") if path.suffix in _SUFFIXES}
    information = f"llm_authmw-{llm_authmw.__version__}.dist-info/"
    beside = {information + name for name in ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")}
    assert package | beside | {"llm_authmw/py.typed"} == _files(wheel)


def test_the_wheel_brings_one_command(wheel: zipfile.Path) -> None:
    entry_points = (wheel / f"llm_authmw-{llm_authmw.__version__}.dist-info" / "entry_points.txt").read_text()
    assert entry_points.split() == ["[console_scripts]", "llm-authmw", "=", "llm_authmw.cli:main"]


def test_the_source_archive_can_be_tested(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    pages = {path.name for path in ROOT.glob("*.md")}
    assert pages | {"pyproject.toml", "LICENSE", "mkdocs.yml", "tests/test_packaging.py", "docs/index.md"} <= names
    assert [] == [name for name in names if name.endswith((".pyc", ".db")) or "node_modules" in name]


def test_the_wheel_alone_can_be_imported(wheel: zipfile.Path, tmp_path: Path) -> None:
    wheel.root.extractall(tmp_path)
    program = "import llm_authmw, sys; sys.stdout.write(llm_authmw.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    completed = subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (completed.stderr, completed.stdout) == ("", str(tmp_path / "llm_authmw" / "__init__.py"))


def test_the_core_works_where_no_extra_is_installed() -> None:
    program = """
import asyncio, llm_authmw
async def main():
    async with llm_authmw.open_store("memory://") as store:
        created = await store.keys.create(user="ada")
        assert (await store.keys.get(created.id)).user == "ada"
asyncio.run(main())
"""
    completed = _without(OPTIONAL, program)
    assert (completed.returncode, completed.stderr) == (0, "")


def test_importing_the_package_loads_nothing_heavy() -> None:
    program = "import llm_authmw, sys; sys.stdout.write(' '.join(sys.modules))"
    loaded = set(_without((), program).stdout.split())
    assert "llm_authmw.stack" in loaded
    assert set() == loaded & set(HEAVY)


def test_the_command_says_which_extra_it_needs() -> None:
    completed = _without(("click", "rich"), "from llm_authmw.cli import main\nmain()")
    assert completed.returncode == 1
    assert completed.stderr.splitlines() == ["llm-authmw needs an optional dependency: pip install 'llm-authmw[server]'"]


def test_the_fastapi_room_says_what_it_needs() -> None:
    completed = _without(("fastapi",), "import llm_authmw.fastapi")
    assert completed.stderr.splitlines()[-1] == "ModuleNotFoundError: llm_authmw.fastapi is for FastAPI apps: pip install fastapi"
