"""Who is forgotten is nowhere any more: not in what was changed about them, and not in what a file has left behind."""

from pathlib import Path

import pytest

from llm_authmw import FileSink, open_store
from llm_authmw.history import HistoryEntry
from llm_authmw.sinks.changes import change_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.erasure import forget_in_file
from llm_authmw.trail.ocsf import ocsf
from llm_authmw.trail.protocols import RecordQuery
from llm_authmw.trail.reading import matches, read_line
from llm_authmw.trail.verification import verify

pytestmark = pytest.mark.anyio

PERSON = "adalovelace"


async def change_everything(url: str, sink: FileSink | None = None) -> None:
    """Make, give away and revoke what is a person's, through the services that an operator uses."""
    async with open_store(url, audit=sink) as store:
        given = await store.keys.create(user="eve", name="of nobody", realm="corp")
        await store.keys.update(given.id, user=PERSON)
        await store.keys.update(given.id, name=f"laptop of {PERSON}")
        await store.keys.update(given.id, user="eve", name="of nobody")
        await store.accounts.create("user", PERSON, realm="corp", metadata={"mail": f"{PERSON}@example.com"})
        await store.accounts.update("user", PERSON, realm="corp", metadata={})
        await store.accounts.block("user", PERSON, realm="corp")
        await store.revocations.revoke_subject("https://idp.example.com", PERSON, note=f"{PERSON} has left")
        await store.audit.aclose()


async def test_what_was_changed_about_a_person_is_forgotten_with_them(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    sink = FileSink(path)
    await change_everything("memory://", sink)
    await sink.aclose()
    assert PERSON in path.read_text()

    forget_in_file(path, "default", PERSON)
    assert PERSON not in path.read_text()
    report = verify(path.read_bytes().splitlines())
    assert report.sound
    # What was changed about somebody else says so still.
    assert '"eve"' in path.read_text()


async def test_what_was_changed_about_a_person_is_forgotten_in_the_file_of_a_store(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'authmw.db'}"
    await change_everything(url)
    async with open_store(url) as store:
        assert 7 == len(await store.audit.search(RecordQuery(principal=PERSON)))
        await store.audit.forget("default", PERSON)
        assert [] == await store.audit.search(RecordQuery(principal=PERSON))
        assert not any(PERSON.encode() in entry.line for entry in await store.audit.search(RecordQuery()))
    for file in tmp_path.glob("authmw.audit.db*"):
        assert PERSON.encode() not in file.read_bytes(), file.name


@pytest.mark.parametrize("kind", ["user", "end_user"])
def test_an_event_of_a_change_says_whose_account_it_was(kind: str) -> None:
    entry = HistoryEntry(at=12.5, action="block", actor="eve", changes={"status": ["active", "blocked"]})
    event = ocsf(change_record("account", f"{kind}:{PERSON}", entry, tenant="acme"))
    assert PERSON == event["user"]["name"]


def test_a_change_from_one_person_to_another_is_found_by_both_and_forgotten_with_either(tmp_path: Path) -> None:
    entry = HistoryEntry(at=12.5, action="update", actor="api", changes={"user": [PERSON, "eve"]})
    record = change_record("key", "k1", entry, tenant="acme", user="eve", realm="corp")
    assert [True, True, False] == [matches(record, RecordQuery(principal=name)) for name in (PERSON, "eve", "api")]
    for name in (PERSON, "eve"):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(Chain().link(record).line + b"\n")
        assert 0 == forget_in_file(path, "acme", name, realm="partners").entries
        assert 1 == forget_in_file(path, "acme", name, realm="corp").entries
        assert read_line(path.read_bytes()).person is None
