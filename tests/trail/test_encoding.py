import hashlib
import json
import math
import re
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision
from llm_authmw.reasons import REASONS
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.chain import MAX_SEEN, Chain
from llm_authmw.trail.encoding import MAX_LINE, MAX_TEXT, Salts, encode, timestamp
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.reading import read_line
from llm_authmw.trail.record import Change, Checkpoint, End, Head, Outcome, Person, Record, RecordKind, Reserved, Who

SALT = b"0123456789abcdef0123456789abcdef"
HOSTILE = '\n\r\x00\x1b[31m\u202e\u2028\x7f\x85\\"\ud800\udfff\U0001f600,"chain":{"writer":"}}'
PRINTABLE = re.compile(rb"[ -~]*")

texts = st.text(st.characters(exclude_categories=()), max_size=200) | st.sampled_from(
    [HOSTILE, "a" * 1_000_000, "\U0001f600" * 50_000, "\x00" * 20_000]
)
details = texts | st.integers() | st.floats() | st.booleans() | st.none()
anything = st.recursive(details, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5), max_leaves=20)


def line_of(record: Record) -> bytes:
    entry = Chain().link(record)
    assert len(entry.line) <= MAX_LINE
    assert PRINTABLE.fullmatch(entry.line) is not None
    return entry.line


def without_halves(text: str) -> str:
    """What is left of a text that holds halves of characters."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def test_a_record_of_a_request_reads_back_as_it_was() -> None:
    record = fake_record(extra={"country": "DE", "score": 0.5, "vpn": False, "asn": 64496, "city": None})
    assert record == read_line(line_of(record))


def test_the_person_stands_apart_from_what_the_hash_is_of() -> None:
    sealed, person = encode(fake_record(), SALT)
    assert person is not None
    for name in (b'"ada"', b"192.0.2.7", b"customer-1", b"ada@example.com"):
        assert name not in sealed
        assert name in person


def test_the_commitment_is_the_hash_of_the_person_as_it_stands_with_the_salt() -> None:
    sealed, person = encode(fake_record(), SALT)
    assert person is not None
    assert SALT.decode() == json.loads(person)["salt"]
    assert hashlib.sha256(person).hexdigest() == json.loads(sealed)["commitment"]


def test_a_record_without_a_person_commits_to_nothing() -> None:
    sealed, person = encode(fake_record(person=None), SALT)
    assert person is None
    assert "commitment" not in json.loads(sealed)


def test_an_empty_person_is_sealed_too() -> None:
    sealed, person = encode(fake_record(person=Person()), SALT)
    assert b'{"salt":"%b"}' % SALT == person
    assert "commitment" in json.loads(sealed)


def test_no_salt_is_given_twice() -> None:
    salts = Salts()
    drawn = [salts.draw() for _ in range(1_000)]
    assert 1_000 == len(set(drawn))
    assert all(re.fullmatch(rb"[0-9a-f]{32}", salt) for salt in drawn)


def hostile(text: str) -> dict[str, Any]:
    """A text wherever a client can have one written."""
    return {
        "path": text,
        "verb": text,
        "models": (text, "gpt-4o"),
        "served": text,
        "person": Person(user=text, end_user=text, actors=(text,)),
        "who": Who(tenant=text, roles=(text,)),
        "decisions": (Decision("RBACMiddleware", "denied", "model_not_allowed", rule=text),),
        "extra": {text: text},
    }


@pytest.mark.parametrize("field", hostile(""))
def test_text_that_would_break_out_of_a_line_is_only_text(field: str) -> None:
    found = read_line(line_of(fake_record(**{field: hostile(HOSTILE)[field]})))
    assert hostile(without_halves(HOSTILE))[field] == getattr(found, field)


@given(path=texts, user=texts, model=texts, name=texts, detail=details, changes=st.dictionaries(texts, anything, max_size=5))
def test_a_record_of_any_text_is_one_bounded_line_that_reads_back(
    path: str, user: str, model: str, name: str, detail: Any, changes: dict[str, Any]
) -> None:
    record = fake_record(
        path=path, models=(model, "gpt-4o"), extra={name: detail}, person=Person(user=user, changes=changes, extra={name: detail})
    )
    line = line_of(record)
    found = read_line(line)
    assert found.person is not None
    assert found.person.user is not None
    assert found.path is not None
    for before, after in ((path, found.path), (model, found.models[0]), (user, found.person.user)):
        if not found.cut and not found.person.cut:
            assert without_halves(before) == after
        else:
            start, mark, rest = after.rpartition("… (")
            assert without_halves(before).startswith(start if mark else after)
            assert not mark or f"{len(before)} characters)" == rest
    assert json.loads(line)["kind"] == "request"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (2**53, 2**53),
        (2**53 + 1, str(2**53 + 1)),
        (-(2**64), str(-(2**64))),
        (1e308, 1e308),
        (True, True),
    ],
)
def test_a_number_that_readers_would_round_or_refuse_becomes_a_text(value: Any, written: Any) -> None:
    found = read_line(line_of(fake_record(extra={"n": value}, person=Person(extra={"n": value}, changes={"limit": [value, 1]}))))
    assert found.person is not None
    assert (written, written, [written, 1]) == (found.extra["n"], found.person.extra["n"], found.person.changes["limit"])


def test_a_number_of_a_million_digits_costs_no_time() -> None:
    found = read_line(line_of(fake_record(extra={"n": 10**1_000, "m": 1 << 4_000_000})))
    assert str(found.extra["n"]).startswith("0x")
    assert "(int)" == found.extra["m"]


def test_a_long_text_is_cut_where_it_says_so() -> None:
    found = read_line(line_of(fake_record(path="/" + "a" * 1_000_000)))
    assert "/" + "a" * (MAX_TEXT - 1) + "… (1000001 characters)" == found.path
    assert ("path",) == found.cut


def test_a_text_of_just_the_length_is_not_cut() -> None:
    record = fake_record(path="a" * MAX_TEXT)
    assert record == read_line(line_of(record))


def test_what_is_cut_of_a_person_is_said_there_and_sealed_with_them() -> None:
    found = read_line(line_of(fake_record(person=Person(user="ada", end_user="x" * 9_000))))
    assert found.person is not None
    assert ((), ("end_user",)) == (found.cut, found.person.cut)
    assert "ada" == found.person.user


def everything_too_long() -> Record:
    long = "\U0001f600" * 100_000
    return fake_record(
        outcome="failed",
        end="upstream_error",
        who=Who(tenant=long, realm=long, team=long, org=long, client=long, roles=(long,) * 500, issuer=long, credential_id=long),
        reason=long,
        layer=long,
        path=long,
        models=(long,) * 500,
        tools=(long,) * 500,
        decisions=(Decision(long, long, long, long, long, long),) * 500,
        spent=(10**30,) * 500,
        charge=Charge(amount=0, model=long, rule=long, version=long),
        reservations=(Reserved(id=long, estimate={f"{n}{long}": n for n in range(500)}, left={f"{n}{long}": n for n in range(500)}),) * 500,
        change=Change(what=long, target=long, action=long, fields=(long,) * 500),
        stands=(long,) * 500,
        extra={f"{n}{long}": long for n in range(500)},
        person=Person(
            user=long,
            email=long,
            address=long,
            end_user=long,
            actor=long,
            actors=(long,) * 500,
            changes={f"{n}{long}": [long, {long: [long] * 500}] for n in range(500)},
            extra={f"{n}{long}": long for n in range(500)},
        ),
    )


def test_a_record_that_is_too_long_in_all_its_parts_is_cut_in_all_of_them() -> None:
    record = everything_too_long()
    found = read_line(line_of(record))
    assert {"models", "decisions", "reservations", "stands", "extra", "who", "path"} <= set(found.cut)
    assert (record.id, record.trace_id, record.status, record.usage) == (found.id, found.trace_id, found.status, found.usage)
    assert ("request", "failed", "upstream_error") == (found.kind, found.outcome, found.end)


@pytest.mark.parametrize("end", get_args(End))
@pytest.mark.parametrize("outcome", get_args(Outcome))
def test_a_word_of_ours_is_never_cut(outcome: Outcome, end: End) -> None:
    longest = max(REASONS, key=len)
    record = msgspec.structs.replace(everything_too_long(), outcome=outcome, end=end, reason=longest)
    found = read_line(line_of(record))
    assert (outcome, end, longest) == (found.outcome, found.end, found.reason)


def test_a_checkpoint_that_has_seen_as_many_as_it_may_is_not_cut() -> None:
    seen = {f"{number:016x}": Head(10**15, "f" * 64, 10**15) for number in range(MAX_SEEN)}
    record = Record(time=0, kind="checkpoint", checkpoint=Checkpoint(state="running", previous="0" * 64, seen=seen, key="f" * 16))
    assert record == read_line(line_of(record))


def test_a_list_within_itself_ends() -> None:
    endless: list[Any] = []
    endless.extend([endless] * 1_000)
    found = read_line(line_of(fake_record(person=Person(changes={"a": endless}))))
    assert found.person is not None
    assert ("changes",) == found.person.cut


def test_what_is_no_value_is_written_as_its_type_and_never_as_what_it_prints() -> None:
    class Loud:
        def __repr__(self) -> str:
            return "a secret"

    line = line_of(fake_record(extra={"a": Loud(), "b": b"a secret"}, person=Person(changes={"c": {1: Loud()}})))
    assert b"a secret" not in line
    assert {"a": "(Loud)", "b": "(bytes)"} == read_line(line).extra


def test_what_a_required_field_says_is_written_even_where_it_is_nothing() -> None:
    # The way of writing that cuts leaves nothing out that reading needs.
    record = fake_record(charge=Charge(amount=0, model="", rule="", version=""), usage=Usage(requests=0), path="a" * 5_000)
    found = read_line(line_of(record))
    assert (record.charge, record.usage) == (found.charge, found.usage)


words = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
counts = st.integers(0, 2**53)
names = st.tuples() | st.lists(st.text(max_size=10), min_size=1, max_size=3).map(tuple)
amounts = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=10), counts, max_size=2)


def whole(kind: Callable[..., Any], /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of a type whose fields are often as they are by default, and for the rest drawn."""
    return st.fixed_dictionaries({}, optional=fields).map(lambda drawn: kind(**drawn))


persons = whole(
    Person, user=words, email=words, address=words, end_user=words, actor=words, actors=names, extra=amounts, changes=st.just({})
)
callers = whole(
    partial(Who, tenant="default"),
    realm=st.sampled_from(["", "corp"]),
    team=words,
    roles=names,
    method=st.sampled_from(["anonymous", "key"]),
    credential_id=words,
)
used = whole(Usage, input=counts, requests=st.integers(0, 3), total=st.none() | counts, model=words, complete=st.booleans())
decided = st.builds(Decision, st.just("RBACMiddleware"), st.just("denied"), words, words, words, words)
reserved = st.builds(Reserved, id=st.just("r1"), estimate=amounts, left=amounts, settled=st.booleans())
changed = st.builds(Change, what=st.just("key"), target=st.just("k"), action=st.just("update"), fields=names)
seen = st.dictionaries(st.just("0" * 16), st.builds(Head, counts, st.just("f" * 64), counts), max_size=1)
stood = st.builds(Checkpoint, state=st.just("running"), previous=st.just("0" * 64), seen=seen, key=words, signature=words)
recorded = whole(
    partial(Record, time=0, kind="change"),
    kind=st.sampled_from(get_args(RecordKind)),
    id=words,
    who=st.none() | callers,
    outcome=st.none() | st.sampled_from(get_args(Outcome)),
    path=words,
    models=names,
    streaming=st.booleans(),
    decisions=st.lists(decided, max_size=2).map(tuple),
    spent=st.lists(counts, max_size=2).map(tuple),
    status=st.none() | st.integers(0, 599),
    end=st.none() | st.sampled_from(get_args(End)),
    usage=st.none() | used,
    charge=st.none() | st.builds(Charge, amount=counts, model=st.just(""), rule=st.just(""), version=st.just("1")),
    reservations=st.lists(reserved, max_size=2).map(tuple),
    store_trouble=st.booleans(),
    change=st.none() | changed,
    lost=st.integers(0, 3),
    stands=names,
    extra=amounts,
    checkpoint=st.none() | stood,
    person=st.none() | persons,
)


def said(record: Record) -> tuple[Any, Any]:
    """Both parts of a record as a reader finds them, without what stands for the person's."""
    sealed, person = encode(record, SALT)
    fields = json.loads(sealed)
    fields.pop("commitment", None)
    return fields, None if person is None else json.loads(person)


@given(record=recorded)
def test_the_way_of_writing_that_cuts_writes_the_same_fields_as_the_one_that_does_not(record: Record) -> None:
    # What is enriched with a number that readers would round is written the one way, and with its text the other.
    number = 2**53 + 1
    quick = msgspec.structs.replace(record, extra={**record.extra, "n": str(number)})
    assert said(quick) == said(msgspec.structs.replace(record, extra={**record.extra, "n": number}))


def test_the_record_of_a_change_holds_nothing_that_is_as_it_is_anyway() -> None:
    record = Record(
        time=0,
        kind="change",
        who=Who(tenant="default"),
        change=Change(what="key", target="k", action="update"),
        person=Person(actor="cli:ann", changes={"models": [None, ["o3"]]}),
    )
    told = json.loads(line_of(record))
    assert ({"time", "kind", "who", "change", "commitment", "chain", "person"}, {"tenant"}, {"what", "target", "action"}) == (
        set(told),
        set(told["who"]),
        set(told["change"]),
    )
    assert {"salt", "actor", "changes"} == set(told["person"])
    assert record == read_line(line_of(record))


def test_a_struct_of_somebody_elses_is_written_as_its_type_says() -> None:
    class Whole(msgspec.Struct):
        here: bool = False

    class Short(msgspec.Struct, omit_defaults=True):
        here: "Nowhere" = None  # type: ignore[name-defined]  # noqa: F821, RUF100 - as it is where only a type checker imports the name
        many: list[int] = msgspec.field(default_factory=lambda: [1])
        none: list[int] = []

    changes = {"a": [Whole(), Short()], "b": [Whole(here=True), Short(here=False, many=[], none=[0])]}
    found = read_line(line_of(fake_record(person=Person(changes=changes))))
    assert found.person is not None
    assert {"a": [{"here": False}, {"many": [1]}], "b": [{"here": True}, {"here": False, "many": [], "none": [0]}]} == found.person.changes


@pytest.mark.parametrize(
    ("moment", "written"),
    [
        (0, b"1970-01-01T00:00:00.000000Z"),
        (1_795_000_000_000_007, b"2026-11-18T11:06:40.000007Z"),
        (-1, b"1970-01-01T00:00:00.999999Z"),
        (10**30, b"9999-12-31T23:59:59.000000Z"),
    ],
)
def test_times_have_microseconds_and_stay_within_the_calendar(moment: int, written: bytes) -> None:
    assert written == timestamp(moment)


def test_an_entry_is_what_its_parts_say() -> None:
    entry = Entry(writer="0" * 16, sequence=7, hash="f" * 64, sealed=b'{"time":"x"}', person=b'{"salt":"y"}', record=fake_record())
    assert b'{"time":"x","chain":{"writer":"%b","sequence":7,"hash":"%b"},"person":{"salt":"y"}}' % (b"0" * 16, b"f" * 64) == entry.line
