from collections.abc import Callable, Sequence

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.cli.output import Column, print_fields, print_table, printable

Run = Callable[..., Result]

MARKUP = "[red]x[/red] [link=http://evil]y[/] :boom:"
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202egnp.exe\u2066\x9b31m\r\n\u2028end"


@given(st.text(st.characters()))
def test_what_is_printed_is_one_line_that_moves_no_cursor(text: str) -> None:
    assert printable(text).isprintable()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_what_prints_is_printed_as_it_is(text: str) -> None:
    assert text == printable(text)


def test_markup_in_a_name_is_text(run: Run, make_key: Callable[..., tuple[str, str]]) -> None:
    key_id, _ = make_key("--name", MARKUP, "--user", "[bold]ann")
    run("accounts", "create", "team", MARKUP)

    for verb in (("keys", "list"), ("keys", "show", key_id), ("accounts", "list"), ("accounts", "show", "team", MARKUP)):
        assert MARKUP in run(*verb).stdout
    assert "user [bold]ann" in run("keys", "list").stdout


@pytest.mark.parametrize("option", ["--name", "--user", "--team", "--tenant", "--tag", "--role", "--actor", "--metadata=note"])
def test_a_name_that_would_move_the_cursor_is_refused_and_the_refusal_does_not(run: Run, option: str) -> None:
    hostile = [f"{option}={HOSTILE}"] if "=" in option else [option, HOSTILE]
    result = run("keys", "create", *hostile, exit_code=1)

    assert result.output.removesuffix("\n").isprintable()


def test_an_error_about_a_hostile_value_is_one_line(run: Run) -> None:
    for arguments in (("keys", "create", "--limit", HOSTILE), ("keys", "list", "--store", f"sqlite:///{HOSTILE}")):
        assert run(*arguments, exit_code=1).stderr.removesuffix("\n").isprintable()
    usage = run("keys", "create", HOSTILE, exit_code=2).stderr
    assert all(line.isprintable() for line in usage.split("\n"))


COLUMNS: Sequence[Column] = (
    Column("ID"),
    Column("TENANT", "cut"),
    Column("NAME", "cut"),
    Column("OWNER", "cut"),
    Column("STATE", colored=True),
    Column("EXPIRES"),
    Column("LAST USED"),
)
LONG = ("0123456789abcdef", "t" * 60, "n" * 300, "u" * 300, "not yet valid", "in 400d", "400d ago")


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_table_fits_a_narrow_terminal_by_cutting_names_and_nothing_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")

    print_table(COLUMNS, [LONG])

    heading, row = printed(capsys)
    assert len(heading) <= 80
    assert len(row) <= 80
    for whole in ("0123456789abcdef", "not yet valid", "in 400d", "400d ago"):
        assert whole in row
    assert 3 == row.count("…")
    assert "nn" in row


def test_a_table_that_nobody_looks_at_is_whole(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    print_table(COLUMNS, [LONG, (None,) * 7])

    _, row, nothing = printed(capsys)
    assert "  ".join(LONG) == row
    assert ["-"] * 7 == nothing.split()


def test_a_table_that_no_terminal_is_wide_enough_for_keeps_every_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")

    print_table([Column("TEAM", "wrap"), Column("NAME", "cut"), Column("COST")], [("blue", "n" * 50, "9" * 60)])

    _, row = printed(capsys)
    assert ["blue", "nnnnn…", "9" * 60] == row.split()


def test_what_says_a_lot_is_wrapped_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")

    print_table([Column("WHEN"), Column("CHANGES", "wrap")], [("2030-01-31", "name: " + "y" * 200)])
    print_fields([("name", "z" * 200), ("tenant", None)])

    lines = printed(capsys)
    assert all(len(line.rstrip()) <= 80 for line in lines)
    assert 200 == sum(line.count("y") for line in lines)
    assert 200 == sum(line.count("z") for line in lines)
    assert not any("tenant" in line for line in lines)
