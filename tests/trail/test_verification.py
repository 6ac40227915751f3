import gzip
import re
from collections.abc import Sequence
from typing import Final

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import Chain
from llm_authmw.trail.checkpoints import SigningKey, VerifyingKey, make_signing_key
from llm_authmw.trail.entry import Entry, Format
from llm_authmw.trail.findings import ALARMS, NOTICES, Finding, Report
from llm_authmw.trail.reading import parse
from llm_authmw.trail.record import Person
from llm_authmw.trail.verification import Verifier, verify

KEY: Final = SigningKey(make_signing_key())
PUBLIC: Final = VerifyingKey(KEY.public_pem)


def several_writers(count: int = 3, rounds: int = 5, *, format_: Format = "json") -> list[Entry]:
    """The entries of writers that take turns and end properly."""
    chains = [Chain(signing_key=KEY, checkpoint_every=3, format=format_) for _ in range(count)]
    entries: list[Entry] = []
    for number in range(rounds):
        for chain in chains:
            entries += chain.link_all([fake_record(time=number, person=Person(user=f"user-{number}"))])
    return entries + [chain.checkpoint("closed") for chain in chains]


ENTRIES: Final = several_writers()
LINES: Final = [entry.line + b"\n" for entry in ENTRIES]
ANCHORS: Final = [entry.line for entry in ENTRIES if entry.record.checkpoint is not None]


def checked(lines: Sequence[bytes]) -> Report:
    return verify(lines, keys=[PUBLIC], anchors=ANCHORS)


def kinds(findings: Sequence[Finding]) -> list[str]:
    return [finding.kind for finding in findings]


def alarms(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.is_alarm]


@pytest.mark.parametrize("format_", ["json", "ocsf"])
def test_what_several_writers_wrote_is_as_it_was_written(format_: Format) -> None:
    entries = several_writers(format_=format_)
    report = verify([entry.line for entry in entries], keys=[PUBLIC])
    assert [] == report.findings
    checkpoints = sum(entry.record.checkpoint is not None for entry in entries)
    assert (len(entries), len(entries), 3, checkpoints, checkpoints, 0) == (
        report.lines,
        report.entries,
        report.writers,
        report.checkpoints,
        report.signatures,
        report.forgotten,
    )


@given(line=st.integers(0, len(LINES) - 1), at=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255))
def test_one_changed_byte_of_any_line_is_found_where_it_is(line: int, at: float, byte: int) -> None:
    text = bytearray(LINES[line][:-1])
    place = int(at * len(text))
    assume(byte not in {text[place], 0x0A})
    text[place] = byte
    report = checked([*LINES[:line], bytes(text) + b"\n", *LINES[line + 1 :]])
    found = alarms(report)
    assert found
    assert any(finding.line == line + 1 for finding in report.findings)


@given(line=st.integers(0, len(LINES) - 1), count=st.integers(1, 4))
def test_lines_that_are_taken_out_are_found_and_named(line: int, count: int) -> None:
    gone = ENTRIES[line : line + count]
    found = alarms(checked([*LINES[:line], *LINES[line + count :]]))
    writers = {entry.writer for entry in gone}
    assert {"missing", "cut_off"} >= set(kinds(found))
    assert writers == {finding.writer for finding in found}


@given(line=st.integers(0, len(LINES)), text=st.binary(min_size=1, max_size=40))
def test_a_line_that_is_put_in_is_found_where_it_is(line: int, text: bytes) -> None:
    assume(b"\n" not in text)
    report = checked([*LINES[:line], text + b"\n", *LINES[line:]])
    assert line + 1 in {finding.line for finding in report.findings}
    # What may as well be left of a torn line is named, and is no alarm.
    assert report.sound == (kinds(report.findings) == ["torn"])


@given(data=st.data())
def test_lines_of_a_writer_that_change_places_are_found(data: st.DataObject) -> None:
    one = data.draw(st.integers(0, len(LINES) - 1))
    same = [place for place, entry in enumerate(ENTRIES) if entry.writer == ENTRIES[one].writer and place != one]
    other = data.draw(st.sampled_from(same))
    lines = list(LINES)
    lines[one], lines[other] = lines[other], lines[one]
    found = alarms(checked(lines))
    assert {"moved", "missing"} & set(kinds(found))
    assert {ENTRIES[one].writer} == {finding.writer for finding in found}


@given(line=st.integers(0, len(LINES) - 1))
def test_an_end_that_is_cut_off_is_found_through_an_anchor(line: int) -> None:
    report = checked(LINES[:line])
    assert {entry.writer for entry in ENTRIES[line:]} == {finding.writer for finding in report.findings if finding.kind == "cut_off"}


@given(line=st.integers(0, len(LINES) - 1), other=st.integers(0, len(LINES) - 1))
def test_a_line_in_the_place_of_another_is_found(line: int, other: int) -> None:
    assume(line != other)
    lines = list(LINES)
    lines[line] = lines[other]
    assert not checked(lines).sound


@given(order=st.permutations(range(3)))
def test_lines_of_different_writers_may_stand_in_any_order_among_each_other(order: list[int]) -> None:
    writers = list(dict.fromkeys(entry.writer for entry in ENTRIES))
    lines = [entry.line for number in order for entry in ENTRIES if entry.writer == writers[number]]
    assert [] == checked(lines).findings


def test_whoever_changes_an_entry_and_its_hash_is_found_at_the_next_one() -> None:
    chain = Chain()
    entries = chain.link_all([fake_record(), fake_record()])
    # Another record with the right hash in the same place, as who knows the hash before can make one.
    other = Chain()
    other.writer, other._writer = chain.writer, chain.writer.encode()
    other._sequence, other._last = 1, bytes.fromhex(entries[0].hash)
    forged = other.link(fake_record(path="/harmless"))
    report = verify([entries[0].line, forged.line, entries[2].line])
    assert [("edited", 3)] == [(finding.kind, finding.line) for finding in alarms(report)]


def test_without_an_anchor_an_end_that_is_cut_off_is_only_a_chain_without_an_end() -> None:
    lines = [entry.line for entry in Chain().link_all([fake_record()])]
    report = verify(lines)
    assert ([], ["open"]) == (alarms(report), kinds(report.findings))


def test_a_person_who_is_forgotten_changes_nothing_else() -> None:
    lines = [
        line if entry.person is None else line.replace(b',"person":' + entry.person, b"")
        for entry, line in zip(ENTRIES, LINES, strict=True)
    ]
    report = checked(lines)
    assert ([], sum(entry.person is not None for entry in ENTRIES)) == (report.findings, report.forgotten)


def test_a_person_who_was_never_there_is_found() -> None:
    chain = Chain()
    entry = chain.link(fake_record(person=None))
    line = entry.line[:-1] + b',"person":{"salt":"' + b"0" * 32 + b'","user":"eve"}}'
    assert ["person_altered"] == kinds(alarms(verify([line])))


def test_the_person_of_another_entry_is_found() -> None:
    one, other = Chain().link_all([fake_record(), fake_record(person=Person(user="eve"))])[1:]
    assert one.person is not None
    assert other.person is not None
    assert ["person_altered"] == kinds(alarms(verify([other.line.replace(other.person, one.person)], since=0)))[:1]


def test_a_torn_last_line_is_named_and_no_alarm() -> None:
    chain = Chain()
    lines = [entry.line + b"\n" for entry in chain.link_all([fake_record(), fake_record()])]
    report = verify([*lines[:-1], lines[-1][:200]])
    assert (["open", "torn"], True) == (kinds(report.findings), report.sound)
    assert 3 == report.findings[-1].line


@pytest.mark.parametrize("length", [3, 60, 700, -2])
def test_a_torn_line_that_its_writer_wrote_again_is_named_and_no_alarm(length: int) -> None:
    lines = list(LINES)
    lines.insert(7, lines[7][:length] + b"\n")
    report = checked(lines)
    assert [("torn", 8, True)] == [(finding.kind, finding.line, "one that is whole" in finding.text) for finding in report.findings]


def test_an_entry_on_the_same_line_behind_a_torn_one_counts() -> None:
    lines = list(LINES)
    lines[7:8] = [LINES[9][:300] + LINES[7]]
    report = checked(lines)
    assert ([("torn", 8)], len(LINES)) == ([(finding.kind, finding.line) for finding in report.findings], report.entries)


def test_a_line_that_is_written_twice_is_named_and_no_alarm() -> None:
    report = checked([*LINES[:8], LINES[7], *LINES[8:]])
    assert ([("repeated", 9)], True) == ([(finding.kind, finding.line) for finding in report.findings], report.sound)


def test_an_empty_line_is_named() -> None:
    assert ["blank"] == kinds(checked([*LINES[:2], b"\n", *LINES[2:]]).findings)


def test_an_endless_line_is_no_entry_and_costs_nothing() -> None:
    endless = b'{"time":"' + b"a" * 5_000_000
    assert [("foreign", 3)] == [(finding.kind, finding.line) for finding in checked([*LINES[:2], endless, *LINES[2:]]).findings]


def test_what_was_removed_for_its_age_is_missing_unless_that_is_said() -> None:
    day = 86_400_000_000
    chain = Chain(signing_key=KEY)
    entries = chain.link_all([fake_record(time=1)])
    checkpoint = chain.checkpoint()
    kept = [entry.line for entry in [checkpoint, chain.link(fake_record(time=2)), chain.checkpoint("closed")]]
    assert ["missing"] == kinds(verify(kept, keys=[PUBLIC]).findings)
    since = checkpoint.record.time + day
    assert ["begins_later"] == kinds(verify(kept, keys=[PUBLIC], since=since).findings)
    # A checkpoint that is younger than what may be removed cannot stand for entries that are not here.
    assert ["missing"] == kinds(verify(kept, keys=[PUBLIC], since=checkpoint.record.time).findings)
    # Nor can an entry that is no checkpoint.
    assert "missing" in kinds(verify(kept[1:], keys=[PUBLIC], since=since).findings)
    assert 2 == len(entries)


def test_a_checkpoint_with_a_signature_that_is_not_right_is_one_still() -> None:
    report = verify(LINES, keys=[VerifyingKey(SigningKey(make_signing_key()).public_pem)])
    assert (len(ANCHORS), 0) == (report.checkpoints, report.signatures)


def test_several_files_are_one_trail_and_findings_say_in_which() -> None:
    verifier = Verifier(keys=[PUBLIC], anchors=ANCHORS)
    verifier.read(LINES[:10], file="old")
    verifier.read([*LINES[10:12], b"nonsense", *LINES[12:]], file="new")
    assert [("foreign", "new", 3)] == [(finding.kind, finding.file, finding.line) for finding in verifier.report().findings]


def test_an_anchor_that_is_none_is_an_alarm() -> None:
    chain = Chain()
    entry = chain.link(fake_record())
    report = verify(LINES, keys=[PUBLIC], anchors=[b"nonsense", entry.line, Chain().checkpoint().line])
    assert [("bad_anchor", "anchors", 1), ("bad_anchor", "anchors", 2), ("bad_anchor", "anchors", 3)] == [
        (finding.kind, finding.file, finding.line) for finding in report.findings
    ]


def test_many_findings_are_counted_and_no_notice_hides_an_alarm() -> None:
    report = verify([b"\n"] * 3_000 + [b"nonsense\n"])
    assert ["foreign"] == kinds(alarms(report))
    assert (0, 2_000, False) == (report.more_alarms, report.more_notices, report.sound)
    report = verify([b"nonsense\n"] * 3_000 + [b"\n"])
    assert (["blank"], 1_000) == (kinds(report.notices), len(report.alarms))
    assert (2_000, 0, False) == (report.more_alarms, report.more_notices, report.sound)


def test_what_is_in_a_store_has_a_position_there_and_no_line() -> None:
    verifier = Verifier(keys=[PUBLIC], anchors=[*ANCHORS, b"nonsense"])
    for number, line in enumerate([*LINES[:5], *LINES[6:-1]]):
        verifier.add(line, file=None, number=70 + number)
    places = [(finding.kind, finding.file, finding.line, finding.position) for finding in verifier.report().findings]
    number = len(ANCHORS) + 1
    assert ("bad_anchor", "anchors", number, None) == next(place for place in places if place[0] == "bad_anchor")
    (missing,) = [place for place in places if place[0] == "missing"]
    assert (None, None) == missing[1:3]
    assert 75 <= (missing[3] or 0) < 70 + len(LINES)
    # In the order of the anchors first, and of the positions then.
    assert sorted(places, key=lambda place: (place[1] is None, place[2] or 0, place[3] or 0)) == places


def test_every_kind_of_finding_is_explained() -> None:
    assert not set(ALARMS) & set(NOTICES)


def test_a_chain_that_is_far_longer_than_what_is_remembered_is_verified() -> None:
    chain = Chain(checkpoint_every=5_000)
    record = fake_record()
    entries = chain.link_all([record] * 40_000)
    lines = [entry.line for entry in [*entries, chain.checkpoint("closed")]]
    anchors = [entry.line for entry in entries if entry.record.checkpoint is not None]
    assert [] == verify(lines, anchors=anchors).findings
    # Far back and just now: the one cannot be told from a move, the other is the same once more.
    assert [("moved", len(lines))] == [(finding.kind, finding.line) for finding in alarms(verify([*lines[:-1], lines[5], lines[-1]]))]
    del lines[100:20_000]
    assert ["missing"] == kinds(alarms(verify(lines)))


def test_packed_bytes_are_no_lines() -> None:
    assert not verify([gzip.compress(b"".join(LINES))]).sound


@pytest.mark.parametrize(("before", "after"), [(rb"$", b" "), (rb"$", b"\r"), (rb"\}", b" }"), (rb":", b": "), (rb"\}$", b" " * 60 + b"}")])
def test_blanks_that_change_no_meaning_are_found_too(before: bytes, after: bytes) -> None:
    lines = [entry.line for entry in ENTRIES]
    for number, line in enumerate(lines):
        if before != rb"\}$" or b'"person"' in line:
            changed = re.sub(before, after, line, count=1)
            assert not checked([*lines[:number], changed, *lines[number + 1 :]]).sound


def test_every_byte_of_a_line_is_in_one_of_its_parts() -> None:
    for entry in ENTRIES:
        line = parse(entry.line)
        assert line is not None
        assert (entry.sealed, entry.person, entry.writer, entry.sequence, entry.hash) == (*line[:1], line.person, *line[1:4])
