import contextlib
import gzip
import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from click.testing import Result

from llm_authmw import open_store
from llm_authmw.call import Charge
from llm_authmw.context import Decision
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.checkpoints import SigningKey
from llm_authmw.trail.parts import split
from llm_authmw.trail.record import Change, Person, Record, Who

Run = Callable[..., Result]

HOUR = 3_600_000_000


def now() -> int:
    return int(time.time() * 1_000_000)


@pytest.fixture
def records() -> list[Record]:
    """What happened within the last days, the oldest first."""
    return [
        fake_record(time=now() - 48 * HOUR, id="1" * 16, charge=Charge(amount=2_500_000_000, model="gpt-4o", rule="*", version="1")),
        fake_record(
            time=now() - 3 * HOUR,
            id="2" * 16,
            outcome="denied",
            reason="model_not_allowed",
            layer="RBACMiddleware",
            status=403,
            who=Who(tenant="default", team="red", credential_id="key-7", method="key"),
            person=Person(user="eve\x1b[31m\u202e"),
            models=("o3",),
            decisions=(Decision("RBACMiddleware", "denied", "model_not_allowed"),),
        ),
        Record(
            time=now() - 2 * HOUR,
            kind="change",
            who=Who(tenant="default"),
            change=Change(what="key", target="key-7", action="update", fields=("models",)),
            person=Person(actor="cli:ann", changes={"models": [None, ["gpt-4o"]]}),
        ),
        Record(
            time=now() - HOUR, kind="policy", stands=("KeyAuthMiddleware(keys)", "RBACMiddleware(2 roles)", "sha256 2d369b47" + "0" * 56)
        ),
    ]


@pytest.fixture
def key(run: Run, directory: Path) -> SigningKey:
    """A key pair, in audit.pem and audit.pub."""
    (directory / "audit.pub").write_text(run("audit", "keygen", "audit.pem").stdout, encoding="ascii")
    return SigningKey("file:audit.pem")


@pytest.fixture
def lines(directory: Path, key: SigningKey, records: list[Record]) -> list[bytes]:
    """The lines of the file audit.jsonl."""
    chain = Chain(signing_key=key)
    found = [entry.line for entry in [*chain.link_all(records), chain.checkpoint("closed")]]
    (directory / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in found))
    return found


@pytest.fixture
def stored(directory: Path, key: SigningKey, records: list[Record]) -> None:
    """The same records in the store of this directory."""

    async def write() -> None:
        async with open_store("sqlite:///authmw.db", deadline=10, audit_options={"signing_key": key, "deadline": 10.0}) as store:
            for record in records:
                await store.audit.accept(_Ready(record))

    anyio.run(write)


class _Ready:
    def __init__(self, record: Record) -> None:
        self._record = record

    def record(self) -> Record:
        return self._record


@pytest.fixture(params=["file", "store"])
def source(request: pytest.FixtureRequest) -> list[str]:
    """The options for one place or the other that holds the records."""
    request.getfixturevalue("lines" if request.param == "file" else "stored")
    return ["--file", "audit.jsonl"] if request.param == "file" else []


def ids(result: Result) -> list[str]:
    return [json.loads(line).get("id", json.loads(line)["kind"]) for line in result.stdout.splitlines()]


VERIFY = ("audit", "verify", "--file", "collected.jsonl", "--key", "audit.pub")
ONE, TWO, CHANGE, POLICY = "1" * 16, "2" * 16, "change", "policy"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ([], [ONE, TWO, CHANGE, POLICY]),
        (["--principal", "ada"], [ONE]),
        (["--principal", "key:key-7"], [TWO]),
        (["--team", "red"], [TWO]),
        (["--reason", "model_not_allowed"], [TWO]),
        (["--model", "gpt-4o"], [ONE]),
        (["--outcome", "allowed"], [ONE]),
        (["--kind", "change", "--kind", "policy"], [CHANGE, POLICY]),
        (["--id", TWO], [TWO]),
        (["--since", "4h"], [TWO, CHANGE, POLICY]),
        (["--since", "4h", "--until", "90m"], [TWO, CHANGE]),
        (["--tenant", "default", "--outcome", "denied"], [TWO]),
        (["--limit", "2"], [CHANGE, POLICY]),
    ],
)
def test_search_finds_what_every_filter_wants(run: Run, source: list[str], options: list[str], found: list[str]) -> None:
    assert found == ids(run("audit", "search", *source, *options, "--json"))


def test_search_shows_a_table_that_no_text_breaks_out_of(run: Run, source: list[str]) -> None:
    heading, *rows = run("audit", "search", *source).stdout.splitlines()
    assert ["TIME", "WHAT", "WHO", "REQUEST", "STATUS,", "REASON", "TOOK", "USD"] == heading.split()
    assert "ada (blue)" in rows[0]
    assert "POST /v1/chat/completions gpt-4o" in rows[0]
    assert rows[0].endswith("2.4 s  2.5")
    assert "eve\\x1b[31m\\u202e (red)" in rows[1]
    assert "403 model_not_allowed" in rows[1]
    assert ["change", "cli:ann", "update", "key", "key-7", "(models)"] == rows[2].split()[2:8]
    assert "2 layers, sha256 2d369b47…" in rows[3]
    assert 4 == len(rows)


def test_search_fits_a_terminal_without_breaking_a_route_or_a_reason(run: Run, source: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    lines = run("audit", "search", *source, "--kind", "request", "--kind", "policy").stdout.splitlines()
    assert [] == [line for line in lines if len(re.sub(r"\x1b\[[0-9;]*m", "", line)) > 100]
    assert {"/v1/chat/completions", "model_not_allowed"} <= {word for line in lines for word in line.split()}


def test_losses_and_checkpoints_are_shown_where_they_are_asked_for(run: Run, directory: Path) -> None:
    entries = Chain().link_all([Record(time=0, kind="loss", lost=17)])
    (directory / "lost.jsonl").write_bytes(b"".join(entry.line + b"\n" for entry in entries))
    checkpoint, loss = run("audit", "tail", "--file", "lost.jsonl", "--kind", "loss", "--kind", "checkpoint").stdout.splitlines()
    assert checkpoint.endswith("checkpoint  opened, not signed")
    assert "1970-01-01T00:00:00.000Z  loss  17 records were lost" == loss


def test_search_says_that_there_is_nothing(run: Run, source: list[str]) -> None:
    result = run("audit", "search", *source, "--principal", "nobody")
    assert ("", "No such records.\n") == (result.stdout, result.stderr)


def test_search_says_that_there_may_be_more(run: Run, source: list[str]) -> None:
    assert "the newest 1" in run("audit", "search", *source, "--limit", "1").stderr


LIKELY = "--reason: no code of this release is called so. Did you mean model_not_allowed"


@pytest.mark.parametrize("verb", ["search", "tail", "export"])
def test_a_reason_that_is_none_of_ours_is_doubted_where_nothing_was_found(run: Run, source: list[str], verb: str) -> None:
    result = run("audit", verb, *source, "--reason", "model_not_alowed")
    assert "" == result.stdout
    assert LIKELY in result.stderr
    assert "docs/errors.md" in result.stderr


@pytest.mark.parametrize("verb", ["search", "tail", "export"])
@pytest.mark.parametrize("reason", ["model_missing", "model_not_allowed"])
def test_a_reason_of_ours_is_never_doubted(run: Run, source: list[str], verb: str, reason: str) -> None:
    assert "--reason" not in run("audit", verb, *source, "--reason", reason).stderr


@pytest.mark.parametrize("verb", ["search", "tail", "export"])
def test_a_reason_that_only_the_trail_knows_is_found_and_not_doubted(run: Run, directory: Path, verb: str) -> None:
    # Of a newer release, or of a layer of the user's own.
    decisions = (Decision("DeskMiddleware", "denied", "model_not_alowed"),)
    (directory / "own.jsonl").write_bytes(
        b"".join(entry.line + b"\n" for entry in Chain().link_all([fake_record(id=ONE, decisions=decisions)]))
    )
    result = run("audit", verb, "--file", "own.jsonl", "--reason", "model_not_alowed", "--json")
    assert ([ONE], "") == (ids(result), result.stderr)


def test_a_reason_that_is_like_none_of_ours_is_doubted_without_a_guess_and_never_printed_back(run: Run, source: list[str]) -> None:
    result = run("audit", "search", *source, "--reason", "sk-1234567890abcdef1234567890abcdef", "--json")
    assert "" == result.stdout
    assert "--reason: no code of this release is called so. docs/errors.md" in result.stderr
    assert "sk-1" not in result.output


def test_a_reason_is_doubted_before_what_is_added_is_waited_for(run: Run, source: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def look(_: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyboardInterrupt

    async def look_again(_: float) -> None:
        look(_)

    monkeypatch.setattr("llm_authmw.cli.audit.time.sleep", look)
    monkeypatch.setattr("llm_authmw.cli.audit.anyio.sleep", look_again)
    follow = ("audit", "tail", *source, "--follow", "-n", "0")
    assert 1 == run(*follow, "--reason", "model_not_alowed", exit_code=130).stderr.count(LIKELY)
    looks = 0
    assert LIKELY not in run(*follow, "--reason", "model_not_allowed", exit_code=130).stderr


@pytest.mark.parametrize(("option", "problem"), [("--since", "--since: 'x' is not a moment"), ("--until", "--until: 'x' is not a moment")])
def test_a_moment_that_cannot_be_read_is_refused(run: Run, lines: list[bytes], option: str, problem: str) -> None:
    assert problem in run("audit", "search", "--file", "audit.jsonl", option, "x", exit_code=1).stderr


def test_tail_shows_the_newest_ones(run: Run, source: list[str]) -> None:
    (line,) = run("audit", "tail", *source, "-n", "1").stdout.splitlines()
    assert line.endswith("policy  2 layers, sha256 2d369b47…")
    assert [CHANGE, POLICY] == ids(run("audit", "tail", *source, "-n", "2", "--json"))
    assert "" == run("audit", "tail", *source, "-n", "0").stdout


def test_tail_follows_a_file_until_it_is_interrupted(
    run: Run, directory: Path, lines: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = directory / "audit.jsonl"
    chain = Chain()

    def sleep(_: float) -> None:
        if path.stat().st_size > sum(map(len, lines)) + 100:
            raise KeyboardInterrupt
        with path.open("ab") as file:
            file.write(
                b"nonsense\n" + chain.link(fake_record(id="3" * 16)).line + b"\n" + chain.link(Record(time=0, kind="loss")).line + b"\n"
            )

    monkeypatch.setattr("llm_authmw.cli.audit.time.sleep", sleep)
    result = run("audit", "tail", "--file", "audit.jsonl", "--follow", "-n", "1", "--kind", "request", "--json", exit_code=130)
    assert [TWO, "3" * 16] == ids(result)


@pytest.fixture
def collected(directory: Path, key: SigningKey, records: list[Record]) -> list[bytes]:
    """The lines of collected.jsonl, as a syslog collector has stored them: long ones in parts."""
    chain = Chain(signing_key=key)
    found = [part for entry in [*chain.link_all(records), chain.checkpoint("closed")] for part in split(entry, 400)]
    (directory / "collected.jsonl").write_bytes(b"".join(line + b"\n" for line in found))
    return found


def test_what_a_collector_has_stored_in_parts_is_verified_and_searched(run: Run, directory: Path, collected: list[bytes]) -> None:
    assert "verdict  " + "as they were written" in re.sub(" {2,}", "  ", run(*VERIFY).stdout)
    assert [ONE, TWO, CHANGE, POLICY] == ids(run("audit", "search", "--file", "collected.jsonl", "--json"))
    assert [POLICY] == ids(run("audit", "tail", "--file", "collected.jsonl", "-n", "1", "--json"))
    (directory / "collected.jsonl").write_bytes(b"".join(line + b"\n" for line in [*collected[:-1], collected[-1].replace(b"0", b"1")]))
    run(*VERIFY, exit_code=1)


def test_a_part_that_a_collector_has_lost_is_found(run: Run, directory: Path, collected: list[bytes]) -> None:
    (directory / "collected.jsonl").write_bytes(b"".join(line + b"\n" for line in [*collected[:5], *collected[6:]]))
    assert {"foreign", "missing"} & set(run(*VERIFY, exit_code=1).stdout.split())


def test_tail_follows_what_comes_in_parts(run: Run, directory: Path, collected: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / "collected.jsonl"
    parts = [part + b"\n" for part in split(Chain().link(fake_record(id="3" * 16)), 400)]

    def sleep(_: float) -> None:
        if not parts:
            raise KeyboardInterrupt
        with path.open("ab") as file:
            file.write(parts.pop(0))

    monkeypatch.setattr("llm_authmw.cli.audit.time.sleep", sleep)
    result = run("audit", "tail", "--file", "collected.jsonl", "--follow", "-n", "1", "--kind", "request", "--json", exit_code=130)
    assert [TWO, "3" * 16] == ids(result)


def test_tail_follows_the_store_until_it_is_interrupted(run: Run, stored: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_authmw.cli.audit.anyio.sleep", sleep)
    assert [CHANGE, POLICY] == ids(run("audit", "tail", "--follow", "-n", "2", "--json", exit_code=130))


def test_tail_follows_one_file_only(run: Run, lines: list[bytes]) -> None:
    assert "one --file" in run("audit", "tail", "--file", "audit.jsonl", "--file", "audit.jsonl", "--follow", exit_code=2).stderr


def test_export_prints_every_line_as_it_was_written_and_they_verify(run: Run, directory: Path, source: list[str]) -> None:
    exported = run("audit", "export", *source).stdout_bytes
    (directory / "exported.jsonl").write_bytes(exported)
    if source:
        assert (directory / "audit.jsonl").read_bytes() == exported
    result = run("audit", "verify", "--file", "exported.jsonl", "--key", "audit.pub", "--json")
    assert json.loads(result.stdout)["sound"]
    assert [ONE] == ids(run("audit", "export", *source, "--principal", "ada"))


def test_rotated_and_packed_files_are_read_as_one_trail(run: Run, directory: Path, lines: list[bytes]) -> None:
    (directory / "audit.jsonl.1.gz").write_bytes(gzip.compress(b"".join(line + b"\n" for line in lines[:3])))
    (directory / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines[3:]))
    files = ["--file", "audit.jsonl.1.gz", "--file", "audit.jsonl"]
    assert [ONE, TWO, CHANGE, POLICY] == ids(run("audit", "search", *files, "--json"))
    assert json.loads(run("audit", "verify", *files, "--key", "audit.pub", "--json").stdout)["sound"]


def test_lines_that_cannot_be_read_are_counted(run: Run, directory: Path, lines: list[bytes]) -> None:
    with (directory / "audit.jsonl").open("ab") as file:
        file.write(b"nonsense\n\n" + lines[1][:100])
    assert "2 lines could not be read" in run("audit", "search", "--file", "audit.jsonl").stderr


def test_verify_says_that_records_are_as_they_were_written(run: Run, source: list[str]) -> None:
    result = run("audit", "verify", *source, "--key", "audit.pub")
    assert "as they were written" in result.stdout
    assert "NOT" not in result.stdout
    report = json.loads(run("audit", "verify", *source, "--key", "audit.pub", "--json").stdout)
    assert (True, 1, 1) == (report["sound"], report["writers"], report["keys"])
    assert report["signatures"] == report["checkpoints"] > 0


def test_verify_says_where_they_are_not_and_ends_with_1(run: Run, directory: Path, lines: list[bytes]) -> None:
    path = directory / "audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b"(2 roles)", b"(3 roles)"))
    result = run("audit", "verify", "--file", "audit.jsonl", "--key", "audit.pub", exit_code=1)
    assert "NOT as they were written" in result.stdout
    assert ["ALARM", "WHERE", "WRITER", "ENTRY", "WHAT"] == result.stdout.splitlines()[0].split()
    row = next(line for line in result.stdout.splitlines() if line.startswith("edited"))
    assert "audit.jsonl:5" in row
    assert "NOTICE" not in result.stdout
    report = json.loads(run("audit", "verify", "--file", "audit.jsonl", "--json", exit_code=1).stdout)
    assert [("edited", "audit.jsonl", 5, 4)] == [
        (finding["kind"], finding["file"], finding["line"], finding["sequence"]) for finding in report["alarms"]
    ]
    assert [] == report["notices"]


def told_of(result: Result, heading: str) -> list[list[str]]:
    """The first columns of what verifying found, of one sort."""
    _, _, behind = result.stdout.partition(f"{heading} ")
    return [re.split(" {2,}", line)[:4] for line in behind.partition("\n\n")[0].splitlines()[1:]]


def test_verify_says_apart_what_is_an_alarm_and_what_is_only_to_be_known(run: Run, directory: Path, lines: list[bytes]) -> None:
    (directory / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in [*lines[:2], b"", b"nonsense", *lines[2:-1]]))
    result = run("audit", "verify", "--file", "audit.jsonl", exit_code=1)
    assert [["foreign", "audit.jsonl:4", "-", "-"]] == told_of(result, "ALARM")
    assert [["blank", "audit.jsonl:3"], ["open", "audit.jsonl:7"]] == [row[:2] for row in told_of(result, "NOTICE")]
    report = json.loads(run("audit", "verify", "--file", "audit.jsonl", "--json", exit_code=1).stdout)
    assert (["foreign"], ["blank", "open"]) == tuple([finding["kind"] for finding in report[sort]] for sort in ("alarms", "notices"))
    assert "findings" not in report


def test_verify_ends_with_0_where_there_is_only_something_to_be_known(run: Run, directory: Path, lines: list[bytes]) -> None:
    (directory / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    result = run("audit", "verify", "--file", "audit.jsonl", "--key", "audit.pub")
    assert ([], ["unchecked", "open"]) == (told_of(result, "ALARM"), [row[0] for row in told_of(result, "NOTICE")])
    assert "ALARM" not in result.stdout
    assert "NOT as they were written" not in result.stdout


def test_verify_counts_the_alarms_and_notices_that_it_does_not_show(run: Run, directory: Path) -> None:
    (directory / "odd.jsonl").write_bytes(b"nonsense\n" * 1_002 + b"\n" * 1_003)
    assert ["There are 2 more of these.", "There are 3 more of these."] == run(
        "audit", "verify", "--file", "odd.jsonl", exit_code=1
    ).stderr.splitlines()
    report = json.loads(run("audit", "verify", "--file", "odd.jsonl", "--json", exit_code=1).stdout)
    assert (1_000, 2, 1_000, 3) == (len(report["alarms"]), report["more_alarms"], len(report["notices"]), report["more_notices"])


def test_verify_names_what_is_in_a_store_by_its_position_and_entry(run: Run, directory: Path, stored: None) -> None:
    with contextlib.closing(sqlite3.connect(directory / "authmw.audit.db")) as connection, connection:
        connection.execute("UPDATE entries SET sealed = replace(sealed, '2 roles', '3 roles')")
        (position, writer, sequence) = connection.execute(
            "SELECT position, writer, sequence FROM entries WHERE sealed LIKE '%3 roles%'"
        ).fetchone()
    result = run("audit", "verify", "--key", "audit.pub", exit_code=1)
    assert [["edited", f"position {position}", writer, str(sequence)]] == told_of(result, "ALARM")
    assert "authmw.db:" not in result.output
    assert str(directory / "authmw.db") in next(line for line in result.stdout.splitlines() if line.startswith("store"))
    (alarm,) = json.loads(run("audit", "verify", "--key", "audit.pub", "--json", exit_code=1).stdout)["alarms"]
    assert (position, writer, sequence) == (alarm["position"], alarm["writer"], alarm["sequence"])
    assert not {"file", "line"} & set(alarm)


def test_verify_without_a_key_says_that_signatures_were_not_checked(run: Run, source: list[str]) -> None:
    assert "not checked: no --key" in run("audit", "verify", *source).stdout


def test_verify_finds_an_end_that_is_cut_off_through_anchors(run: Run, directory: Path, lines: list[bytes]) -> None:
    (directory / "anchors.jsonl").write_bytes(lines[-1] + b"\n")
    options = ["--file", "audit.jsonl", "--key", "audit.pub", "--anchors", "anchors.jsonl"]
    run("audit", "verify", *options)
    (directory / "audit.jsonl").write_bytes(b"".join(line + b"\n" for line in lines[:-2]))
    run("audit", "verify", *options[:4])
    assert "cut_off" in run("audit", "verify", *options, exit_code=1).stdout


def test_verify_refuses_what_is_no_key(run: Run, lines: list[bytes]) -> None:
    assert "--key: audit.jsonl: takes public keys" in run("audit", "verify", "--key", "audit.jsonl", exit_code=1).stderr


def test_forget_forgets_a_person_and_lets_the_rest_stand(run: Run, source: list[str]) -> None:
    assert "1 record no longer says who it was\n" == run("audit", "forget", "ada", *source).stdout
    assert [] == ids(run("audit", "search", *source, "--principal", "ada", "--json"))
    assert [ONE] == ids(run("audit", "search", *source, "--id", ONE, "--json"))
    assert '"ada"' not in run("audit", "export", *source).stdout
    assert 1 == json.loads(run("audit", "verify", *source, "--key", "audit.pub", "--json").stdout)["forgotten"]
    assert {"forgotten": 0, "remaining": 0} == json.loads(run("audit", "forget", "ada", *source, "--json").stdout)


def test_forget_says_what_it_cannot_change(run: Run, directory: Path, lines: list[bytes]) -> None:
    (directory / "ocsf.jsonl").write_bytes(Chain(format="ocsf").link(fake_record()).line + b"\n")
    result = run("audit", "forget", "ada", "--file", "audit.jsonl", "--file", "ocsf.jsonl")
    assert "1 lines hold the name still" in result.stderr


def test_prune_removes_what_is_old(run: Run, source: list[str]) -> None:
    assert {"removed": 0} == json.loads(run("audit", "prune", "--keep", "30d", *source, "--json").stdout)
    assert "0 records are removed\n" == run("audit", "prune", "--keep", "30d", *source).stdout


@pytest.mark.parametrize("keep", ["0", "23h", "soon"])
def test_prune_refuses_to_remove_nearly_everything(run: Run, source: list[str], keep: str) -> None:
    run("audit", "prune", "--keep", keep, *source, exit_code=1)


def test_prune_removes_a_chain_that_ended_long_ago(run: Run, directory: Path) -> None:
    from llm_authmw.testing import ManualClock  # noqa: PLC0415 - of this test only

    clock = ManualClock()
    clock.set(time.time() - 90 * 86_400)
    chain = Chain(clock=clock)
    entries = [*chain.link_all([fake_record(time=int(clock.now() * 1_000_000))]), chain.checkpoint("closed")]
    (directory / "old.jsonl").write_bytes(b"".join(entry.line + b"\n" for entry in entries))
    assert "3 records are removed\n" == run("audit", "prune", "--keep", "30d", "--file", "old.jsonl").stdout


def test_keygen_keeps_the_private_key_to_its_owner_and_prints_the_public_one(run: Run, directory: Path) -> None:
    made = json.loads(run("audit", "keygen", "new.pem", "--json").stdout)
    key = SigningKey("file:new.pem")
    assert (key.id, "new.pem", key.public_pem) == (made["key_id"], made["path"], made["public_key"])
    assert 0o600 == (directory / "new.pem").stat().st_mode & 0o777
    assert "PRIVATE" not in made["public_key"]


def test_keygen_never_writes_over_a_key(run: Run, key: SigningKey) -> None:
    assert "is there already" in run("audit", "keygen", "audit.pem", exit_code=1).stderr
    assert key.id == SigningKey("file:audit.pem").id


def test_reasons_are_completed(run: Run) -> None:
    from click.shell_completion import ShellComplete  # noqa: PLC0415 - of this test only

    from llm_authmw.cli.program import program  # noqa: PLC0415 - likewise

    found: list[Any] = ShellComplete(program, {}, "llm-authmw", "_X").get_completions(["audit", "search", "--reason"], "model_not_")
    assert ["model_not_allowed"] == [item.value for item in found]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def test_records_are_read_where_their_program_has_kept_nothing_else_in_the_store(run: Run, tmp_path: Path) -> None:
    async def write() -> None:
        # Not opened: so a program does whose callers come with tokens, and that counts nothing.
        store = open_store(f"sqlite:///{tmp_path}/only.db")
        await store.audit.accept(fake_record(id="0123456789abcdef"))
        await store.aclose()

    anyio.run(write)
    assert not (tmp_path / "only.db").exists()
    place = ("--store", f"sqlite:///{tmp_path}/only.db")
    assert "as they were written" in run("audit", "verify", *place).output
    assert "0123456789abcdef" in run("audit", "search", *place, "--json").output
    run("usage", *place)
    assert not (tmp_path / "only.db").exists()
    run("keys", "list", *place, exit_code=1)
