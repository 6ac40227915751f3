import time

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.testing import ManualClock


def test_the_system_clock_is_the_machines_own() -> None:
    clock: Clock = SYSTEM_CLOCK
    before, after = (time.time(), time.monotonic()), (clock.now(), clock.monotonic())
    assert before <= after <= (time.time(), time.monotonic())
    assert "SystemClock()" == repr(clock)


def test_a_manual_clock_moves_only_when_it_is_told_to() -> None:
    clock: Clock = ManualClock(now=100.0)
    assert isinstance(clock, ManualClock)
    started = clock.monotonic()
    clock.advance(2.5)
    assert (102.5, started + 2.5) == (clock.now(), clock.monotonic())
    clock.set(50.0)
    assert (50.0, started + 2.5) == (clock.now(), clock.monotonic())
