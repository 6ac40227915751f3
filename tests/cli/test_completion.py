import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from click.testing import Result

from llm_authmw.cli.program import program

Run = Callable[..., Result]
MakeKey = Callable[..., tuple[str, str]]


@pytest.fixture
def complete() -> Callable[..., list[tuple[str, str | None]]]:
    def completes(*words: str) -> list[tuple[str, str | None]]:
        maker = get_completion_class("bash")
        assert maker is not None
        completer = maker(program, {}, "llm-authmw", "_LLM_AUTHMW_COMPLETE")
        return [(item.value, item.help) for item in completer.get_completions(list(words[:-1]), words[-1])]

    return completes


Complete = Callable[..., list[tuple[str, str | None]]]


@pytest.mark.parametrize(
    ("shell", "part"), [("bash", "complete -o nosort"), ("zsh", "#compdef llm-authmw"), ("fish", "complete --no-files")]
)
def test_a_shell_gets_its_script(run: Run, shell: str, part: str) -> None:
    script = run("completion", shell).stdout

    assert part in script
    assert f"_LLM_AUTHMW_COMPLETE={shell}_complete" in script


def test_an_unknown_shell_is_a_wrong_command_line(run: Run) -> None:
    assert "'bash', 'fish', 'zsh'" in run("completion", "tcsh", exit_code=2).stderr.replace("'zsh', 'fish'", "'fish', 'zsh'")


def test_the_program_answers_a_shell_that_asks(run: Run) -> None:
    result = run(env={"_LLM_AUTHMW_COMPLETE": "bash_complete", "COMP_WORDS": "llm-authmw keys r", "COMP_CWORD": "2"})

    assert ["plain,revoke", "plain,rotate"] == sorted(result.stdout.split())


def test_ids_are_completed_with_their_names(complete: Complete, make_key: MakeKey) -> None:
    named, _ = make_key("--name", "ci")
    other, _ = make_key()

    everything = complete("keys", "show", "")

    assert {(named, "ci"), (other, "active")} == set(everything)
    assert [(named, "ci")] == complete("keys", "revoke", named[:9])


def test_who_has_budgets_is_completed_by_the_kind_that_was_typed(run: Run, complete: Complete, make_key: MakeKey) -> None:
    key_id, _ = make_key("--name", "ci")
    run("accounts", "create", "team", "blue", "--tenant", "acme")
    run("accounts", "create", "org", "bluebird")
    run("accounts", "create", "user", "ann", "--realm", "corp")

    assert [("blue", "acme")] == complete("budgets", "show", "team", "bl")
    assert [("ann", "corp")] == complete("limits", "show", "user", "")
    assert [(key_id, "ci")] == complete("budgets", "raise", "key", key_id[:4])
    assert [] == complete("budgets", "reset", "--store", "sqlite:///missing.db", "team", "bl")


def test_ids_of_revocations_are_completed_with_what_they_revoke(run: Run, complete: Complete, make_key: MakeKey) -> None:
    make_key()
    made = {
        kind: json.loads(run("revoke", kind, "https://issuer.example", f"a {kind}", "--json").stdout)["id"] for kind in ("token", "key")
    }

    assert {(made[kind], f"{kind} a {kind}") for kind in made} == set(complete("revoke", "lift", ""))
    assert [(made["key"], "key a key")] == complete("revoke", "lift", made["key"])
    assert [] == complete("revoke", "lift", "--store", "sqlite:///missing.db", "rv-")


def test_a_name_that_begins_like_what_was_typed_is_no_id(complete: Complete, make_key: MakeKey) -> None:
    make_key("--name", "ci")

    assert [] == [item for item in complete("keys", "show", "ci") if not item[0].startswith("ci")]


@pytest.mark.parametrize("words", [("--store", "sqlite:///other.db", "keys", "show"), ("keys", "show", "--store", "sqlite:///other.db")])
def test_ids_come_from_the_store_that_was_named(complete: Complete, make_key: MakeKey, words: tuple[str, ...]) -> None:
    make_key()
    other, _ = make_key("--store", "sqlite:///other.db")

    assert [other] == [value for value, _ in complete(*words, "")]


@pytest.mark.parametrize("url", ["sqlite:///missing.db", "sqlite:///broken.db", "nonsense", "memory://"])
def test_completion_makes_nothing_and_says_nothing_where_there_is_trouble(
    complete: Complete, directory: Path, url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (directory / "broken.db").write_text("not a database, and long enough for SQLite to look at it\n" * 20)

    assert [] == complete("keys", "show", "--store", url, "")
    assert ("", "") == capfd.readouterr()
    assert ["broken.db"] == [path.name for path in directory.iterdir()]
