"""A small form of `python -m benchmarks.overshoot`: two workers on one file, clients that leave and retry, and workers that are killed."""

from pathlib import Path

import pytest

from benchmarks.overshoot.asks import largest, leaving
from benchmarks.overshoot.guards import ours
from benchmarks.overshoot.runs import Found, Size, run
from tests.peers.needs import need

SIZE = Size(limit=128 * largest().most, workers=2, streams=48, seconds=30, kills=(0.3, 0.6), restarts=())
LEAVING = Size(limit=64 * largest().most, workers=1, streams=24, seconds=20, kills=(), restarts=(), asks=leaving)
LEASE = 3.0


def run_ours(folder: Path, size: Size) -> Found:
    need("uvicorn", "h11")
    with ours("sqlite", folder, size.limit, lease=LEASE) as guard:
        return run(guard, folder, size)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("overshoot")
    return run_ours(folder, SIZE)


def test_the_load_was_one_that_matters(found: Found) -> None:
    assert len(SIZE.kills) == found.kills
    assert {"served", "left", "failed", "refused"} == set(found.ends)
    assert found.books.killed


def test_not_a_nano_dollar_is_spent_beyond_the_budget(found: Found) -> None:
    assert 0 < found.spent <= found.limit
    assert found.spent <= found.books.used <= found.limit


def test_an_answer_that_says_what_it_used_is_charged_that_and_no_other_request_less_than_it_cost(found: Found) -> None:
    assert 0 == found.beyond["answered"]
    assert () == found.less


def test_the_ledger_says_what_all_charges_come_to(found: Found) -> None:
    assert found.books.charged == found.books.used


def test_no_reservation_is_left_behind(found: Found) -> None:
    assert 0 == found.books.left_behind


def test_nearly_all_of_the_budget_can_be_used_once_nothing_is_in_flight(found: Found) -> None:
    assert found.used_up
    assert found.books.charged >= 0.99 * found.limit


def test_nothing_is_refused_for_which_there_is_room(found: Found) -> None:
    assert 0 == found.books.false_refusals


def test_clients_that_leave_before_their_answers_say_what_they_used_do_not_pass_the_budget_either(tmp_path: Path) -> None:
    found = run_ours(tmp_path, LEAVING)
    assert found.ends["left"] > 64
    assert found.spent <= found.books.used <= found.limit
    assert () == found.less
    assert (found.books.used, 0) == (found.books.charged, found.books.left_behind)
