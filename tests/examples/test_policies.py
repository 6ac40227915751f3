"""`docs/examples/policies`: its tests pass as they are, and a change of the policy shows as what has changed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "policies"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    for name in ("gateway.py", "test_policy.py", "policy.txt"):
        shutil.copy(EXAMPLE / name, tmp_path)
    return tmp_path


def run_tests(directory: Path, **environment: str) -> tuple[int, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("AUTHMW_")}
    # As somebody does who has the example alone: nothing of this project's own configuration.
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(directory), str(directory)]
    done = subprocess.run(command, cwd=directory, env={**given, **environment}, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def widen(directory: Path) -> None:
    gateway = directory / "gateway.py"
    text = gateway.read_text(encoding="utf-8")
    assert '["*", "!o3-pro"]' in text
    gateway.write_text(text.replace('["*", "!o3-pro"]', '["*"]'), encoding="utf-8")


def test_the_policy_has_tests_that_pass_and_need_nothing_but_themselves(example: Path) -> None:
    code, output = run_tests(example)
    assert 0 == code, output
    assert {"gateway.py", "test_policy.py", "policy.txt"} == {path.name for path in example.iterdir() if path.name != "__pycache__"}


def test_a_policy_that_allows_more_fails_its_tests_and_shows_where(example: Path) -> None:
    widen(example)
    code, output = run_tests(example)
    assert 1 == code, output
    assert "+a researcher  POST /v1/chat/completions  ✓  ✓  ✓  ✓  ·" in output
    assert "-a researcher  POST /v1/chat/completions  ✓  ✓  ✓  403 model_not_allowed  ·" in output
    assert "a key  POST" not in output
    assert "test_a_researcher_has_the_scope_from_our_own_issuer" in output


def test_a_change_is_accepted_by_writing_the_table_anew(example: Path) -> None:
    kept = (example / "policy.txt").read_text(encoding="utf-8")
    assert run_tests(example, WRITE_POLICY="1")[0] == 0
    assert kept == (example / "policy.txt").read_text(encoding="utf-8")
    widen(example)
    run_tests(example, WRITE_POLICY="1")
    changed = (example / "policy.txt").read_text(encoding="utf-8")
    assert 2 == sum(one != other for one, other in zip(kept.splitlines(), changed.splitlines(), strict=True))
