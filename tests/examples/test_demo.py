"""`make demo` without the installation: the show runs, says when something is not as expected, and leaves nothing behind."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs" / "examples" / "demo"
EXPECTATIONS = 29

# The same routes, and nobody in front of them.
UNGUARDED = """
from starlette.applications import Starlette
from starlette.routing import Mount
from llm_authmw.testing import MockProvider

app = Starlette(routes=[Mount("/", MockProvider())])
"""


def environment(directory: Path, **more: str) -> dict[str, str]:
    given = {name: value for name, value in os.environ.items() if not name.startswith("AUTHMW_") and name != "ONCE"}
    # Keys and addresses of whoever runs this must not reach anybody.
    elsewhere = {"OPENAI_API_KEY": "sk-other", "OPENAI_BASE_URL": "http://127.0.0.1:9", "ANTHROPIC_AUTH_TOKEN": "other"}
    return {**given, **elsewhere, "TMPDIR": str(directory), **more}


def port_of(output: str) -> int:
    match = re.search(r"A guarded LLM proxy on http://127\.0\.0\.1:(\d+)", output)
    assert match is not None, output
    return int(match[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_show_meets_every_expectation_and_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(DEMO / "demo.py")]
    done = subprocess.run(command, env=environment(tmp_path, ONCE="1"), capture_output=True, text=True, check=False, timeout=120)
    marks = [line[0] for line in done.stdout.splitlines() if line[:2] in ("✓ ", "✗ ")]
    assert (0, "", ["✓"] * (EXPECTATIONS + 1)) == (done.returncode, done.stderr, marks), done.stdout
    assert f"✓ All {EXPECTATIONS} went as expected." in done.stdout
    assert not is_listening(port_of(done.stdout))
    assert [] == list(tmp_path.iterdir())
    assert "\x1b" not in done.stdout


def test_the_lines_to_copy_work_until_ctrl_c_which_ends_everything(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("curl is not installed")
    command = [sys.executable, "-W", "error", str(DEMO / "demo.py")]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        output = ""
        try:
            while "stays up until Ctrl-C" not in output and (line := demo.stdout.readline()):
                output += line
            lines = [line for line in output.splitlines() if line.startswith(("curl ", "AUTHMW_STORE="))]
            answers = [subprocess.run(line, shell=True, capture_output=True, text=True, check=True, timeout=30).stdout for line in lines]
        finally:
            # Else a line that fails would leave the show up, and the run would wait for its end for ever.
            demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=30)
    chat, streamed, messages, refused, happened, listed, revoked = answers
    assert "Hello from gpt-4o-mini: hello" in chat
    assert streamed.rstrip().endswith("data: [DONE]")
    assert "Hello from claude-sonnet-5: hello" in messages
    assert ("401" in refused.split("\r\n")[0], "x-authmw-reason: missing_credential" in refused) == (True, True)
    assert "401 missing_credential" in happened.splitlines()[-1]
    assert ("lost-laptop" in listed, shlex.split(lines[-1])[-1] in revoked) == (True, True)
    assert (0, True) == (demo.returncode, "Nothing is left behind." in rest)
    assert not is_listening(port_of(output))
    assert [] == list(tmp_path.iterdir())


def test_a_proxy_that_guards_nothing_fails_the_show(tmp_path: Path) -> None:
    (tmp_path / "unguarded.py").write_text(UNGUARDED, encoding="utf-8")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = "import pathlib, sys, demo; demo.APP = 'unguarded:app'; demo.HERE = pathlib.Path(sys.argv[1]); sys.exit(demo.main())"
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    given = environment(scratch, ONCE="1", PYTHONPATH=str(DEMO))
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=120)
    assert (1, "") == (done.returncode, done.stderr), done.stdout
    assert f"✗ 17 of {EXPECTATIONS} did not go as expected." in done.stdout
    assert "expected: 401 openai.AuthenticationError missing_credential" in done.stdout
    assert [] == list(scratch.iterdir())
