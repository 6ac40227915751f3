import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


def shown(run: Run, *which: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("accounts", "show", *which, "--json").stdout)
    return found


def test_create_adds_an_account_with_its_fields(run: Run, directory: Path) -> None:
    result = run(
        *("accounts", "create", "user", "ann", "--tenant", "acme", "--realm", "corp", "--limit", "60 requests/minute", "--json"),
        *("--budget", "50 usd/month", "--model", "gpt-4o*", "--role", "developer", "--metadata", "cost=42", "--actor", "boss"),
    )

    account = json.loads(result.stdout)
    assert {
        "kind": "user",
        "name": "ann",
        "tenant": "acme",
        "realm": "corp",
        "status": "active",
        "limits": ["60 requests/minute"],
        "budgets": ["50 usd/month"],
        "models": ["gpt-4o*"],
        "roles": ["developer"],
        "metadata": {"cost": "42"},
        "revision": 1,
    }.items() <= account.items()
    known = shown(run, "user", "ann", "--tenant", "acme", "--realm", "corp")
    assert [("create", "boss")] == [(entry["action"], entry["actor"]) for entry in known.pop("history")]
    assert account == known
    assert f"Made a new store: {directory / 'authmw.db'}\n" == result.stderr


@pytest.mark.parametrize("kind", ["user", "team", "org", "end_user"])
def test_an_account_of_each_kind_is_blocked_and_unblocked(run: Run, kind: str) -> None:
    assert f"{kind} x is active\n" == run("accounts", "create", kind, "x").stdout
    assert f"{kind} x is blocked\n" == run("accounts", "block", kind, "x").stdout
    assert "blocked" == shown(run, kind, "x")["status"]
    assert f"{kind} x is active\n" == run("accounts", "unblock", kind, "x").stdout
    assert ["create", "block", "unblock"] == [entry["action"] for entry in shown(run, kind, "x")["history"]]


@pytest.mark.parametrize(
    ("problem", "arguments"),
    [
        ("have no realm", ("team", "x", "--realm", "corp")),
        ("name is empty", ("team", "")),
        ("tenant is empty", ("team", "x", "--tenant", "")),
        ("not a budget", ("team", "x", "--budget", "much")),
        ("the actor's name is empty", ("team", "x", "--actor", "")),
    ],
)
def test_an_account_that_cannot_exist_is_refused(run: Run, directory: Path, problem: str, arguments: tuple[str, ...]) -> None:
    result = run("accounts", "create", *arguments, exit_code=1)

    assert problem in result.stderr
    assert "" == result.stdout
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize(
    "arguments", [("teem", "x"), ("team",), (), ("team", "x", "y"), ("team", "x", "--model", "a", "--deny-all-models")]
)
def test_a_wrong_command_line_is_told_from_a_refusal(run: Run, arguments: tuple[str, ...]) -> None:
    run("accounts", "create", *arguments, exit_code=2)


def test_an_account_exists_once(run: Run) -> None:
    run("accounts", "create", "team", "blue")

    assert "Error: this account exists\n" == run("accounts", "create", "team", "blue", exit_code=1).stderr
    assert {"code": "conflict", "message": "this account exists"} == json.loads(
        run("accounts", "create", "team", "blue", "--json", exit_code=1).stderr
    )["error"]


@pytest.mark.parametrize("verb", [("show",), ("update", "--role", "x"), ("block",), ("unblock",)], ids=lambda verb: verb[0])
def test_an_unknown_account_is_an_error_that_says_where_it_was_sought(run: Run, directory: Path, verb: tuple[str, ...]) -> None:
    run("accounts", "create", "team", "blue")

    for which in (("team", "green"), ("org", "blue"), ("team", "blue", "--tenant", "acme")):
        result = run("accounts", verb[0], *which, *verb[1:], exit_code=1)
        assert f"Error: there is no such account in {directory / 'authmw.db'}; see: llm-authmw accounts list\n" == result.stderr


def test_update_changes_what_is_named_and_clears_what_is_said(run: Run) -> None:
    run("accounts", "create", "team", "blue", "--budget", "50 usd/month", "--model", "a", "--role", "r", "--metadata", "a=b")

    run("accounts", "update", "team", "blue", "--budget", "60 usd/month", "--deny-all-models")
    changed = shown(run, "team", "blue")
    run("accounts", "update", "team", "blue", *(f"--clear={option}" for option in ("limit", "budget", "model", "role", "metadata")))
    cleared = shown(run, "team", "blue")

    assert (["60 usd/month"], [], ["r"], {"a": "b"}) == tuple(changed[field] for field in ("budgets", "models", "roles", "metadata"))
    assert ([], None, [], {}) == tuple(cleared[field] for field in ("budgets", "models", "roles", "metadata"))
    run("accounts", "update", "team", "blue", exit_code=2)
    run("accounts", "update", "team", "blue", "--clear", "tenant", exit_code=2)


def test_list_sorts_and_filters_and_goes_page_by_page(run: Run) -> None:
    for arguments in (("team", "blue"), ("user", "ann"), ("team", "red", "--tenant", "acme"), ("org", "widgets")):
        run("accounts", "create", *arguments)
    run("accounts", "block", "team", "blue")

    def names(*options: str) -> list[str]:
        return [account["name"] for account in json.loads(run("accounts", "list", "--json", *options).stdout)["accounts"]]

    everything = names()
    first = json.loads(run("accounts", "list", "--json", "--limit", "3").stdout)
    assert {"ann", "blue", "red", "widgets"} == set(everything)
    assert everything[3:] == names("--limit", "3", "--after", first["next"])
    assert f"--after {first['next']}" in run("accounts", "list", "--limit", "3").stderr
    assert ["red"] == names("--tenant", "acme")
    assert ["ann"] == names("--kind", "user")
    assert ["blue"] == names("--status", "blocked")
    assert ["widgets"] == names("--search", "IDGE")


def test_list_is_a_table_with_the_columns_that_say_something(run: Run, directory: Path) -> None:
    run("accounts", "create", "team", "blue", "--budget", "50 usd/month")
    plain = run("accounts", "list").stdout.splitlines()
    run("accounts", "create", "user", "ann", "--tenant", "acme")
    full = run("accounts", "list").stdout.splitlines()

    assert [["KIND", "NAME", "STATUS", "LIMITS", "BUDGETS"], ["team", "blue", "active", "-", "50", "usd/month"]] == [
        line.split() for line in plain
    ]
    assert ["KIND", "NAME", "TENANT", "REALM", "STATUS", "LIMITS", "BUDGETS"] == full[0].split()
    assert ["user", "ann", "acme", "keys", "active", "-", "-"] in [line.split() for line in full]
    assert f"No such accounts in {directory / 'authmw.db'}.\n" == run("accounts", "list", "--search", "nobody").stderr


def test_the_history_names_who_did_it(run: Run) -> None:
    for verb in (("create",), ("block",), ("unblock",), ("update", "--role", "x")):
        run("accounts", verb[0], "team", "blue", *verb[1:], "--actor", f"ticket {verb[0]}")

    history = shown(run, "team", "blue")["history"]

    assert [f"ticket {verb}" for verb in ("create", "block", "unblock", "update")] == [entry["actor"] for entry in history]


def test_show_says_everything_and_what_was_done(run: Run) -> None:
    run("accounts", "create", "team", "blue", "--budget", "50 usd/month", "--deny-all-models", "--metadata", "a=b")
    run("accounts", "block", "team", "blue", "--actor", "boss")

    text = run("accounts", "show", "team", "blue").stdout

    for part in ("blue", "blocked", "default", "none: nothing is allowed", "50 usd/month", "a=b", "boss", "status: active → blocked"):
        assert part in text
