"""What a process remembers of guesses: bounded, until its end, and without a credential."""

import gc
import pickle
from typing import Any

import pytest

from llm_authmw import Limit
from llm_authmw.brute_force import memory as remembering
from llm_authmw.brute_force.alarms import MOST_IN_AN_HOUR, Alarms
from llm_authmw.brute_force.failures import FAILURES, failure_of
from llm_authmw.brute_force.memory import Memory, memory_of
from llm_authmw.brute_force.presented import Presented
from llm_authmw.brute_force.waits import DEFAULTS, Refused, Subject, Waits
from llm_authmw.errors import Denial
from llm_authmw.reasons import REASONS
from llm_authmw.testing import ManualClock
from llm_authmw.testing.books import Books
from llm_authmw.testing.guessing import alerts_seen, wrong_key


def refused(dimension: str = "address", name: str = "203.0.113.7", wait: float = 60.0, *, lasting: bool = True) -> Refused:
    return Refused(Subject(dimension, name), Limit.parse("1 requests/day"), "rule", wait, lasting)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def memory(clock: ManualClock) -> Memory:
    return Memory(clock)


def test_a_lockout_is_remembered_until_it_ends(memory: Memory, clock: ManualClock) -> None:
    memory.learn(refused(wait=60), "a", "key:x")
    presented = Presented(b"text")
    clock.advance(59.9)
    lock = memory.lock_of(presented, "a")
    assert lock is not None
    assert lock.refused.subject.dimension == "address"
    assert memory.lock_of(presented, "b") is None
    clock.advance(0.2)
    assert memory.lock_of(presented, "a") is None
    assert {} == memory.locked


def test_a_lockout_of_one_credential_is_none_of_another_one(memory: Memory) -> None:
    one, other = Presented(b"one"), Presented(b"other")
    memory.learn(refused("address+credential"), "a", one.name)
    assert memory.lock_of(one, "a") is not None
    assert memory.lock_of(other, "a") is None


def test_of_two_lockouts_the_longer_one_is_told(memory: Memory) -> None:
    presented = Presented(b"text")
    memory.learn(refused("address", wait=60), "a", presented.name)
    memory.learn(refused("address+credential", wait=90), "a", presented.name)
    lock = memory.lock_of(presented, "a")
    assert lock is not None
    assert lock.refused.wait == 90


def test_however_many_are_locked_out_memory_is_bounded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "MAX_NETWORKS", 128)
    for number in range(1000):
        memory.learn(refused(), f"network-{number}", "")
    assert len(memory.locked) <= 128
    assert "network-999" in memory.locked
    for number in range(1000):
        memory.learn(refused("address+credential"), "network-999", f"key:{number}")
    assert len(memory.locked["network-999"]) <= remembering.MAX_LOCKS + 1
    # Whatever is forgotten for it, the lockout of the network itself is not.
    assert "" in memory.locked["network-999"]


def test_room_is_made_of_lockouts_that_have_ended_before_others_are_forgotten(
    memory: Memory, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remembering, "MAX_NETWORKS", 128)
    memory.learn(refused(wait=10_000), "long", "")
    for number in range(127):
        memory.learn(refused(wait=1), f"short-{number}", "")
    clock.advance(2)
    memory.learn(refused(), "new", "")
    assert {"long", "new"} == memory.locked.keys()


def test_however_many_were_good_memory_is_bounded_and_the_newest_are_kept(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "MAX_PROVEN", 128)
    shown = [Presented(b"%d" % number) for number in range(1000)]
    for one in shown:
        memory.prove(one, "a", 3600)
    known = [memory.proven(one, "a") for one in shown]
    assert sum(known) <= 128
    assert all(known[-100:])


def test_only_the_very_text_in_the_very_place_and_network_was_proven(memory: Memory) -> None:
    memory.prove(Presented(b"text", b"authorization bearer"), "a", 3600)
    assert memory.proven(Presented(b"text", b"authorization bearer"), "a")
    assert not memory.proven(Presented(b"text", b"x-api-key "), "a")
    assert not memory.proven(Presented(b"text", b"authorization bearer"), "b")
    assert not memory.proven(Presented(b"texu", b"authorization bearer"), "a")


def test_what_one_run_of_layers_has_proven_is_not_proven_to_another(memory: Memory) -> None:
    memory.prove(Presented(b"text", run=b"keys"), "a", 3600)
    assert memory.proven(Presented(b"text", run=b"keys"), "a")
    other = Presented(b"text", run=b"a function")
    assert not memory.proven(other, "a")
    # Nor where it looks alike at first.
    object.__setattr__(other, "quick", Presented(b"text", run=b"keys").quick)
    assert not memory.proven(other, "a")


def test_where_there_was_a_lockout_one_is_judged_at_a_time_for_a_day_after_it(memory: Memory, clock: ManualClock) -> None:
    memory.learn(refused(wait=60), "a", "")
    clock.advance(60 + 86_399)
    assert (1, 16) == (memory.at_once("a", 16), memory.at_once("b", 16))
    clock.advance(2)
    assert 16 == memory.at_once("a", 16)


def test_however_many_were_locked_out_those_that_are_watched_are_bounded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembering, "MAX_WATCHED", 128)
    for number in range(1000):
        memory.learn(refused(), f"network-{number}", "")
    assert len(memory._watched) <= 128
    assert 1 == memory.at_once("network-999", 16)


def test_a_text_that_only_looks_alike_at_once_is_not_the_one_that_was_proven(memory: Memory) -> None:
    good, forged = Presented(b"good"), Presented(b"forged")
    object.__setattr__(forged, "quick", good.quick)
    memory.prove(good, "a", 3600)
    assert memory.proven(good, "a")
    assert not memory.proven(forged, "a")


def test_memory_holds_no_credential(memory: Memory) -> None:
    text = wrong_key()
    presented = Presented(text.encode())
    memory.prove(presented, "a", 3600)
    memory.learn(refused("address+credential"), "a", presented.name)
    held: Any = (memory._proven, {network: list(there) for network, there in memory.locked.items()}, memory._quiet)
    assert text.encode()[-20:] not in pickle.dumps(held)
    assert text not in repr((memory, presented, memory._proven))


def test_what_cannot_be_recognised_is_never_proven(memory: Memory) -> None:
    nothing = Presented(b"")
    memory.prove(nothing, "a", 3600)
    assert not memory.proven(nothing, "a")


def test_one_ledger_has_one_memory_and_it_ends_with_the_ledger() -> None:
    one, other = Books().service, Books().service
    assert memory_of(one) is memory_of(one)
    assert memory_of(one) is not memory_of(other)
    count = len(remembering._memories)
    del other
    gc.collect()
    assert len(remembering._memories) < count


def test_of_a_flood_of_lockouts_a_few_are_told_and_that_there_are_more(clock: ManualClock) -> None:
    alarms = Alarms(clock)
    with alerts_seen() as seen:
        for number in range(500):
            alarms.tell(refused(name=f"network-{number}"))
        assert MOST_IN_AN_HOUR + 1 == len(seen.alerts)
        assert "*" == seen.subjects[-1]
        clock.advance(3600)
        alarms.tell(refused(name="another"))
    assert "address:another" == seen.subjects[-1]


def test_every_reason_that_is_a_failure_is_a_code_and_none_of_them_is_a_matter_of_waiting_or_permission() -> None:
    assert FAILURES.keys() <= REASONS.keys()
    assert {400, 401} >= {REASONS[reason].status for reason in FAILURES}


@pytest.mark.parametrize(
    "reason",
    [
        "missing_credential",
        "ambiguous_credential",
        "repeated_credential",
        "authentication_too_old",
        "authentication_class_not_accepted",
        "route_not_allowed",
        "store_unavailable",
        "check_failed",
        "issuer_unavailable",
        "pepper_unavailable",
        "locked_out",
    ],
)
def test_what_is_no_guess_is_no_failure(reason: str) -> None:
    assert failure_of(Denial(reason)) is None


def test_every_other_refusal_of_a_credential_is_a_failure() -> None:
    # So that a reason which comes to be is thought about.
    others = {"missing_credential", "authentication_too_old", "authentication_class_not_accepted"}
    assert {reason for reason, known in REASONS.items() if known.status == 401} - others <= FAILURES.keys()


def test_the_limit_of_one_credential_is_below_that_of_its_network() -> None:
    # Else one client with one wrong key would use up what all those beside it have.
    network, there = ([Limit.parse(text) for text in DEFAULTS[dimension]] for dimension in ("address", "address+credential"))
    for wide, narrow in zip(network, there, strict=True):
        assert (wide.window, True) == (narrow.window, narrow.amount < wide.amount)


def test_calendar_windows_may_be_used_and_end_with_the_clocks_own() -> None:
    waits = Waits({"address": ["2 requests/day, calendar"]})
    (claim,) = waits.claims(Subject("address", "a"), 1_800_000_000.0)
    assert ("window", "failures / address:a / requests / day") == (claim.bucket.kind, claim.bucket.name)
