import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from llm_authmw.keys.format import mint_key, parse_key

Run = Callable[..., Result]
MakeKey = Callable[..., tuple[str, str]]

EVERY_FIELD = (
    *("--name", "c-i", "--tenant", "acme", "--realm", "corp", "--user", "ann", "--team", "blue", "--org", "widgets"),
    *("--role", "developer", "--role", "admin", "--scope", "chat", "--model", "gpt-4o*", "--model", "!gpt-4o-realtime*"),
    *("--route", "POST /v1/chat/completions", "--tier", "gold", "--limit", "60 requests/minute", "--limit", "4 concurrent"),
    *("--budget", "50 usd/month", "--network", "10.0.0.0/8", "--tag", "x", "--tag", "a", "--metadata", "cost=a=b"),
    *("--not-before", "2030-01-01", "--expires", "2030-02-01T12:00Z"),
)


def shown(run: Run, key_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("keys", "show", key_id, "--json").stdout)
    return found


def test_create_prints_nothing_but_the_key_on_stdout(run: Run, directory: Path) -> None:
    result = run("keys", "create", "--name", "ci")

    key = result.stdout.removesuffix("\n")
    key_id = parse_key(key)
    assert key_id is not None
    assert (
        f"API key {key_id} (ci) is in {directory / 'authmw.db'}. Its text is printed now and never again:" == result.stderr.splitlines()[-1]
    )
    assert key not in result.stderr


def test_create_quietly_says_nothing_beside_the_key_where_the_store_exists(run: Run, make_key: MakeKey) -> None:
    make_key()

    result = run("keys", "create", "--quiet")

    assert parse_key(result.stdout.strip()) is not None
    assert "" == result.stderr


def test_create_in_json_gives_the_id_the_key_and_the_record(run: Run) -> None:
    created = json.loads(run("keys", "create", "--json", *EVERY_FIELD, "--prefix", "acme-").stdout)

    key = created.pop("key")
    assert created["id"] == parse_key(key)
    assert key.startswith("acme-")
    assert created["last_four"] == key[-4:]
    assert {"replayed": False, "state": "not yet valid", "status": "active", "imported": False, "revision": 1}.items() <= created.items()
    assert {
        "name": "c-i",
        "tenant": "acme",
        "realm": "corp",
        "user": "ann",
        "team": "blue",
        "org": "widgets",
        "roles": ["admin", "developer"],
        "scopes": ["chat"],
        "models": ["gpt-4o*", "!gpt-4o-realtime*"],
        "routes": ["POST /v1/chat/completions"],
        "tier": "gold",
        "limits": ["60 requests/minute", "4 concurrent"],
        "budgets": ["50 usd/month"],
        "networks": ["10.0.0.0/8"],
        "tags": ["a", "x"],
        "metadata": {"cost": "a=b"},
        "not_before": 1_893_456_000.0,
        "expires_at": 1_896_177_600.0,
    }.items() <= created.items()


def test_a_key_restricts_nothing_unless_told_to_and_may_allow_nothing(run: Run) -> None:
    free = json.loads(run("keys", "create", "--json").stdout)
    closed = json.loads(run("keys", "create", "--json", "--deny-all-models", "--deny-all-routes", "--deny-all-networks").stdout)

    assert [None, None, None] == [free["models"], free["routes"], free["networks"]]
    assert [[], [], []] == [closed["models"], closed["routes"], closed["networks"]]


@pytest.mark.parametrize(
    ("problem", "options"),
    [
        ("'60 bananas/minute'|'bananas' cannot be limited", ("--limit", "60 bananas/minute")),
        ("'50 eur' is not a budget", ("--budget", "50 eur")),
        ("is not a network", ("--network", "10.0.0.1/8")),
        ("'v1' is not a method|begins with '/'", ("--route", "v1")),
        ("a model pattern has one", ("--model", "a*b*")),
        ("user name must not begin with", ("--user", "key:x")),
        ("name is empty", ("--name", "")),
        ("tenant is empty", ("--tenant", "")),
        ("prefix: 'SK' is not", ("--prefix", "SK")),
        ("--expires: '30x' is not a moment", ("--expires", "30x")),
        ("--not-before: 'never' is not a moment", ("--not-before", "never")),
        ("--expires: a new key cannot have ended", ("--expires", "now")),
        ("--expires: a new key cannot have ended", ("--expires", "2020-01-01")),
        ("would end before it begins", ("--not-before", "2d", "--expires", "1d")),
        ("--metadata takes NAME=VALUE", ("--metadata", "cost")),
        ("--metadata takes NAME=VALUE, and each name once", ("--metadata", "a=1", "--metadata", "a=2")),
        ("metadata takes at most 16", tuple(word for number in range(17) for word in ("--metadata", f"n{number}=1"))),
        ("the actor's name is empty", ("--actor", "")),
    ],
)
def test_a_value_outside_its_grammar_is_refused_and_makes_no_store(
    run: Run, directory: Path, problem: str, options: tuple[str, ...]
) -> None:
    result = run("keys", "create", *options, exit_code=1)

    assert "" == result.stdout
    assert result.stderr.startswith("Error: ")
    assert 1 == result.stderr.count("\n")
    assert any(part in result.stderr for part in problem.split("|"))
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "a", "--deny-all-models"),
        ("--route", "/a", "--deny-all-routes"),
        ("--network", "10.0.0.0/8", "--deny-all-networks"),
        ("--idempotency-key", "a", "--expires", "30d"),
        ("--idempotency-key", "a", "--not-before", "now"),
        ("--no-such-option",),
        ("unexpected",),
    ],
)
def test_options_that_contradict_each_other_are_a_wrong_command_line(run: Run, directory: Path, options: tuple[str, ...]) -> None:
    result = run("keys", "create", *options, exit_code=2)

    assert "" == result.stdout
    assert "Usage: llm-authmw keys create" in result.stderr
    assert [] == list(directory.iterdir())


def test_a_repeated_create_gives_the_same_id_and_no_key(run: Run) -> None:
    call = ("keys", "create", "--idempotency-key", "job-7", "--expires", "2030-01-31", "--name", "ci")
    created = json.loads(run(*call, "--json").stdout)

    replayed = json.loads(run(*call, "--json").stdout)
    told = run(*call)
    quiet = run(*call, "--quiet")
    other = run(*call[:-1], "other", exit_code=1)

    assert (created["id"], None, True) == (replayed["id"], replayed["key"], replayed["replayed"])
    # What a script would take for the key must be empty and not the id.
    assert ("", "") == (told.stdout, quiet.stdout)
    assert created["id"] in told.stderr
    assert "was used for another call" in other.stderr


def test_list_shows_keys_newest_first_and_no_secret(run: Run, make_key: MakeKey) -> None:
    old_id, old = make_key("--name", "old", "--team", "blue")
    new_id, new = make_key("--name", "new", "--user", "ann", "--expires", "30d")

    result = run("keys", "list")

    heading, first, second = result.stdout.splitlines()
    assert ["ID", "NAME", "OWNER", "STATE", "EXPIRES", "LAST", "USED"] == heading.split()
    assert [new_id, "new", "user", "ann", "active", "in", "30d", "never"] == first.split()
    assert [old_id, "old", "team", "blue", "active", "never", "never"] == second.split()
    assert old not in result.output
    assert new not in result.output


def test_list_names_tenants_only_where_there_are_several(run: Run, make_key: MakeKey) -> None:
    make_key()
    assert "TENANT" not in run("keys", "list").stdout

    make_key("--tenant", "acme")

    assert "TENANT" in run("keys", "list").stdout
    assert "acme" in run("keys", "list").stdout


@pytest.mark.parametrize(
    "options",
    [
        ("--tenant", "acme"),
        ("--user", "ann"),
        ("--team", "blue"),
        ("--org", "widgets"),
        ("--tag", "x"),
        ("--state", "not-yet-valid"),
        ("--search", "C-"),
    ],
)
def test_every_filter_of_list_holds(run: Run, make_key: MakeKey, options: tuple[str, ...]) -> None:
    make_key("--name", "other", "--tag", "other", "--user", "other", "--team", "other", "--org", "other")
    wanted = json.loads(run("keys", "create", "--json", *EVERY_FIELD).stdout)

    listed = json.loads(run("keys", "list", "--json", *options).stdout)

    assert [wanted["id"]] == [key["id"] for key in listed["keys"]]
    assert listed["next"] is None


def test_list_goes_page_by_page(run: Run, make_key: MakeKey) -> None:
    made = [make_key()[0] for _ in range(3)]

    first = json.loads(run("keys", "list", "--json", "--limit", "2").stdout)
    second = json.loads(run("keys", "list", "--json", "--limit", "2", "--after", first["next"]).stdout)

    assert made[::-1] == [key["id"] for page in (first, second) for key in page["keys"]]
    assert second["next"] is None
    assert f"--after {first['next']}" in run("keys", "list", "--limit", "2").stderr


def test_an_empty_list_says_where_it_looked(run: Run, make_key: MakeKey, directory: Path) -> None:
    make_key()

    result = run("keys", "list", "--team", "blue")

    assert "" == result.stdout
    assert f"No such keys in {directory / 'authmw.db'}.\n" == result.stderr


@pytest.mark.parametrize("options", [("--after", "junk"), ("--unused-for", "soon")])
def test_list_refuses_what_it_cannot_read(run: Run, make_key: MakeKey, options: tuple[str, ...]) -> None:
    make_key()

    assert run("keys", "list", *options, exit_code=1).stderr.startswith("Error: ")


@pytest.mark.parametrize(
    "options",
    [
        ("--limit", "0"),
        ("--limit", "1001"),
        ("--state", "gone"),
        ("--unused-for", "1d", "--team", "blue"),
        ("--unused-for", "1d", "--state", "active"),
    ],
)
def test_list_refuses_a_filter_that_it_would_ignore(run: Run, make_key: MakeKey, options: tuple[str, ...]) -> None:
    make_key()

    run("keys", "list", *options, exit_code=2)


def test_the_report_of_unused_keys_lists_what_works_and_nobody_used(run: Run, make_key: MakeKey) -> None:
    blocked, _ = make_key()
    unused, _ = make_key()
    other, _ = make_key("--tenant", "acme")
    run("keys", "block", blocked)

    reported = json.loads(run("keys", "list", "--json", "--unused-for", "0").stdout)
    of_acme = json.loads(run("keys", "list", "--json", "--unused-for", "0", "--tenant", "acme").stdout)
    of_yesterday = json.loads(run("keys", "list", "--json", "--unused-for", "1d").stdout)

    assert [other, unused] == [key["id"] for key in reported["keys"]]
    assert [other] == [key["id"] for key in of_acme["keys"]]
    assert [] == of_yesterday["keys"]


def test_show_says_everything_but_the_secret(run: Run) -> None:
    created = json.loads(run("keys", "create", "--json", *EVERY_FIELD, "--actor", "boss").stdout)

    as_text = run("keys", "show", created["id"]).output
    as_json = run("keys", "show", created["id"], "--json").output

    for part in (
        *("c-i", "acme", "ann (realm corp)", "blue", "widgets", "admin; developer", "chat", "gpt-4o*; !gpt-4o-realtime*"),
        *("POST /v1/chat/completions", "10.0.0.0/8", "gold", "60 requests/minute; 4 concurrent", "50 usd/month", "a; x", "cost=a=b"),
        *("2030-01-01 00:00:00 UTC (in ", "2030-02-01 12:00:00 UTC (in ", "not yet valid", f"ends in     {created['last_four']}", "boss"),
    ):
        assert part in as_text
    for secret in (created["key"], hashlib.sha256(created["key"].encode()).hexdigest()):
        assert secret not in as_text
        assert secret not in as_json
    known = json.loads(as_json)
    history = known.pop("history")
    assert known == {field: value for field, value in created.items() if field not in {"key", "replayed"}}
    assert [("create", "boss")] == [(entry["action"], entry["actor"]) for entry in history]


def test_show_tells_no_restriction_from_nothing_allowed(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--deny-all-models")

    lines = [line.split(maxsplit=1) for line in run("keys", "show", key_id).stdout.splitlines() if line]

    assert ["models", "none: nothing is allowed"] in lines
    assert ["routes", "any"] in lines
    assert ["networks", "any"] in lines


def test_update_changes_what_is_named_and_nothing_else(run: Run) -> None:
    before = json.loads(run("keys", "create", "--json", *EVERY_FIELD).stdout)

    after = json.loads(run("keys", "update", before["id"], "--json", "--model", "o4*", "--expires", "2031-01-01").stdout)

    changed = {field for field in after if before[field] != after[field]}
    assert {"models", "expires_at", "revision"} == changed
    assert (["o4*"], 1_924_992_000.0) == (after["models"], after["expires_at"])
    assert after == {field: value for field, value in shown(run, before["id"]).items() if field != "history"}


def test_update_expires_a_key_now_and_brings_it_back(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--name", "ci")

    ended = run("keys", "update", key_id, "--expires", "now")
    state = shown(run, key_id)["state"]
    run("keys", "update", key_id, "--expires", "never")

    assert f"{key_id} (ci) is expired, expiry now\n" == ended.stdout
    assert "expired" == state
    assert ("active", None) == (shown(run, key_id)["state"], shown(run, key_id)["expires_at"])


def test_update_clears_every_field_that_can_be_cleared(run: Run) -> None:
    created = json.loads(run("keys", "create", "--json", *EVERY_FIELD).stdout)
    lists = ("role", "scope", "model", "route", "limit", "budget", "network", "tag", "metadata")
    options = ("name", "user", "team", "org", "tier", "not-before", "expires", *lists)

    cleared = json.loads(run("keys", "update", created["id"], "--json", *(f"--clear={option}" for option in options)).stdout)

    for field in ("name", "user", "team", "org", "models", "routes", "tier", "networks", "not_before", "expires_at"):
        assert cleared[field] is None
    for field in ("roles", "scopes", "limits", "budgets", "tags"):
        assert [] == cleared[field]
    assert {} == cleared["metadata"]
    assert ("acme", "corp") == (cleared["tenant"], cleared["realm"])


def test_update_allows_nothing_or_anything(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--model", "a", "--route", "/a", "--network", "10.0.0.0/8")

    run("keys", "update", key_id, "--deny-all-models", "--deny-all-routes", "--deny-all-networks")
    closed = shown(run, key_id)
    run("keys", "update", key_id, "--clear", "model", "--clear", "route", "--clear", "network")
    free = shown(run, key_id)

    assert [[], [], []] == [closed["models"], closed["routes"], closed["networks"]]
    assert [None, None, None] == [free["models"], free["routes"], free["networks"]]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--name", "x", "--clear", "name"),
        ("--deny-all-models", "--clear", "model"),
        ("--clear", "tag", "--clear", "tag"),
        ("--clear", "tenant"),
        ("--json",),
    ],
)
def test_an_update_that_says_nothing_or_two_things_is_a_wrong_command_line(run: Run, make_key: MakeKey, options: tuple[str, ...]) -> None:
    key_id, _ = make_key()

    run("keys", "update", key_id, *options, exit_code=2)

    assert 1 == shown(run, key_id)["revision"]


def test_rotate_prints_another_text_of_the_same_key(run: Run, make_key: MakeKey) -> None:
    key_id, old = make_key("--name", "ci")

    result = run("keys", "rotate", key_id)

    new = result.stdout.removesuffix("\n")
    assert (key_id, False) == (parse_key(new), new == old)
    assert f"API key {key_id} (ci) has a new text" in result.stderr
    assert "the old one works until " in result.stderr
    assert new[-4:] == shown(run, key_id)["last_four"]
    assert "" == run("keys", "rotate", key_id, "--quiet").stderr


def test_rotate_without_grace_says_that_the_old_text_has_ended(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key()

    result = run("keys", "rotate", key_id, "--grace", "0", "--prefix", "acme-")

    assert "the old one has ended" in result.stderr
    assert result.stdout.startswith("acme-")


def test_a_repeated_rotate_rotates_once(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key()
    call = ("keys", "rotate", key_id, "--idempotency-key", "job-8", "--json")

    first = json.loads(run(*call).stdout)
    again = json.loads(run(*call).stdout)

    assert key_id == parse_key(first["key"])
    assert (None, True, first["revision"]) == (again["key"], again["replayed"], again["revision"])


@pytest.mark.parametrize("grace", ["-1s", "soon", "400d"])
def test_rotate_refuses_a_grace_that_is_none(run: Run, make_key: MakeKey, grace: str) -> None:
    key_id, _ = make_key()

    run("keys", "rotate", key_id, f"--grace={grace}", exit_code=1)

    assert 1 == shown(run, key_id)["revision"]


def test_a_key_is_blocked_unblocked_and_revoked_for_good(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--name", "ci")

    assert f"{key_id} (ci) is blocked\n" == run("keys", "block", key_id).stdout
    assert "blocked" == shown(run, key_id)["state"]
    assert f"{key_id} (ci) is active\n" == run("keys", "unblock", key_id).stdout
    assert f"{key_id} (ci) is revoked\n" == run("keys", "revoke", key_id).stdout
    for verb in (("unblock",), ("block",), ("rotate",), ("update", "--name", "x")):
        assert "revoked, which is final" in run("keys", verb[0], key_id, *verb[1:], exit_code=1).stderr
    assert ["create", "block", "unblock", "revoke"] == [entry["action"] for entry in shown(run, key_id)["history"]]


@pytest.mark.parametrize("verb", ["block", "unblock", "revoke"])
def test_a_verb_on_a_key_answers_in_json_with_the_key(run: Run, make_key: MakeKey, verb: str) -> None:
    key_id, _ = make_key()

    answer = json.loads(run("keys", verb, key_id, "--json").stdout)

    assert answer == {field: value for field, value in shown(run, key_id).items() if field != "history"}


VERBS_ON_A_KEY = [("show",), ("update", "--name", "x"), ("rotate",), ("block",), ("unblock",), ("revoke",)]


@pytest.mark.parametrize("verb", VERBS_ON_A_KEY, ids=lambda verb: verb[0])
def test_an_unknown_key_is_an_error_that_says_where_it_was_sought(
    run: Run, make_key: MakeKey, directory: Path, verb: tuple[str, ...]
) -> None:
    make_key()

    result = run("keys", verb[0], "0000000000000000", *verb[1:], exit_code=1)

    assert f"Error: there is no such API key in {directory / 'authmw.db'}; see: llm-authmw keys list\n" == result.stderr


@pytest.mark.parametrize("verb", VERBS_ON_A_KEY, ids=lambda verb: verb[0])
def test_a_key_of_another_tenant_is_refused_where_a_tenant_is_named(run: Run, make_key: MakeKey, verb: tuple[str, ...]) -> None:
    key_id, _ = make_key("--tenant", "acme")

    run("keys", verb[0], key_id, *verb[1:], "--tenant", "default", exit_code=1)
    assert 1 == shown(run, key_id)["revision"]

    run("keys", verb[0], key_id, *verb[1:], "--tenant", "acme")


@pytest.mark.parametrize("verb", VERBS_ON_A_KEY, ids=lambda verb: verb[0])
def test_a_key_given_by_its_text_is_refused_without_repeating_it(run: Run, make_key: MakeKey, verb: tuple[str, ...]) -> None:
    key_id, key = make_key()

    result = run("keys", verb[0], key, *verb[1:], exit_code=1)

    assert f"give the key's id, {key_id}" in result.stderr
    assert key not in result.output
    assert 1 == shown(run, key_id)["revision"]


def test_the_history_names_who_did_it(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key()
    run("keys", "block", key_id, "--actor", "ticket 42")

    history = shown(run, key_id)["history"]

    assert history[0]["actor"].startswith("cli:")
    assert "cli:" != history[0]["actor"]
    assert "ticket 42" == history[1]["actor"]
    assert {"status": ["active", "blocked"]} == history[1]["changes"]
    assert abs(time.time() - history[1]["at"]) < 60
    assert "status: active → blocked" in run("keys", "show", key_id).stdout


def test_the_history_says_what_was_taken_away(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--team", "blue", "--tag", "x", "--expires", "2030-01-31", "--metadata", "a=b")
    run("keys", "update", key_id, *(f"--clear={option}" for option in ("team", "tag", "expires", "metadata")))

    *_, update = run("keys", "show", key_id).stdout.splitlines()

    for change in ("team: blue → -", "tags: 'x' → none", "expires_at: 2030-01-31 00:00:00 UTC → -", "metadata: a=b → none"):
        assert change in update


def test_the_name_of_who_did_it_is_the_systems_and_not_the_environments(
    run: Run, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "somebody-else")
    key_id, _ = make_key()

    assert "somebody-else" not in run("keys", "show", key_id).stdout


def test_a_user_without_a_name_is_a_number(run: Run, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", nameless)
    key_id, _ = make_key()

    assert f"cli:{os.getuid()}" == shown(run, key_id)["history"][0]["actor"]


def test_where_there_are_no_numbered_users_the_environment_is_asked(run: Run, make_key: MakeKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pwd", None)
    monkeypatch.setenv("LOGNAME", "ann")
    key_id, _ = make_key()

    assert "cli:ann" == shown(run, key_id)["history"][0]["actor"]


def test_a_well_formed_key_that_nobody_made_names_no_key(run: Run, make_key: MakeKey) -> None:
    make_key()
    stranger = mint_key()

    result = run("keys", "revoke", stranger.text, exit_code=1)

    assert stranger.text not in result.output
