import csv
import io
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from click.testing import Result

from llm_authmw import open_store
from llm_authmw.call import Charge, Usage
from llm_authmw.testing import ManualClock
from llm_authmw.trail.record import Person, Record, Who

Run = Callable[..., Result]
DAY = 86_400
NOVEMBER_1 = 1_793_491_200


def record(
    *, at: float = NOVEMBER_1, user: str | None = None, cost: int = 0, team: str | None = None, outcome: Any = "allowed", **fields: Any
) -> Record:
    return Record(
        time=int(at * 1_000_000),
        kind="request",
        who=Who(tenant="default", realm="corp", team=team),
        person=None if user is None else Person(user=user),
        outcome=outcome,
        charge=Charge(amount=cost, model="m", rule="m", version="1"),
        **fields,
    )


@pytest.fixture
def write() -> Callable[..., None]:
    """Write records to the store of this directory."""

    def writes(*records: Record) -> None:
        async def work() -> None:
            async with open_store("sqlite:///authmw.db", clock=ManualClock()) as store:
                for one in records:
                    store.audit.put(one)

        anyio.run(work)

    return writes


def rows(run: Run, *options: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("usage", *options, "--json").stdout)["usage"]
    return found


def test_without_a_store_there_is_no_use_and_none_is_made(run: Run, directory: Any) -> None:
    assert "there is no store at" in run("usage", exit_code=1).stderr
    assert [] == list(directory.iterdir())


def test_a_store_that_nothing_was_recorded_in_has_no_use_and_no_file_is_made(run: Run, make_key: Any, directory: Any) -> None:
    run("keys", "list", exit_code=1)
    make_key()
    (directory / "authmw.audit.db").unlink()
    assert [] == rows(run, "--by", "team")
    assert "0 usd" in run("usage").stdout
    assert ["authmw.db"] == [path.name for path in directory.iterdir()]


def test_a_table_has_a_line_for_each_and_one_for_all(run: Run, write: Any) -> None:
    write(
        record(team="blue", user="ann", cost=1_500_000_000, duration=1_000_000, first_byte=200_000, usage=Usage(input=12_345, output=2)),
        record(team="blue", user="bob", cost=1, outcome="denied"),
        record(team="red", cost=500_000_000, status=502),
    )
    lines = [line.split() for line in run("usage", "--by", "team").stdout.splitlines()]
    assert ["TEAM", "REQUESTS", "DENIED", "FAILED", "INPUT", "OUTPUT", "COST", "P50", "P95"] == lines[0]
    assert ["blue", "2", "1", "0", "12,345", "2", "1.500000001", "usd", "947", "ms"] == lines[1][:10]
    assert ["red", "1", "0", "1", "0", "0", "0.5", "usd"] == lines[2][:8]
    assert ["total", "3", "1", "1", "12,345", "2", "2.000000001", "usd"] == lines[3][:8]
    assert 4 == len(lines)


def test_what_is_not_said_is_a_dash_and_no_name(run: Run, write: Any) -> None:
    write(record(cost=1))
    assert "-" == run("usage", "--by", "user").stdout.splitlines()[1].split()[0]
    assert [{"user": None}] == [row["by"] for row in rows(run, "--by", "user")]


def test_json_says_everything_in_whole_numbers(run: Run, write: Any) -> None:
    write(record(team="blue", cost=7, duration=1_000_000), record(team="red", cost=3))
    answer = json.loads(run("usage", "--by", "team", "--by", "day", "--since", "2026-11-01", "--json").stdout)
    assert ("2026-11-01", None) == (answer["since"], answer["until"])
    assert [{"team": "blue", "day": "2026-11-01"}, {"team": "red", "day": "2026-11-01"}] == [row["by"] for row in answer["usage"]]
    assert [7, 3, 10] == [row["cost_nano_usd"] for row in (*answer["usage"], answer["total"])]
    assert answer["usage"][0]["latency_ms"]["p99"] == pytest.approx(1000, rel=0.1)
    assert answer["usage"][1]["latency_ms"] is None
    assert answer == json.loads(run("usage", "--by", "team", "--by", "day", "--since", "2026-11-01", "--format", "json").stdout)


def test_csv_is_read_back_as_it_is_meant(run: Run, write: Any) -> None:
    write(record(team='blue, or "navy"', cost=1_500_000_000, duration=1_000_000), record(team="red"))
    header, *found = csv.reader(io.StringIO(run("usage", "--by", "team", "--format", "csv").stdout))
    assert ["team", "requests", "denied", "failed", "input_tokens", "output_tokens", "cost_usd"] == header[:7]
    assert ["latency_p50_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms", "first_byte_p50_ms"] == header[7:12]
    assert ['blue, or "navy"', "1", "0", "0", "0", "0", "1.5"] == found[0][:7]
    assert ["red", "0", "", "", "", ""] == [found[1][0], *found[1][6:11]]
    assert {15} == {len(header), *map(len, found)}


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1+1", "\uff20SUM(A1)"])
def test_no_name_is_a_formula_in_a_spreadsheet(run: Run, write: Any, name: str) -> None:
    write(record(user=name))
    _, (cell, *_) = csv.reader(io.StringIO(run("usage", "--by", "user", "--format", "csv").stdout))
    assert "'" == cell[0]


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\u202eevil"])
@pytest.mark.parametrize("form", ["table", "csv"])
def test_no_name_moves_the_cursor_or_begins_a_line(run: Run, write: Any, name: str, form: str) -> None:
    write(record(user=name))
    output = run("usage", "--by", "user", "--format", form).stdout
    assert name not in output
    assert "\x1b" not in output
    assert {"table": 3, "csv": 2}[form] == len(output.splitlines())


def test_the_field_of_an_enrichment_is_told_apart_as_everything_else_is(run: Run, write: Any) -> None:
    write(record(extra={"country": "DE"}, cost=2), record(extra={"country": "FR"}, cost=1))
    assert ["DE", "FR"] == [row["by"]["country"] for row in rows(run, "--by", "country")]


@pytest.mark.parametrize(
    ("options", "costs"),
    [
        ([], [7]),
        (["--since", "2026-11-02"], [6]),
        (["--until", "2026-11-02"], [1]),
        (["--until", "2026-11-02T00:01Z"], [3]),
        (["--since", "2026-11-02", "--until", "2026-11-03"], [2]),
        (["--since", "2027-01-01"], []),
        (["--since", "100000d"], None),
        (["--user", "ann"], [1]),
        (["--user", "nobody"], []),
        (["--team", "blue"], [3]),
        (["--tenant", "other"], []),
    ],
)
def test_only_what_was_asked_for_is_in_it(run: Run, write: Any, options: list[str], costs: list[int] | None) -> None:
    write(
        record(user="ann", team="blue", cost=1),
        record(user="bob", team="blue", cost=2, at=NOVEMBER_1 + DAY),
        record(user="bob", cost=4, at=NOVEMBER_1 + 3 * DAY - 1),
    )
    if costs is None:
        assert "--since" in run("usage", *options, exit_code=1).stderr
    else:
        assert costs == [row["cost_nano_usd"] for row in rows(run, *options)]


def test_more_rows_than_asked_for_are_told_of(run: Run, write: Any) -> None:
    write(*(record(user=f"u{number}", cost=number) for number in range(3)))
    result = run("usage", "--by", "user", "--limit", "2")
    assert "There may be more" in result.stderr
    assert ["u2", "u1", "total"] == [line.split()[0] for line in result.stdout.splitlines()[1:]]
    assert "3" == result.stdout.splitlines()[-1].split()[1]


def test_two_forms_at_once_are_a_wrong_command_line(run: Run, write: Any) -> None:
    write(record())
    for form in ("csv", "table"):
        assert "contradict" in run("usage", "--format", form, "--json", exit_code=2).stderr
    assert run("usage", "--json").stdout == run("usage", "--format", "json", "--json").stdout


def test_a_dimension_that_comes_twice_is_refused(run: Run, write: Any) -> None:
    write(record())
    assert "twice" in run("usage", "--by", "team", "--by", "team", exit_code=1).stderr


def test_a_damaged_trail_is_an_error_and_stays_as_it_is(run: Run, make_key: Any, directory: Any) -> None:
    make_key()
    (directory / "authmw.audit.db").write_bytes(b"no database" * 1000)
    assert "authmw.audit.db is not a SQLite database; nothing was changed" in run("usage", exit_code=1).stderr
    assert b"no database" * 1000 == (directory / "authmw.audit.db").read_bytes()


def test_what_is_changed_at_the_command_line_is_in_the_trail(run: Run, make_key: Any) -> None:
    key_id, _ = make_key()
    run("keys", "revoke", key_id, "--actor", "ada")
    found = [json.loads(line) for line in run("audit", "search", "--kind", "change", "--json").stdout.splitlines()]
    assert [("create", key_id), ("revoke", key_id)] == [(one["change"]["action"], one["change"]["target"]) for one in found]
    assert "ada" == found[1]["person"]["actor"]
