import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from tests.peers.needs import need

Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def team(run: Run) -> None:
    run("accounts", "create", "team", "blue", "--budget", "50 usd/month", "--limit", "60 requests/minute")


@pytest.fixture
def server() -> Callable[..., Any]:
    """Start a server with options, and end it."""
    need("redis")
    from tests.peers.valkey import valkey  # noqa: PLC0415 - an absent server is a skip

    return valkey


def checked(run: Run, *options: str, exit_code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("ledger", "check", *options, "--json", exit_code=exit_code).stdout)
    return found


def test_a_store_that_counts_for_itself_is_named_for_both(run: Run) -> None:
    found = checked(run)

    assert ["money", "rates"] == list(found)
    for one in found.values():
        assert one.pop("place").endswith("authmw.db")
        assert {"answers": True, "problem": None} == one
    assert ["COUNTS", "WHERE", "ANSWERS", "PROBLEM"] == run("ledger", "check").stdout.splitlines()[0].split()


def test_a_server_that_is_not_there_ends_with_1_and_says_what_it_is_asked_for(run: Run) -> None:
    need("redis")
    result = run("ledger", "check", "--counters", "redis://me:hunter2@127.0.0.1:1/0", exit_code=1)

    money, rates = result.stdout.splitlines()[1:]
    assert "yes" in money.split()
    assert "redis://me:***@127.0.0.1:1/0" in rates
    assert "cannot be reached" in rates
    assert "hunter2" not in result.output


@pytest.mark.parametrize("option", ["counters", "ledger"])
def test_a_url_that_is_none_is_an_error_about_its_option(run: Run, monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    need("redis")
    problem = f"Error: --{option} or AUTHMW_{option.upper()}: takes redis://"

    assert run("ledger", "check", f"--{option}", "http://x", exit_code=1).stderr.startswith(problem)
    monkeypatch.setenv(f"AUTHMW_{option.upper()}", "http://x")
    assert run("ledger", "check", exit_code=1).stderr.startswith(problem)
    if option == "ledger":
        assert run("ledger", "acknowledge", exit_code=1).stderr.startswith(problem)


def test_an_option_goes_before_all_of_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    need("redis")
    monkeypatch.setenv("AUTHMW_COUNTERS", "redis://127.0.0.1:1/1")
    assert "redis://127.0.0.1:1/1" == checked(run, exit_code=1)["rates"]["place"]

    both = checked(run, "--ledger", "redis://127.0.0.1:1/2", exit_code=1)
    assert {"redis://127.0.0.1:1/2"} == {one["place"] for one in both.values()}
    monkeypatch.setenv("AUTHMW_LEDGER", "redis://127.0.0.1:1/3")
    assert "would be ignored" in run("ledger", "check", exit_code=1).stderr


def test_verbs_that_ask_no_ledger_do_not_look_where_it_is(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHMW_LEDGER", "http://x")

    run("keys", "create")
    run("budgets", "raise", "team", "blue", "--by", "1 usd", "--until", "7d")


def test_without_the_extra_it_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "redis" or name.startswith(("redis.", "llm_authmw.stores.redis"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)

    for verb in ("check", "acknowledge"):
        error = json.loads(run("ledger", verb, "--ledger", "redis://127.0.0.1:1/0", "--json", exit_code=1).stderr)["error"]
        assert "missing_extra" == error["code"]
        assert "--ledger or AUTHMW_LEDGER: needs an optional dependency: pip install 'llm-authmw[redis]'" == error["message"]


def test_where_no_ledger_is_in_redis_there_is_nothing_to_acknowledge(run: Run) -> None:
    assert "no ledger in Redis is named" in run("ledger", "acknowledge", exit_code=1).stderr
    run("ledger", "acknowledge", "--counters", "redis://127.0.0.1:1/0", exit_code=2)


def test_a_new_ledger_is_noticed_and_counts_once_it_is_acknowledged(run: Run, server: Callable[..., Any]) -> None:
    with server("--appendonly", "yes") as peer:
        options = ("--ledger", peer.url)
        found = checked(run, *options, exit_code=1)
        assert "llm-authmw ledger acknowledge" in found["money"]["problem"]
        assert found["money"] == found["rates"]
        assert "acknowledge" in run("budgets", "show", "team", "blue", *options, exit_code=1).stderr

        assert {"ledger": peer.url, "acknowledged": True} == json.loads(run("ledger", "acknowledge", *options, "--json").stdout)
        assert checked(run, *options)["money"]["answers"]
        found = json.loads(run("budgets", "show", "team", "blue", *options, "--json").stdout)
        assert (peer.url, 50 * 10**9) == (found["ledger"], found["budgets"][0]["left_nano_usd"])
        assert "has lost nothing" in run("ledger", "acknowledge", *options).stdout
        (found,) = [json.loads(line) for line in run("audit", "search", "--json").stdout.splitlines() if '"ledger"' in line]
        assert {"what": "ledger", "target": peer.url, "action": "acknowledge"} == found["change"]


@pytest.mark.parametrize(
    ("option", "settings", "problem"),
    [
        ("--ledger", ("--appendonly", "no"), "set appendonly yes"),
        ("--ledger", ("--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"), "set maxmemory-policy noeviction"),
        ("--counters", ("--maxmemory-policy", "allkeys-lru"), "set maxmemory-policy noeviction"),
    ],
)
def test_a_server_that_may_lose_what_it_is_given_is_found_out(
    run: Run, server: Callable[..., Any], option: str, settings: tuple[str, ...], problem: str
) -> None:
    with server(*settings) as peer:
        found = checked(run, option, peer.url, exit_code=1)

        assert problem in found["rates"]["problem"]
        assert (option == "--counters") == found["money"]["answers"]
        if option == "--ledger":
            assert problem in run("ledger", "acknowledge", option, peer.url, exit_code=1).stderr


def test_rates_are_read_from_the_counters_that_are_named(run: Run, valkey_url: str) -> None:
    found = json.loads(run("limits", "show", "team", "blue", "--counters", valkey_url, "--json").stdout)

    assert (valkey_url, 0, 6) == (found["counters"], found["limits"][0]["used"], found["limits"][0]["left"])
