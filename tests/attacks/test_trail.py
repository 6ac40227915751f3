"""Whoever can write to where records are kept: what shows, and what cannot."""

import hashlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import anyio
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from llm_authmw import FileSink
from llm_authmw.testing import ManualClock
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import Chain, link_hash
from llm_authmw.trail.checkpoints import SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.reading import parse, unsigned
from llm_authmw.trail.record import Head, Person
from llm_authmw.trail.verification import verify

SECRET: Final = make_signing_key()
KEY: Final = SigningKey(SECRET)
PUBLIC: Final = VerifyingKey(KEY.public_pem)
EVIL: Final = SigningKey(make_signing_key())

GROUP_ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Of Ed25519 (RFC 8032 §5.1)."""


def written(chain: Chain, count: int = 3) -> list[Entry]:
    """So many records and the end of a chain."""
    return [*chain.link_all([fake_record(id=f"{number:016x}") for number in range(count)]), chain.checkpoint("closed")]


def alarms(entries: Sequence[Entry | bytes], *, anchors: Sequence[Entry] = (), key: VerifyingKey | None = PUBLIC) -> set[str]:
    lines = [entry if isinstance(entry, bytes) else entry.line for entry in entries]
    report = verify(lines, keys=[] if key is None else [key], anchors=[anchor.line for anchor in anchors])
    assert report.sound == (not any(finding.is_alarm for finding in report.findings))
    return {finding.kind for finding in report.findings if finding.is_alarm}


def notices(entries: Sequence[Entry]) -> set[str]:
    return {finding.kind for finding in verify([entry.line for entry in entries], keys=[PUBLIC]).findings}


def relabelled(entry: Entry, *, writer: str, sequence: int, previous: bytes) -> Entry:
    """The same words as another writer's, with the hash that they have there."""
    digest = link_hash(previous, writer.encode(), sequence, entry.sealed)
    return msgspec.structs.replace(entry, writer=writer, sequence=sequence, hash=digest.hex())


def test_a_chain_that_is_written_anew_without_the_key_is_found() -> None:
    assert set() == alarms(written(Chain(signing_key=KEY)))
    assert {"unsigned"} == alarms(written(Chain()))


def test_a_chain_that_is_signed_with_another_key_is_found() -> None:
    assert {"unknown_key", "unsigned"} == alarms(written(Chain(signing_key=EVIL)))


def test_a_chain_that_is_signed_with_another_key_under_the_id_of_ours_is_found() -> None:
    forged = SigningKey(make_signing_key())
    forged.id = KEY.id  # type: ignore[misc]
    assert {"bad_signature", "unsigned"} == alarms(written(Chain(signing_key=forged)))


def test_without_a_public_key_a_chain_written_anew_is_not_found() -> None:
    # As the documentation says: this is why there are keys.
    assert set() == alarms(written(Chain(signing_key=EVIL)), key=None)


def test_a_signature_for_another_purpose_is_none_here() -> None:
    entry = Chain(signing_key=KEY).checkpoint("closed")
    line = parse(entry.line)
    assert line is not None
    found = unsigned(line.sealed)
    assert found is not None
    digest = link_hash(bytes(32), entry.writer.encode(), 0, found[0])
    private = load_pem_private_key(SECRET.reveal().encode(), None)
    assert PUBLIC.verifies(found[1], digest)
    assert not PUBLIC.verifies(private.sign(digest), digest)  # type: ignore[union-attr, call-arg]


def test_a_signature_in_another_form_is_none() -> None:
    # RFC 8032 §5.1.7: S must be below the order of the group, else each signature has a twin.
    digest = hashlib.sha256(b"").digest()
    signature = KEY.sign(digest)
    twin = signature[:32] + (int.from_bytes(signature[32:], "little") + GROUP_ORDER).to_bytes(32, "little")
    assert PUBLIC.verifies(signature, digest)
    assert not PUBLIC.verifies(twin, digest)


def test_a_checkpoint_of_another_writer_vouches_for_nothing() -> None:
    ours = written(Chain(signing_key=KEY))
    forged = Chain()
    records = [forged.link(fake_record()) for _ in range(2)]
    stolen = relabelled(ours[-1], writer=forged.writer, sequence=2, previous=bytes.fromhex(records[-1].hash))
    assert {"edited", "unsigned"} <= alarms([*records, stolen])
    first = relabelled(ours[0], writer=forged.writer, sequence=0, previous=bytes(32))
    assert {"bad_signature", "unsigned"} == alarms([first])


def test_a_checkpoint_of_another_place_in_the_same_chain_is_found() -> None:
    chain = Chain(signing_key=KEY, checkpoint_every=2)
    entries = chain.link_all([fake_record()] * 4)
    again = relabelled(entries[0], writer=chain.writer, sequence=len(entries), previous=bytes.fromhex(entries[-1].hash))
    assert "edited" in alarms([*entries, again])


def test_a_chain_under_another_writers_name_is_found() -> None:
    entries = written(Chain(signing_key=KEY))
    lines = [entry.line.replace(entry.writer.encode(), b"f" * 16) for entry in entries]
    assert {"edited", "unsigned"} == alarms(lines)


def test_a_whole_chain_that_is_cut_out_is_found_through_an_anchor() -> None:
    ours, others = written(Chain(signing_key=KEY)), written(Chain(signing_key=KEY))
    assert {"cut_off"} == alarms(others, anchors=[ours[0]])


def test_a_whole_chain_that_is_cut_out_is_found_through_a_writer_that_saw_it() -> None:
    ours, later = Chain(signing_key=KEY), Chain(signing_key=KEY)
    gone = written(ours)
    assert ours.head is not None
    later.saw({ours.writer: ours.head})
    kept = written(later)
    assert set() == alarms([*gone, *kept])
    assert {"cut_off"} == alarms(kept)


def test_without_anchor_and_witness_a_whole_chain_that_is_cut_out_is_not_found() -> None:
    # As the documentation says.
    written(Chain(signing_key=KEY))
    assert set() == alarms(written(Chain(signing_key=KEY)))


def test_the_end_of_a_killed_writer_cannot_go_once_the_next_one_has_begun() -> None:
    killed, next_one = Chain(signing_key=KEY), Chain(signing_key=KEY)
    entries = killed.link_all([fake_record()] * 3)
    assert killed.head is not None
    next_one.saw({killed.writer: killed.head})
    after = written(next_one)
    assert set() == alarms([*entries, *after])
    for end in range(len(entries)):
        assert {"cut_off"} == alarms([*entries[:end], *after])


@pytest.mark.anyio
async def test_what_a_killed_process_wrote_cannot_be_cut_off_once_another_one_has_opened_the_file(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    script = """
import anyio, os, signal, sys
from llm_authmw import FileSink
from llm_authmw.testing.fake_records import fake_record

async def main():
    sink = FileSink(sys.argv[1], fsync=False)
    await sink.start()
    for _ in range(3):
        await sink.accept(fake_record())
    os.kill(os.getpid(), signal.SIGKILL)

anyio.run(main)
"""
    done = await anyio.run_process([sys.executable, "-c", script, str(path)], check=False)
    assert -signal.SIGKILL == done.returncode
    killed = path.read_bytes().splitlines(keepends=True)
    sink = FileSink(path, fsync=False)
    await sink.start()
    await sink.accept(fake_record())
    await sink.aclose()
    lines = path.read_bytes().splitlines(keepends=True)
    assert set() == alarms(lines, key=None)
    for end in range(len(killed)):
        assert {"cut_off"} == alarms([*lines[:end], *lines[len(killed) :]], key=None)


def test_another_end_than_the_one_that_was_seen_is_found() -> None:
    killed, next_one, forger = Chain(signing_key=KEY), Chain(signing_key=KEY), Chain()
    entries = killed.link_all([fake_record()] * 2)
    assert killed.head is not None
    next_one.saw({killed.writer: killed.head})
    other = relabelled(
        forger.link(fake_record(path="/harmless")), writer=killed.writer, sequence=2, previous=bytes.fromhex(entries[1].hash)
    )
    assert {"edited"} == alarms([*entries[:2], other, *written(next_one)])


def test_records_that_are_added_to_the_chain_of_a_killed_writer_are_named_as_vouched_for_by_nobody() -> None:
    killed = Chain(signing_key=KEY)
    entries = killed.link_all([fake_record()])
    forged = relabelled(Chain().link(fake_record()), writer=killed.writer, sequence=2, previous=bytes.fromhex(entries[-1].hash))
    assert {"unchecked", "open"} == notices([*entries, forged])


def test_records_that_are_added_behind_the_end_of_a_chain_are_found() -> None:
    entries = written(Chain(signing_key=KEY))
    writer, sequence = entries[-1].writer, entries[-1].sequence + 1
    forged = relabelled(Chain().link(fake_record()), writer=writer, sequence=sequence, previous=bytes.fromhex(entries[-1].hash))
    assert {"after_end"} == alarms([*entries, forged])


def test_a_forged_chain_does_not_become_right_by_being_seen() -> None:
    forged, honest = Chain(), Chain(signing_key=KEY)
    lies = written(forged)
    assert forged.head is not None
    honest.saw({forged.writer: forged.head})
    assert {"unsigned"} == alarms([*lies, *written(honest)])


def test_what_an_unsigned_checkpoint_claims_to_have_seen_makes_no_alarm_of_what_is_right() -> None:
    honest, liar = written(Chain(signing_key=KEY)), Chain()
    liar.saw({honest[0].writer: Head(99, "a" * 64, 5), "b" * 16: Head(3, "a" * 64, 5)})
    report = verify([entry.line for entry in [*honest, *written(liar)]], keys=[PUBLIC])
    assert {liar.writer} == {finding.writer for finding in report.findings}


def test_yesterdays_copy_is_found_through_an_anchor_of_today() -> None:
    clock = ManualClock()
    chain = Chain(signing_key=KEY, clock=clock)
    yesterday = chain.link_all([fake_record()])
    clock.advance(86_400)
    today = chain.checkpoint()
    assert set() == alarms(yesterday)
    assert {"cut_off"} == alarms(yesterday, anchors=[today])


def test_an_anchor_that_was_forged_is_no_anchor() -> None:
    entries = written(Chain(signing_key=KEY))
    assert {"bad_anchor"} == alarms(entries, anchors=[Chain(signing_key=EVIL).checkpoint()])


@pytest.mark.parametrize("user", ["eve", "ada"])
def test_a_person_cannot_be_exchanged_even_for_the_same_one_with_another_salt(user: str) -> None:
    chain = Chain(signing_key=KEY)
    entry = chain.link(fake_record())
    other = Chain().link(fake_record(person=Person(user=user)))
    assert entry.person is not None
    assert other.person is not None
    assert "person_altered" in alarms([entry.line.replace(entry.person, other.person), chain.checkpoint("closed")])


def test_a_commitment_says_nothing_of_who_it_is() -> None:
    chain = Chain()
    one, other = chain.link(fake_record()), chain.link(fake_record())
    assert one.record.person == other.record.person
    sealed = [msgspec.json.decode(entry.sealed)["commitment"] for entry in (one, other)]
    assert 2 == len(set(sealed))


def test_a_place_in_a_chain_within_a_record_is_text() -> None:
    fake = '"},"chain":{"writer":"' + "f" * 16 + '","sequence":0,"hash":"' + "f" * 64 + '"}}'
    chain = Chain(signing_key=KEY)
    nested = {"x": 1, "chain": {"writer": "f" * 16, "sequence": 0, "hash": "f" * 64}}
    entries = chain.link_all([fake_record(path=fake, extra={"chain": fake}, person=Person(user=fake, changes={"a": [nested, fake]}))])
    assert set() == alarms([*entries, chain.checkpoint("closed")])
    ocsf = Chain(signing_key=KEY, format="ocsf")
    entries = ocsf.link_all([fake_record(path=fake, extra={"chain": fake}, person=Person(user=fake, changes={"a": [nested, fake]}))])
    assert set() == alarms([*entries, ocsf.checkpoint("closed")])
