"""The site builds from the pages, without a warning, without a network, and with every page in its navigation."""

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(find_spec("zensical") is None and "CI" not in os.environ, reason="the docs group is not installed")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", directory)
    for folder in ("docs", "llm_authmw"):
        shutil.copytree(ROOT / folder, directory / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    built = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=100)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "No issues found" in built.stderr
    return directory / "site"


def test_every_page_is_in_the_navigation_once() -> None:
    entries = re.findall(r"(?m)^\s+- [^:\n]+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(pages) == sorted(entries)


def test_every_page_becomes_a_page_of_the_site(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        built = site / "index.html" if name == Path("index") else site / name / "index.html"
        assert built.is_file(), name


def test_a_reader_fetches_nothing_from_anywhere_else(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:link|script|img)[^>]+(?:href|src)=\"?(https?://[^\s\">]+)", page.read_text(encoding="utf-8"))
        assert [] == fetched, page


def test_the_reference_shows_signatures_and_what_is_raised(site: Path) -> None:
    text = (site / "reference" / "index.html").read_text(encoding="utf-8")
    for shown in ('id="llm_authmw.Stack"', 'id="llm_authmw.KeyService.rotate"', "disclosure", "ConfigurationError"):
        assert shown in text, shown
