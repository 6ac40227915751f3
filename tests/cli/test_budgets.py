import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from click.testing import Result
from starlette.middleware import Middleware

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, Stack, open_store
from llm_authmw.dates import moment_text
from llm_authmw.quota import NANO_USD
from llm_authmw.testing import request
from llm_authmw.testing.provider import MockProvider

Run = Callable[..., Result]
MakeKey = Callable[..., tuple[str, str]]

BODY = {"model": "gpt-4o", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]}
COST = 1 * 1000 + 4 * 2000
"""What the mock's answer costs: one word of the request, four of the answer."""


def spend(key: str) -> None:
    """Have a key answered by a proxy on the store of this directory."""

    async def ask() -> None:
        async with open_store("sqlite:///authmw.db", deadline=10) as store:
            app = Stack(
                Middleware(KeyAuthMiddleware, keys=store.keys),
                Middleware(BudgetMiddleware, ledger=store.ledger, prices={"*": Price(input=1, output=2)}),
            )(MockProvider())
            answer = await request(app, "POST /v1/chat/completions", json=BODY, headers=[(b"x-api-key", key.encode())])
            assert 200 == answer.status

    anyio.run(ask)


def shown(run: Run, *which: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("budgets", "show", *which, "--json").stdout)["budgets"]
    return found


def history(run: Run, *which: str) -> list[tuple[str, str]]:
    return [(entry["action"], entry["actor"]) for entry in json.loads(run(*which, "--json").stdout)["history"]]


def test_show_says_to_the_nano_dollar_what_a_key_and_its_accounts_have_left(run: Run, make_key: MakeKey) -> None:
    run("accounts", "create", "team", "blue", "--budget", "5 usd")
    key_id, key = make_key("--team", "blue", "--budget", "2.000000001 usd/month, soft 80%")
    spend(key)

    own, team = shown(run, "key", key_id)
    assert "2.000000001 usd/month, soft 80%" == own["budget"]
    assert (f"key:{key_id}", "default", f"key:{key_id} / nano_usd / month") == (own["of"], own["tenant"], own["bucket"])
    assert (COST, 2 * NANO_USD + 1, 2 * NANO_USD + 1 - COST) == (own["used_nano_usd"], own["limit_nano_usd"], own["left_nano_usd"])
    assert own["ends_at"] > 0
    assert ("team:blue / nano_usd / ever", 5 * NANO_USD - COST, None) == (team["bucket"], team["left_nano_usd"], team["ends_at"])
    assert [team] == shown(run, "team", "blue")

    heading, *rows = run("budgets", "show", "key", key_id).stdout.splitlines()
    assert ["BUDGET", "OF", "USED", "LIMIT", "LEFT", "UNTIL"] == heading.split()
    assert "0.000009 usd" in rows[0]
    assert "1.999991001 usd" in rows[0]
    assert rows[1].endswith("for ever")


def test_who_has_no_budget_is_told_so(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--name", "ci")

    result = run("budgets", "show", "key", key_id)
    assert ("", f"key {key_id} (ci) has no budget of its own, nor has an account that it belongs to.\n") == (
        result.stdout,
        result.stderr,
    )
    assert [] == shown(run, "key", key_id)


@pytest.mark.parametrize(
    ("problem", "listing", "which"),
    [
        ("no such API key", "keys list", ("key", "nobody")),
        ("no such account", "accounts list --kind team", ("team", "green")),
        ("no such account", "accounts list --kind team", ("team", "blue", "--tenant", "acme")),
        ("no such account", "accounts list --kind user", ("user", "blue", "--realm", "corp")),
    ],
)
@pytest.mark.parametrize("verb", [("show",), ("raise", "--by", "1 usd", "--until", "2100-01-01"), ("reset",)], ids=lambda verb: verb[0])
def test_who_is_not_there_is_an_error_that_says_where_to_look(
    run: Run, verb: tuple[str, ...], problem: str, listing: str, which: tuple[str, ...]
) -> None:
    run("accounts", "create", "team", "blue", "--budget", "5 usd")

    result = run("budgets", *verb, *which, exit_code=1)
    assert problem in result.stderr
    assert result.stderr.endswith(f"see: llm-authmw {listing}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "end_user", "x"),
        ("show", "key"),
        ("show", "key", "x", "--realm", "corp", "--tenant", "acme"),
        ("show", "key", "x", "--realm", "corp"),
        ("raise", "team", "blue", "--by", "1 usd"),
        ("raise", "team", "blue", "--until", "7d"),
        ("reset", "team", "blue", "--window", "fortnight"),
    ],
)
def test_a_wrong_command_line_is_told_from_a_refusal(run: Run, arguments: tuple[str, ...]) -> None:
    run("accounts", "create", "team", "blue", "--budget", "5 usd")

    run("budgets", *arguments, exit_code=2)


def test_the_text_of_a_key_is_refused_and_not_printed_back(run: Run, make_key: MakeKey) -> None:
    key_id, key = make_key("--budget", "5 usd")

    result = run("budgets", "show", "key", key, exit_code=1)
    assert f"give the key's id, {key_id}" in result.stderr
    assert key not in result.output


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        ("say which by its window", ("--by", "20 usd", "--until", "2100-01-01")),
        ("no budget for a year", ("--by", "20 usd", "--until", "2100-01-01", "--window", "year")),
        ("is not an increase such as", ("--by", "20", "--until", "2100-01-01", "--window", "day")),
        ("would be over already", ("--by", "20 usd", "--until", "2020-01-01", "--window", "day")),
        ("would be over already", ("--by", "20 usd", "--until", "now", "--window", "day")),
    ],
)
def test_a_raise_that_cannot_be_changes_nothing(run: Run, problem: str, options: tuple[str, ...]) -> None:
    run("accounts", "create", "team", "blue", "--budget", "50 usd/month", "--budget", "5 usd/day")

    assert problem in run("budgets", "raise", "team", "blue", *options, exit_code=1).stderr
    assert ["create"] == [action for action, _ in history(run, "accounts", "show", "team", "blue")]


def test_a_raise_is_there_at_once_and_in_the_history(run: Run, make_key: MakeKey) -> None:
    key_id, key = make_key("--budget", "0.01 usd", "--team", "blue")
    spend(key)

    result = run("budgets", "raise", "key", key_id, "--by", "20 usd", "--until", "2100-01-01", "--actor", "boss")
    assert f"key {key_id} has 0.01 usd, plus 20 usd until 2100-01-01\n" == result.stdout
    (budget,) = shown(run, "key", key_id)
    assert (COST, 20 * NANO_USD + 10_000_000) == (budget["used_nano_usd"], budget["limit_nano_usd"])
    assert ("raise", "boss") == history(run, "keys", "show", key_id)[-1]


def test_a_second_raise_adds_to_the_same_end_and_replaces_another_one_only_where_that_is_asked(run: Run) -> None:
    run("accounts", "create", "user", "ann", "--realm", "corp", "--tenant", "acme", "--budget", "50 usd/month")
    which = ("budgets", "raise", "user", "ann", "--realm", "corp", "--tenant", "acme", "--by", "20 usd", "--json")

    def after(*options: str) -> list[str]:
        found: list[str] = json.loads(run(*which, *options).stdout)["budgets"]
        return found

    assert ["50 usd/month, plus 20 usd until 2100-01-01"] == after("--until", "2100-01-01")
    assert ["50 usd/month, plus 40 usd until 2100-01-01"] == after("--until", "2100-01-01")
    refused = json.loads(run(*which, "--until", "2100-01-02", exit_code=1).stderr)["error"]
    assert "invalid_value" == refused["code"]
    assert "replace it" in refused["message"]
    assert ["50 usd/month, plus 20 usd until 2100-01-02"] == after("--until", "2100-01-02", "--replace")
    (relative,) = after("--until", "7d", "--replace")
    assert relative.startswith("50 usd/month, plus 20 usd until 2")


def test_a_revoked_key_is_not_raised(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--budget", "5 usd")
    run("keys", "revoke", key_id)

    assert "revoked, which is final" in run("budgets", "raise", "key", key_id, "--by", "1 usd", "--until", "7d", exit_code=1).stderr


def test_a_reset_leaves_the_whole_amount_and_keeps_what_was_used(run: Run, make_key: MakeKey) -> None:
    key_id, key = make_key("--budget", "5 usd/month", "--budget", "100 usd")
    spend(key)

    run("budgets", "reset", "key", key_id, "--window", "month", "--actor", "boss")
    month, ever = shown(run, "key", key_id)
    assert (COST, 5 * NANO_USD) == (month["used_nano_usd"], month["left_nano_usd"])
    assert f"5 usd/month, plus 0.000009 usd until {moment_text(round(month['ends_at']), 'UTC')}" == month["budget"]
    assert 100 * NANO_USD - COST == ever["left_nano_usd"]
    assert ("reset", "boss") == history(run, "keys", "show", key_id)[-1]

    spend(key)
    run("budgets", "reset", "key", key_id, "--window", "month")
    month, _ = shown(run, "key", key_id)
    assert (2 * COST, 5 * NANO_USD) == (month["used_nano_usd"], month["left_nano_usd"])


def test_a_reset_of_a_budget_for_ever_has_no_end(run: Run, make_key: MakeKey) -> None:
    run("accounts", "create", "team", "blue", "--budget", "100 usd")
    _, key = make_key("--team", "blue")
    spend(key)

    assert "team blue has 100 usd, plus 0.000009 usd until 2255-01-01\n" == run("budgets", "reset", "team", "blue").stdout
    assert [100 * NANO_USD] == [one["left_nano_usd"] for one in shown(run, "team", "blue")]


def test_a_reset_of_what_is_whole_is_said_to_be_none_and_leaves_no_trace(run: Run, make_key: MakeKey) -> None:
    key_id, key = make_key("--budget", "5 usd/month")
    spend(key)
    run("budgets", "reset", "key", key_id)

    result = run("budgets", "reset", "key", key_id)
    assert "Nothing was to be done: the whole amount is left.\n" == result.stderr
    assert ["create", "reset"] == [action for action, _ in history(run, "keys", "show", key_id)]


def test_a_reset_keeps_an_increase_that_outlasts_the_window_unless_it_is_replaced(run: Run, make_key: MakeKey) -> None:
    key_id, key = make_key("--budget", "5 usd/day, plus 0.000001 usd until 2100-01-01")
    spend(key)

    assert "would be lost" in run("budgets", "reset", "key", key_id, exit_code=1).stderr
    assert "plus 0.000009 usd until" in run("budgets", "reset", "key", key_id, "--replace").stdout
