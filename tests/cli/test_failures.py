import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from llm_authmw.cli.failures import NoStoreError, error_object, masked
from llm_authmw.errors import (
    AuthmwError,
    ConfigurationError,
    ConflictError,
    InvalidValueError,
    MissingExtraError,
    NotFoundError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    StoreUnavailableError,
)
from llm_authmw.keys.service import KeyService

Run = Callable[..., Result]
KEY = "sk-litellm-3f9a8b7c6d5e4f3a2b1c"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("failed", AuthmwError("x")),
        ("configuration", ConfigurationError("a", "b")),
        ("missing_extra", MissingExtraError("a", "b")),
        ("invalid_value", InvalidValueError("x")),
        ("not_found", NotFoundError("x")),
        ("conflict", ConflictError("x")),
        ("store_failed", StoreError("x")),
        ("store_unavailable", StoreUnavailableError("x")),
        ("store_read_only", StoreReadOnlyError("x")),
        ("store_corrupt", StoreCorruptError("x")),
        ("store_missing", NoStoreError("x")),
    ],
)
def test_every_kind_of_error_has_a_word_of_its_own(code: str, error: AuthmwError) -> None:
    assert {"code": code, "message": str(error)} == error_object(error)


@pytest.mark.parametrize(
    ("code", "exit_code", "arguments"),
    [
        ("store_missing", 1, ("keys", "list")),
        ("invalid_value", 1, ("keys", "create", "--limit", "x")),
        ("configuration", 1, ("keys", "create", "--role", "")),
        ("configuration", 1, ("keys", "create", "--store", "x")),
        ("usage", 2, ("keys", "list", "--no-such-option")),
        ("usage", 2, ("keys", "lst")),
        ("usage", 2, ("--no-such-option", "keys", "list")),
        ("usage", 2, ("accounts", "show", "teem", "x")),
        ("usage", 2, ("keys", "create", "--quiet")),
    ],
)
def test_an_error_in_json_is_one_object_on_stderr_and_nothing_on_stdout(
    run: Run, code: str, exit_code: int, arguments: tuple[str, ...]
) -> None:
    result = run(*arguments, "--json", exit_code=exit_code)

    assert "" == result.stdout
    (error,) = json.loads(result.stderr).values()
    assert {"code", "message"} == set(error)
    assert code == error["code"]
    assert error["message"]


def test_a_group_without_a_verb_prints_its_help_and_is_a_wrong_command_line(run: Run) -> None:
    for arguments in ((), ("keys",), ("accounts",), ("revoke",)):
        result = run(*arguments, exit_code=2)
        assert "" == result.stdout
        assert "Commands:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", KEY),
        ("keys", "revoke", "x", KEY),
        ("keys", "list", "--state", KEY),
        ("keys", "list", "--state", f"{KEY}\\'\""),
        ("keys", "import", f"{KEY}'\\"),
        ("completion", KEY),
        ("accounts", "create", KEY, "x"),
        ("revoke", "token", "https://issuer.example", "jti", KEY),
        ("revoke", KEY),
        (KEY,),
    ],
)
def test_a_wrong_command_line_is_not_printed_back_where_it_could_hold_a_key(run: Run, arguments: tuple[str, ...]) -> None:
    for as_json in ((), ("--json",)):
        assert KEY not in run(*arguments, *as_json, exit_code=2).output


def test_only_what_could_be_a_key_is_cut_short() -> None:
    message = f"{KEY}, --idempotency-keyy, /v1/chat/completions, 60 requests/minutes, blue"

    assert message.replace(KEY, "sk-l…") == masked(
        message, [KEY, "--idempotency-keyy", "/v1/chat/completions", "60 requests/minutes", "blue"]
    )


def test_an_interrupt_ends_with_130_and_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def interrupted(self: KeyService, **options: object) -> None:
        raise KeyboardInterrupt

    run("keys", "create")
    monkeypatch.setattr(KeyService, "list", interrupted)

    result = run("keys", "list", exit_code=130)

    assert "" == result.output.strip()


def test_a_file_that_cannot_be_read_is_one_line(run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    (directory / "keys.csv").touch()
    monkeypatch.setattr(Path, "read_bytes", unreadable)

    assert "Error: keys.csv: Permission denied\n" == run("keys", "import", "--file", "keys.csv", exit_code=1).stderr
    assert {"error": {"code": "failed", "message": "keys.csv: Permission denied"}} == json.loads(
        run("keys", "import", "--file", "keys.csv", "--json", exit_code=1).stderr
    )
