from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import Result

from llm_authmw import __version__
from llm_authmw.cli.program import program

Run = Callable[..., Result]


def commands(command: click.Command = program, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))


EVERY = [pytest.param(path, command, id="-".join(path) or "program") for path, command in commands()]
VERBS = [path for path, _ in commands() if len(path) == 2]


def test_the_verbs_are_those_of_the_manual() -> None:
    keys = {"create", "list", "show", "update", "rotate", "block", "unblock", "revoke", "import"}
    accounts = {"create", "list", "show", "update", "block", "unblock"}
    revoke = {"token", "subject", "key", "list", "lift"}
    budgets = {"show", "raise", "reset"}
    ledger = {"check", "acknowledge"}
    prices = {"check", "explain"}
    groups = {
        "keys": keys,
        "accounts": accounts,
        "revoke": revoke,
        "budgets": budgets,
        "limits": {"show"},
        "ledger": ledger,
        "prices": prices,
        "audit": {"tail", "search", "export", "verify", "prune", "forget", "keygen"},
    }
    assert {(group, verb) for group, verbs in groups.items() for verb in verbs} == set(VERBS)


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_help_says_what_the_command_does_and_names_every_option(run: Run, path: tuple[str, ...], command: click.Command) -> None:
    text = run(*path, "--help").stdout

    assert text == run(*path, "-h").stdout
    assert command.help
    assert " ".join(command.help.split("\n", maxsplit=1)[0].split()) in " ".join(text.split())
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            for name in parameter.opts:
                assert name in text


@pytest.mark.parametrize("path", VERBS, ids="-".join)
def test_every_verb_answers_in_json_and_takes_a_store_where_it_looks_into_one(run: Run, path: tuple[str, ...]) -> None:
    text = run(*path, "--help").stdout

    assert (path[0] != "prices" and path != ("audit", "keygen")) == ("--store URL" in text)
    assert "--json" in text


@pytest.mark.parametrize(("path", "command"), EVERY)
def test_at_most_so_many_is_one_word_everywhere(path: tuple[str, ...], command: click.Command) -> None:
    counted = {
        option.opts[0]
        for option in command.params
        if isinstance(option, click.Option) and isinstance(option.type, click.IntRange) and option.show_default
    }
    listed = path[-1:] == ("list",) or path in {("audit", "search"), ("usage",)}
    # That one is called as users of tail(1) know it.
    assert ({"--limit"} if listed else {"--lines"} if path == ("audit", "tail") else set()) == counted


@pytest.mark.parametrize(("path", "command"), [(path, command) for path, command in commands() if isinstance(command, click.Group)])
def test_a_list_of_commands_says_of_each_what_it_does_to_the_end(run: Run, path: tuple[str, ...], command: click.Group) -> None:
    listed = run(*path, "--help", env={"COLUMNS": "80"}).stdout.partition("Commands:")[2].partition("\n\n")[0].splitlines()[1:]
    assert len(command.commands) == len(listed)
    assert [] == [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("path", VERBS, ids="-".join)
def test_every_verb_that_changes_what_has_a_history_takes_an_actor(run: Run, path: tuple[str, ...]) -> None:
    changes = path[1] not in {"list", "show"} and path[0] not in {"ledger", "prices", "audit"}
    assert (changes or path == ("ledger", "acknowledge")) == ("--actor" in run(*path, "--help").stdout)


@pytest.mark.parametrize("path", VERBS, ids="-".join)
def test_every_verb_that_asks_the_ledger_takes_the_places_where_it_may_be(run: Run, path: tuple[str, ...]) -> None:
    text = run(*path, "--help").stdout

    asks = path in {("budgets", "show"), ("budgets", "reset"), ("limits", "show"), ("ledger", "check"), ("ledger", "acknowledge")}
    assert asks == ("--ledger URL" in text)
    assert (asks and path != ("ledger", "acknowledge")) == ("--counters URL" in text)


@pytest.mark.parametrize("path", [("keys",), ("keys", "create"), ("keys", "update"), ("accounts",), ("accounts", "create")], ids="-".join)
def test_help_is_honest_about_what_this_release_enforces(run: Run, path: tuple[str, ...]) -> None:
    text = " ".join(run(*path, "--help").stdout.split())
    assert "its limits by RateLimitMiddleware, its budgets by BudgetMiddleware." in text
    assert (path[0] == "accounts") == ("the layers that enforce them come in later releases" in text)


def test_help_on_create_says_that_the_proxy_needs_the_same_pepper(run: Run) -> None:
    assert "AUTHMW_PEPPER" in run("keys", "create", "--help").stdout


def test_the_version_is_the_packages(run: Run) -> None:
    assert f"llm-authmw {__version__}\n" == run("--version").stdout
