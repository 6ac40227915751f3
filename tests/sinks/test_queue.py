"""What waits in memory: no more records than are allowed, and no more bytes."""

from typing import Any

import pytest

from llm_authmw.sinks.queue import MAX_BYTES, Queue
from llm_authmw.testing.fake_records import fake_record
from llm_authmw.trail.record import Person, Record


class Heavy:
    """Takes a million bytes, and may not say so."""

    def __init__(self, record: Record) -> None:
        self.record = lambda: record


class Weighed(Heavy):
    def weight(self) -> int:
        return 1_000_000


def fill(queue: Queue, wanted: Any) -> int:
    return next(number for number in range(20_000) if not queue.add(wanted))


def test_records_that_are_large_fill_the_queue_by_their_bytes_and_not_by_their_number() -> None:
    queue = Queue(10_000)
    assert 500 + MAX_BYTES // 1_000_000 == fill(queue, Weighed(fake_record()))
    assert not queue.full
    assert queue.add(fake_record())


def test_what_does_not_say_how_much_it_takes_counts_as_the_longest_line() -> None:
    queue = Queue(10_000)
    assert 500 + MAX_BYTES // 65_536 == fill(queue, Heavy(fake_record()))
    assert queue.full


def test_usual_records_fill_it_by_their_number() -> None:
    assert 10_000 == fill(Queue(10_000), fake_record())


@pytest.mark.parametrize("person", [Person(user="a" * 1_000_000), Person(changes={"note": ["", "a" * 1_000_000]})])
def test_a_record_weighs_at_least_what_its_texts_do(person: Person) -> None:
    assert 1_000_000 <= fake_record(person=person).weight()


def test_a_record_that_cannot_be_weighed_counts_as_the_longest_line() -> None:
    assert 65_536 == fake_record(person=Person(user="\ud800", changes={"number": [0, 10**100]})).weight()


def test_what_is_taken_out_leaves_room_in_the_order_in_which_it_came() -> None:
    queue = Queue(10_000)
    first, last = fake_record(id="first"), fake_record(id="last")
    queue.add(first)
    count = 1 + fill(queue, Weighed(fake_record()))
    assert [first] == queue.take_records(1)
    assert not queue.add(Weighed(last))
    taken = queue.take_records(count)
    assert count - 1 == len(taken)
    assert 500 + MAX_BYTES // 1_000_000 == fill(queue, Weighed(last))
    assert queue.clear() == 500 + MAX_BYTES // 1_000_000
    assert queue.add(first)
    assert [first] == queue.take_records(10)
