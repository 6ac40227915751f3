import hashlib
import os
from pathlib import Path

import pytest

from llm_authmw import ConfigurationError
from llm_authmw.testing import ManualClock
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import LONG_PAUSE, MAX_SEEN, Chain
from llm_authmw.trail.checkpoints import FileAnchor, SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.entry import Entry, Format
from llm_authmw.trail.reading import is_checkpoint, parse, read_checkpoint
from llm_authmw.trail.record import Checkpoint, Head
from llm_authmw.trail.verification import verify


def told_by(entry: Entry) -> Checkpoint:
    """What the line of a checkpoint says."""
    line = parse(entry.line)
    assert line is not None
    record = read_checkpoint(line.sealed)
    assert record is not None
    assert record.checkpoint is not None
    return record.checkpoint


def kinds(entries: list[Entry]) -> list[str]:
    return [told_by(entry).state if entry.record.checkpoint is not None else entry.record.kind for entry in entries]


def test_each_hash_covers_the_one_before_the_writer_the_place_and_what_is_sealed() -> None:
    chain = Chain()
    previous = bytes(32)
    for number in range(3):
        entry = chain.link(fake_record())
        text = previous + chain.writer.encode() + number.to_bytes(8, "big") + entry.sealed
        previous = hashlib.sha256(text).digest()
        assert (chain.writer, number, previous.hex()) == (entry.writer, entry.sequence, entry.hash)


def test_two_chains_are_two_writers() -> None:
    assert Chain().writer != Chain().writer


def test_a_chain_begins_with_a_checkpoint_and_has_one_after_so_many_entries() -> None:
    chain = Chain(checkpoint_every=3)
    entries = chain.link_all([fake_record()] * 7)
    assert ["opened", "request", "request", "request", "running", *["request"] * 3, "running", "request"] == kinds(entries)
    assert [] == [finding for finding in verify(entry.line for entry in entries).findings if finding.is_alarm]


def test_a_checkpoint_is_due_after_a_while_where_there_is_something_new() -> None:
    clock = ManualClock()
    chain = Chain(checkpoint_interval=60, clock=clock)
    chain.link_all([fake_record()])
    clock.advance(59)
    before = chain.due
    clock.advance(1)
    assert (False, True) == (before, chain.due)
    assert ["request", "running"] == kinds(chain.link_all([fake_record()]))
    clock.advance(1_000)
    assert not chain.due


def test_a_clock_that_is_set_back_disturbs_neither_order_nor_checkpoints() -> None:
    clock = ManualClock()
    chain = Chain(checkpoint_interval=60, clock=clock)
    entries = chain.link_all([fake_record(time=1_795_000_000_000_000)])
    clock.set(clock.now() - 86_400)
    assert not chain.due
    entries += [*chain.link_all([fake_record(time=1_794_000_000_000_000)]), chain.checkpoint("closed")]
    assert [] == verify(entry.line for entry in entries).findings


def test_after_a_long_pause_a_chain_goes_on_with_a_checkpoint() -> None:
    clock = ManualClock()
    chain = Chain(clock=clock)
    chain.link_all([fake_record()])
    chain.checkpoint()
    clock.advance(LONG_PAUSE)
    assert ["running", "request"] == kinds(chain.link_all([fake_record()]))


@pytest.mark.parametrize("format_", ["json", "ocsf"])
def test_a_checkpoint_is_signed_over_all_that_its_entry_is(format_: Format) -> None:
    key = SigningKey(make_signing_key())
    chain = Chain(signing_key=key, format=format_)
    chain.link(fake_record())
    entry = chain.checkpoint()
    told = told_by(entry)
    assert entry.record.checkpoint == told
    assert key.id == told.key
    assert told.signature is not None
    sealed = entry.sealed.replace(f',"signature":"{told.signature}"'.encode(), b"")
    digest = hashlib.sha256(bytes.fromhex(told.previous) + entry.writer.encode() + entry.sequence.to_bytes(8, "big") + sealed).digest()
    assert VerifyingKey(key.public_pem).verifies(bytes.fromhex(told.signature), digest)


def test_a_checkpoint_tells_once_what_others_wrote_and_of_so_many_at_most() -> None:
    chain = Chain()
    heads = {f"{number:016x}": Head(number, "a" * 64, 5) for number in range(MAX_SEEN + 2)}
    chain.saw({**heads, chain.writer: Head(0, "b" * 64, 5)})
    seen = told_by(chain.checkpoint()).seen
    assert dict(list(heads.items())[2:]) == seen
    assert {} == told_by(chain.checkpoint()).seen


def test_a_forked_child_is_another_writer_with_other_salts(tmp_path: Path) -> None:
    chain, path = Chain(), tmp_path / "child"
    chain.link_all([fake_record()])
    child = os.fork()
    if child == 0:
        path.write_bytes(b"\n".join([entry.line for entry in chain.link_all([fake_record()])]))
        os._exit(0)
    assert (child, 0) == os.waitpid(child, 0)
    here, there = chain.link(fake_record()), [parse(line) for line in path.read_bytes().split(b"\n")]
    assert [0, 1] == [line.sequence for line in there if line is not None]
    assert {here.writer}.isdisjoint({line.writer for line in there if line is not None})
    assert there[1] is not None
    assert here.person != there[1].person
    assert there[0] is not None
    assert is_checkpoint(there[0].sealed)


def test_the_head_is_the_last_entry() -> None:
    chain = Chain()
    assert chain.head is None
    entry = chain.link(fake_record())
    assert Head(0, entry.hash, entry.record.time) == chain.head


@pytest.mark.parametrize("secret", ["nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"])
def test_what_is_no_private_key_is_refused_and_not_quoted(secret: str) -> None:
    with pytest.raises(ConfigurationError, match="signing_key: takes a private key") as caught:
        Chain(signing_key=secret)
    assert secret not in str(caught.value)


def test_a_key_for_something_else_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key  # noqa: PLC0415 - of this test only
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - likewise
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    key = generate_private_key(SECP256R1())
    with pytest.raises(ConfigurationError, match="Ed25519"):
        SigningKey(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())
    with pytest.raises(ConfigurationError, match="Ed25519"):
        VerifyingKey(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(ConfigurationError, match="PEM"):
        VerifyingKey("nonsense")


def test_a_signing_key_is_read_from_where_it_is_and_prints_its_id_only(tmp_path: Path) -> None:
    secret = make_signing_key()
    path = tmp_path / "audit.pem"
    path.write_text(secret.reveal(), encoding="ascii")
    key = SigningKey(f"file:{path}")
    assert key.public_pem == SigningKey(secret).public_pem
    assert f"SigningKey('{key.id}')" == repr(key)
    assert f"VerifyingKey('{key.id}')" == repr(VerifyingKey(key.public_pem))


@pytest.mark.parametrize("options", [{"checkpoint_every": 0}, {"checkpoint_interval": 0.0}, {"checkpoint_interval": float("nan")}])
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        Chain(**options)  # type: ignore[arg-type]


def test_anchors_in_a_file_are_what_verification_takes(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchors.jsonl")
    chain = Chain()
    entries = [*chain.link_all([fake_record()]), chain.checkpoint("closed")]
    for entry in entries:
        if entry.record.checkpoint is not None:
            anchor(entry)
    anchors = anchor.path.read_bytes().splitlines()
    assert 2 == len(anchors)
    assert 0o600 == anchor.path.stat().st_mode & 0o777
    assert verify([entry.line for entry in entries], anchors=anchors).sound
    assert not verify([entry.line for entry in entries[:-1]], anchors=anchors).sound


def test_an_anchor_without_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="anchor"):
        FileAnchor(tmp_path / "nowhere" / "anchors.jsonl")
