"""The program as a process of its own: the installed script, a terminal, signals, pipes."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import termios
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import llm_authmw.cli

MODULE = (sys.executable, "-m", "llm_authmw.cli")
ROOT = str(Path(llm_authmw.cli.__file__).parents[2])


@pytest.fixture(autouse=True)
def package_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH")))))


def ran(*arguments: str, program: Sequence[str] = MODULE, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False)


def test_the_installed_script_makes_a_key_that_a_variable_holds() -> None:
    script = shutil.which("llm-authmw", path=sysconfig.get_path("scripts"))
    if script is None:
        pytest.skip("the package is not installed, so there is no script")

    made = ran("keys", "create", "--name", "ci", program=(script,))
    listed = ran("keys", "list", "--json", program=(script,))

    assert (0, 0, "") == (made.returncode, listed.returncode, listed.stderr)
    assert re.fullmatch(r"sk-[0-9a-z]{16}_[0-9A-Za-z]{49}\n", made.stdout) is not None
    assert [made.stdout[3:19]] == [key["id"] for key in json.loads(listed.stdout)["keys"]]
    assert made.stdout.strip() not in listed.stdout


def test_a_name_that_the_terminal_cannot_say_is_printed_with_escapes(
    make_key: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key("--name", "日本語")
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")

    result = ran("keys", "list")

    assert (0, "") == (result.returncode, result.stderr)
    assert r"\u65e5\u672c\u8a9e" in result.stdout


def test_the_module_runs_like_the_script() -> None:
    result = ran("keys", "list")

    assert (1, "") == (result.returncode, result.stdout)
    assert result.stderr.startswith("Error: there is no store at ")


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_a_missing_extra_is_named_in_one_line(missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    problem = "llm-authmw needs an optional dependency: pip install 'llm-authmw[server]'"
    for name in [name for name in sys.modules if name.startswith(("llm_authmw.cli.", f"{missing}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)

    for arguments, told in (([], problem), (["--json"], json.dumps({"error": {"code": "missing_extra", "message": problem}}))):
        monkeypatch.setattr(sys, "argv", ["llm-authmw", "keys", "list", *arguments])
        with pytest.raises(SystemExit) as ended:
            llm_authmw.cli.main()
        # A text as the exit code is what Python prints on stderr before it ends with 1.
        assert told == ended.value.code
    assert ("", "") == capsys.readouterr()


def test_a_module_of_ours_that_is_missing_is_not_taken_for_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "llm_authmw.cli.program", raising=False)
    monkeypatch.setitem(sys.modules, "llm_authmw.cli.program", None)

    with pytest.raises(ModuleNotFoundError):
        llm_authmw.cli.main()


def test_an_interrupt_from_the_keyboard_ends_with_130_and_no_traceback(directory: Path) -> None:
    os.mkfifo(directory / "rows")
    process = subprocess.Popen(
        [*MODULE, "keys", "import", "--file", "rows"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Opening the pipe to write waits until the program has opened it to read, and then the program waits for us.
    with (directory / "rows").open("w", encoding="utf-8"):
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)

    assert (130, "", "") == (process.returncode, output, errors.strip())


def test_a_reader_that_went_away_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        process = subprocess.run([*MODULE, "--help"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    finally:
        os.close(write)

    assert (1, "") == (process.returncode, process.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        process = subprocess.run([*MODULE, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    assert (1, "Error: the output: No space left on device\n") == (process.returncode, process.stderr)


def on_a_terminal(*arguments: str, typed: str = "", columns: int = 80, stdout: int | None = None) -> tuple[int, str]:
    """Run the program on a terminal of its own, and return its exit code and what the terminal showed."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    process = subprocess.Popen([*MODULE, *arguments], stdin=theirs, stdout=stdout or theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # Linux says so when the last process on the other side is gone
                break
            if not chunk:
                break
            shown += chunk
            if typed and b"text: " in shown:
                os.write(ours, typed.encode())
                typed = ""
        return process.wait(timeout=60), shown.decode()
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def test_on_a_terminal_a_table_is_colored_and_fits(make_key: Callable[..., tuple[str, str]]) -> None:
    make_key("--name", "n" * 100, "--user", "u" * 100)

    code, shown = on_a_terminal("keys", "list")

    assert 0 == code
    assert "\x1b[32mactive" in shown
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert all(len(line) <= 80 for line in plain.splitlines())
    assert 2 == plain.count("…")


def test_on_a_terminal_a_key_is_asked_for_and_not_shown() -> None:
    key = "sk-litellm-3f9a8b7c6d5e4f3a2b1c"

    code, shown = on_a_terminal("keys", "import", "--read-key", typed=f"{key}\n")

    assert 0 == code
    assert "The key's text: " in shown
    assert key not in shown
    assert "is imported" in shown


def test_a_long_import_shows_its_progress_where_its_report_goes_elsewhere(directory: Path) -> None:
    (directory / "keys.csv").write_text("sha256\n" + "".join(f"{number:064x}\n" for number in range(20)), encoding="utf-8")

    with (directory / "report").open("wb") as report:
        code, shown = on_a_terminal("keys", "import", "--file", "keys.csv", stdout=report.fileno())

    assert 0 == code
    assert "Importing" in shown
    assert "100%" in shown
    assert "20 imported, 0 replayed, 0 refused" in shown
    assert 20 == len((directory / "report").read_text(encoding="utf-8").splitlines())
