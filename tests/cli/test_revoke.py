import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]

ISSUER = "https://issuer.example"
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJqdGkiOiJqdGktMSJ9.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def store(run: Run) -> None:
    """A store that exists: nothing here makes one."""
    run("keys", "create", "--quiet")


def made(run: Run, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run("revoke", *arguments, "--json").stdout)
    return found


def listed(run: Run, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = made(run, "list", *options)["revocations"]
    return found


def test_a_token_is_revoked_with_all_that_was_said_about_it(run: Run) -> None:
    revoked = made(
        run, "token", ISSUER, "jti-1", "--expires", "2100-01-31", "--tenant", "acme", "--note", "was in a log", "--actor", "ticket 4711"
    )

    assert {
        "kind": "token",
        "issuer": ISSUER,
        "value": "jti-1",
        "tenant": "acme",
        "issued_before": None,
        "expires_at": 4_105_036_800.0,
        "actor": "ticket 4711",
        "note": "was in a log",
        "lifted_at": None,
        "lifted_by": None,
    }.items() <= revoked.items()
    assert [revoked] == listed(run)


def test_a_subject_is_revoked_until_now_or_until_the_moment_that_is_named(run: Run) -> None:
    before = time.time()
    now = made(run, "subject", ISSUER, "ann")
    then = made(run, "subject", ISSUER, "bob", "--issued-before", "2020-01-31T18:00Z", "--expires", "never")
    ahead = made(run, "subject", ISSUER, "cat", "--issued-before", "5m", "--expires", "1h")

    assert before <= now["issued_before"] <= time.time()
    assert (1_580_493_600.0, None) == (then["issued_before"], then["expires_at"])
    assert (300, 3600) == tuple(round(ahead[name] - ahead["created_at"], -1) for name in ("issued_before", "expires_at"))
    assert {"subject"} == {revoked["kind"] for revoked in (now, then, ahead)}


def test_a_key_is_revoked_for_good(run: Run) -> None:
    revoked = made(run, "key", ISSUER, "kid-1", "--note", "leaked")

    assert ("key", "kid-1", None, None, "leaked", "default") == tuple(
        revoked[name] for name in ("kind", "value", "issued_before", "expires_at", "note", "tenant")
    )
    assert revoked["actor"].startswith("cli:")
    run("revoke", "key", ISSUER, "kid-1", "--expires", "1h", exit_code=2)


def test_a_person_is_told_in_one_line_what_is_revoked(run: Run) -> None:
    lines = [
        run("revoke", *arguments).stdout
        for arguments in (
            ("token", ISSUER, "jti-1"),
            ("subject", ISSUER, "ann", "--issued-before", "2020-01-31T18:00Z"),
            ("key", ISSUER, "kid-1"),
        )
    ]

    ids = [line.partition(":")[0] for line in lines]
    assert [
        f"{ids[0]}: token jti-1 of {ISSUER} is revoked\n",
        f"{ids[1]}: tokens of ann of {ISSUER} issued until 2020-01-31 18:00:00 UTC are revoked\n",
        f"{ids[2]}: tokens signed with key kid-1 of {ISSUER} are revoked\n",
    ] == lines
    assert f"{ids[0]}: token jti-1 of {ISSUER} is no longer revoked\n" == run("revoke", "lift", ids[0]).stdout
    assert set(ids) - {ids[0]} == {revocation["id"] for revocation in listed(run)}


def test_revoking_again_gives_the_revocation_that_stands(run: Run) -> None:
    first = made(run, "token", ISSUER, "jti-1", "--expires", "2100-01-31", "--actor", "ada")

    assert first == made(run, "token", ISSUER, "jti-1", "--expires", "1d", "--actor", "bob")
    assert {**first, "expires_at": None, "actor": "bob"} == made(run, "token", ISSUER, "jti-1", "--actor", "bob")


@pytest.mark.parametrize(
    ("problem", "arguments"),
    [
        ("issuer is empty", ("token", "", "jti-1")),
        ("jti is empty", ("token", ISSUER, "")),
        ("jti is the id in a token's claims, and this looks like a whole token", ("token", ISSUER, TOKEN)),
        ("--expires: 'tomorrow' is not a moment", ("token", ISSUER, "jti-1", "--expires", "tomorrow")),
        ("expires_at is more than a day ago", ("token", ISSUER, "jti-1", "--expires", "2020-01-31")),
        ("tenant is empty", ("token", ISSUER, "jti-1", "--tenant", "")),
        ("note is empty", ("token", ISSUER, "jti-1", "--note", "")),
        ("the actor's name is empty", ("token", ISSUER, "jti-1", "--actor", "")),
        ("subject is empty", ("subject", ISSUER, "")),
        ("--issued-before: 'never' is not a moment", ("subject", ISSUER, "ann", "--issued-before", "never")),
        ("--expires: '30x' is not a moment", ("subject", ISSUER, "ann", "--expires", "30x")),
        ("kid is empty", ("key", ISSUER, "")),
    ],
)
def test_what_cannot_be_revoked_is_refused_in_one_line(run: Run, problem: str, arguments: tuple[str, ...]) -> None:
    result = run("revoke", *arguments, exit_code=1)

    assert "" == result.stdout
    assert problem in result.stderr
    assert 1 == result.stderr.count("\n")
    assert TOKEN not in result.stderr
    assert [] == listed(run)


@pytest.mark.parametrize(
    "arguments",
    [("token", ISSUER), ("subject",), ("key", ISSUER, "kid", "more"), ("session", ISSUER, "x"), ("lift",), ("list", "--kind", "session")],
    ids=lambda arguments: arguments[0],
)
def test_a_wrong_command_line_is_told_from_a_refusal(run: Run, arguments: tuple[str, ...]) -> None:
    run("revoke", *arguments, exit_code=2)


def test_a_revocation_that_is_lifted_says_who_lifted_it(run: Run) -> None:
    revoked = made(run, "token", ISSUER, "jti-1", "--tenant", "acme")

    lifted = made(run, "lift", revoked["id"], "--tenant", "acme", "--actor", "boss")

    assert {**revoked, "lifted_at": lifted["lifted_at"], "lifted_by": "boss"} == lifted
    assert lifted["lifted_at"] >= revoked["created_at"]
    assert lifted == made(run, "lift", revoked["id"], "--actor", "somebody else")
    assert [] == listed(run)
    assert [lifted] == listed(run, "--lifted")


def test_an_unknown_revocation_is_an_error_that_says_where_it_was_sought(run: Run, directory: Path) -> None:
    revoked = made(run, "token", ISSUER, "jti-1")

    for which in (("rv-nobody",), (revoked["id"], "--tenant", "acme")):
        result = run("revoke", "lift", *which, exit_code=1)
        assert f"Error: there is no such revocation in {directory / 'authmw.db'}; see: llm-authmw revoke list\n" == result.stderr
    assert [revoked] == listed(run)


def test_list_filters_and_goes_page_by_page(run: Run) -> None:
    for arguments in (
        ("token", ISSUER, "x"),
        ("subject", ISSUER, "ann"),
        ("key", "https://other.example", "x"),
        ("key", ISSUER, "k", "--tenant", "acme"),
    ):
        run("revoke", *arguments)

    def values(*options: str) -> list[str]:
        return [revocation["value"] for revocation in listed(run, *options)]

    assert ["k", "x", "ann", "x"] == values()
    assert ["k"] == values("--tenant", "acme")
    assert ["k", "x"] == values("--kind", "key")
    assert ["x"] == values("--issuer", "https://other.example")
    assert ["x", "x"] == values("--value", "x")
    first = made(run, "list", "--limit", "3")
    assert ["x"] == values("--limit", "3", "--after", first["next"])
    assert f"--after {first['next']}" in run("revoke", "list", "--limit", "3").stderr


def test_list_is_a_table_with_the_columns_that_say_something(run: Run, directory: Path) -> None:
    assert f"No such revocations in {directory / 'authmw.db'}.\n" == run("revoke", "list").stderr
    token = made(run, "token", ISSUER, "jti-1", "--actor", "ada", "--note", "leaked")
    plain = run("revoke", "list").stdout.splitlines()
    subject = made(run, "subject", ISSUER, "ann", "--tenant", "acme", "--issued-before", "2020-01-31", "--expires", "10d", "--actor", "bob")
    full = run("revoke", "list").stdout.splitlines()
    run("revoke", "lift", subject["id"], "--actor", "boss")
    lifted = run("revoke", "list", "--lifted").stdout.splitlines()

    assert ["ID", "KIND", "VALUE", "ISSUER", "REVOKED", "BY", "EXPIRES", "NOTE"] == plain[0].split()
    assert f"{token['id']} token jti-1 {ISSUER}".split() == plain[1].split()[:4]
    assert ["ada", "never", "leaked"] == plain[1].split()[-3:]
    assert ["ID", "KIND", "VALUE", "ISSUER", "TENANT", "ISSUED", "UNTIL", "REVOKED", "BY", "EXPIRES", "NOTE"] == full[0].split()
    assert f"{subject['id']} subject ann {ISSUER} acme 2020-01-31 00:00:00 UTC".split() == full[1].split()[:8]
    assert ["bob", "in", "10d", "-"] == full[1].split()[-4:]
    assert ["default", "-"] == full[2].split()[4:6]
    assert ["REVOKED", "BY", "LIFTED", "BY", "EXPIRES", "NOTE"] == lifted[0].split()[-6:]
    assert "boss" in lifted[1].split()
