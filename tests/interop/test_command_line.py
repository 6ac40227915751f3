"""The command line beside a server that runs: what a person types counts for the next requests, without a restart."""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_authmw import CreatedKey
from llm_authmw.testing.servers import RunningServer

BOUND = 0.2
ALLOWANCE = 1.0

CommandLine = Callable[..., dict[str, Any]]
MakeKey = Callable[..., CreatedKey]


@pytest.fixture(scope="module")
def server(start_server: Callable[..., RunningServer], store_url: str) -> Iterator[RunningServer]:
    running = start_server(
        "lab:app", server="uvicorn-httptools", env={"AUTHMW_STORE": store_url, "LAB_BOUND": str(BOUND), "LAB_IMPORTED": "yes"}
    )
    yield running
    running.stop()
    assert "Traceback" not in running.output


@pytest.fixture(scope="module")
def make_key(store_url: str, new_key: MakeKey) -> MakeKey:
    return functools.partial(new_key, store_url)


class Caller:
    """Somebody with a key."""

    def __init__(self, client: httpx.Client, key: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {key}"}

    def ask(self) -> int:
        return self._client.get("/who", headers=self._headers).status_code

    def assert_gets(self, status: int, *, instead_of: int) -> None:
        """Ask until the answer changes, which it must within the bound, and stay with it."""
        by = time.monotonic() + BOUND + ALLOWANCE
        while (got := self.ask()) == instead_of:
            assert time.monotonic() < by
        assert [status] * 5 == [got, *(self.ask() for _ in range(4))]


@pytest.fixture
def caller(server: RunningServer, make_client: Callable[..., httpx.Client]) -> Iterator[Callable[[str], Caller]]:
    with make_client(base_url=server.url) as client:
        yield lambda key: Caller(client, key)


def test_a_key_that_was_made_just_now_works_at_once(caller: Callable[[str], Caller], command_line: CommandLine) -> None:
    for _ in range(3):
        assert 200 == caller(command_line("keys", "create")["key"]).ask()


def test_a_blocked_key_works_again_when_it_is_unblocked(
    caller: Callable[[str], Caller], make_key: MakeKey, command_line: CommandLine
) -> None:
    created = make_key()
    somebody = caller(str(created.key))
    assert 200 == somebody.ask()
    command_line("keys", "block", created.record.id)
    somebody.assert_gets(401, instead_of=200)
    command_line("keys", "unblock", created.record.id)
    somebody.assert_gets(200, instead_of=401)


def test_a_blocked_team_works_again_when_it_is_unblocked(
    caller: Callable[[str], Caller], make_key: MakeKey, command_line: CommandLine
) -> None:
    command_line("accounts", "create", "team", "blue")
    blue, red = (caller(str(make_key(team=team).key)) for team in ("blue", "red"))
    assert [200, 200] == [blue.ask(), red.ask()]
    command_line("accounts", "block", "team", "blue")
    blue.assert_gets(401, instead_of=200)
    assert 200 == red.ask()
    command_line("accounts", "unblock", "team", "blue")
    blue.assert_gets(200, instead_of=401)


def test_both_texts_of_a_rotated_key_work_until_the_time_of_grace_is_over(
    caller: Callable[[str], Caller], make_key: MakeKey, command_line: CommandLine
) -> None:
    created = make_key()
    old = caller(str(created.key))
    assert 200 == old.ask()
    new = caller(command_line("keys", "rotate", created.record.id, "--grace", "2s")["key"])
    assert [200, 200] == [old.ask(), new.ask()]
    until = time.monotonic() + 2 + ALLOWANCE
    while old.ask() == 200:
        assert time.monotonic() < until
    assert [401, 200] == [old.ask(), new.ask()]


@pytest.mark.parametrize(
    ("option", "value", "status"),
    [("--route", "POST /v1/chat/completions", 403), ("--network", "10.0.0.0/8", 403), ("--not-before", "1d", 401)],
)
def test_a_restriction_counts_when_it_is_made_and_when_it_is_taken_away(
    caller: Callable[[str], Caller], make_key: MakeKey, command_line: CommandLine, option: str, value: str, status: int
) -> None:
    created = make_key()
    somebody = caller(str(created.key))
    assert 200 == somebody.ask()
    command_line("keys", "update", created.record.id, option, value)
    somebody.assert_gets(status, instead_of=200)
    command_line("keys", "update", created.record.id, "--clear", option.removeprefix("--"))
    somebody.assert_gets(200, instead_of=status)


def test_a_text_that_was_refused_works_once_it_is_imported(
    caller: Callable[[str], Caller], command_line: CommandLine, tmp_path: Path
) -> None:
    text = "sk-their-own-1234567890abcdefghijklmnop"
    somebody = caller(text)
    assert [401] * 3 == [somebody.ask() for _ in range(3)]
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"sha256": hashlib.sha256(text.encode()).hexdigest(), "last_four": text[-4:]}))
    command_line("keys", "import", "--file", str(rows))
    somebody.assert_gets(200, instead_of=401)


def test_a_running_server_is_no_hindrance_to_looking_at_its_keys(caller: Callable[[str], Caller], command_line: CommandLine) -> None:
    created = command_line("keys", "create", "--name", "looked at", "--limit", "60 requests/minute")
    assert 200 == caller(created["key"]).ask()
    shown = command_line("keys", "show", created["id"])
    listed = command_line("keys", "list", "--search", "looked at")
    assert (created["id"], "active") == (shown["id"], shown["state"])
    assert [created["id"]] == [key["id"] for key in listed["keys"]]
    assert created["key"] not in json.dumps([shown, listed])
