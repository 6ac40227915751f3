import gc
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_authmw import telemetry
from llm_authmw.alerts import Alerts
from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision
from llm_authmw.metrics.instruments import INSTRUMENTS, OTHER, READ
from llm_authmw.metrics.measurements import Measurements
from llm_authmw.metrics.series import MAX_VALUE
from llm_authmw.sinks.stdout import StdoutSink
from llm_authmw.telemetry import Alert, Asked, Fetched, Reading
from llm_authmw.trail.record import Person, Record, Who

CHARGE = Charge(amount=1_500_000, model="gpt-4o-mini", rule="gpt-4o-mini", version="1")


def record(**changes: Any) -> Record:
    fields: dict[str, Any] = {
        "time": 1_790_000_000_000_000,
        "kind": "request",
        "id": "00112233445566aa",
        "who": Who(tenant="acme", team="blue", method="key", credential_id="k_1"),
        "person": Person(user="ada", email="ada@example.com", address="203.0.113.7", end_user="eve"),
        "outcome": "allowed",
        "protocol": "http",
        "verb": "POST",
        "path": "/v1/chat/completions",
        "operation": "chat",
        "models": ("gpt-4o-mini",),
        "served": "gpt-4o-mini-2026",
        "decisions": (Decision("KeyAuthMiddleware", "allowed", None, "k_1"), Decision("BudgetMiddleware", "allowed")),
        "spent": (40, 100),
        "status": 200,
        "first_byte": 250_000,
        "duration": 2_000_000,
        "end": "complete",
        "usage": Usage(input=100, output=20, complete=True),
        "charge": CHARGE,
        **changes,
    }
    return Record(**fields)


def figures(event: object, measurements: Measurements | None = None) -> dict[tuple[str, ...], float]:
    found: dict[tuple[str, ...], float] = {}
    for instrument, values, amount in (measurements or Measurements()).of_event(event):
        found[instrument.name, *values] = amount
    return found


def test_an_event_of_another_kind_says_nothing() -> None:
    assert {} == figures("something else")


@pytest.mark.parametrize("kind", ["intent", "change", "policy", "loss", "checkpoint"])
def test_only_a_request_that_is_over_counts(kind: str) -> None:
    assert {} == figures(record(kind=kind))


def test_a_request_is_counted_timed_and_charged_to_its_team_and_model() -> None:
    assert {
        ("requests", "chat", "allowed", "2xx", "complete"): 1,
        ("request.duration", "chat", "allowed"): pytest.approx(2.0),
        ("request.first_byte", "chat"): pytest.approx(0.25),
        ("decisions", "KeyAuthMiddleware", "allowed", "none"): 1,
        ("decisions", "BudgetMiddleware", "allowed", "none"): 1,
        ("layer.duration", "KeyAuthMiddleware"): pytest.approx(40e-6),
        ("layer.duration", "BudgetMiddleware"): pytest.approx(60e-6),
        ("tokens", "acme", "blue", "gpt-4o-mini", "input"): 100,
        ("tokens", "acme", "blue", "gpt-4o-mini", "output"): 20,
        ("cost", "acme", "blue", "gpt-4o-mini"): pytest.approx(0.0015),
    } == figures(record())


def test_a_denial_is_counted_by_its_layer_and_reason() -> None:
    decision = Decision("RBACMiddleware", "denied", "model_not_allowed", "k_1", rule="analyst")
    denied = figures(
        record(outcome="denied", reason="model_not_allowed", status=403, decisions=(decision,), spent=(90,), usage=None, charge=None)
    )
    assert denied["decisions", "RBACMiddleware", "denied", "model_not_allowed"] == 1
    assert denied["requests", "chat", "denied", "4xx", "complete"] == 1
    # How fast a denial is written says nothing about how fast a model answers.
    assert not [name for name in denied if name[0] in ("request.first_byte", "tokens", "cost")]


def test_a_decision_in_the_middle_of_an_answer_takes_no_time_of_its_own() -> None:
    frames = (Decision("RBACMiddleware", "allowed"), Decision("RBACMiddleware", "denied", "model_not_allowed"))
    found = figures(record(decisions=frames, spent=(50, 90_000_000), first_byte=1000))
    assert found["layer.duration", "RBACMiddleware"] == pytest.approx(50e-6)
    assert found["decisions", "RBACMiddleware", "denied", "model_not_allowed"] == 1


def test_a_request_in_store_trouble_is_counted_by_what_became_of_it() -> None:
    assert figures(record(store_trouble=True))["requests.store_trouble", "allowed"] == 1


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({"charge": msgspec.structs.replace(CHARGE, model="gpt-4o-made-up", rule="gpt-4o*")}, "gpt-4o*"),
        ({"charge": None}, "gpt-4o-mini-2026"),
        ({"charge": None, "served": None}, OTHER),
        ({"charge": None, "outcome": "denied"}, OTHER),
    ],
    ids=["by the entry of the price book", "as the answer names it", "only asked for", "denied"],
)
def test_a_model_is_named_by_what_no_client_makes_up(changes: dict[str, Any], label: str) -> None:
    models = {values[2] for instrument, values, _ in Measurements().of_event(record(**changes)) if instrument.name == "tokens"}
    assert {label} == models


def test_questions_and_alerts_are_timed_and_counted() -> None:
    assert {("store.duration", "ledger", "reserve", "late"): 0.25} == figures(Asked("ledger", "reserve", 0.25, "late"))
    assert {("fetch.duration", "jwks", "https://idp.example", "ok"): 0.1} == figures(Fetched("jwks", "https://idp.example", 0.1, "ok"))
    alert = Alert(kind="lockout", tenant="*", subject="203.0.113.0/24", message="…")
    assert {("alerts", "lockout"): 1} == figures(alert)


class Measured:
    def __init__(self, *readings: Reading) -> None:
        self.made = readings
        telemetry.measure(self)

    def readings(self) -> Iterator[Reading]:
        yield from self.made


class Broken:
    def __init__(self) -> None:
        telemetry.measure(self)

    def readings(self) -> Iterator[Reading]:
        raise RuntimeError


def test_readings_of_one_name_and_labels_are_added_up_as_long_as_their_objects_live() -> None:
    name, labels = "cache_entries", (("cache", "of this test"),)
    one, other = Measured(Reading(name, 3, labels)), Measured(Reading(name, 4, labels), Reading("nobody_knows", 1))
    key = name, ("of this test",)
    assert Measurements().of_readings()[key] == 7
    assert all(found in READ for found, _ in Measurements().of_readings())
    del other
    gc.collect()
    assert Measurements().of_readings()[key] == 3
    del one


def test_an_object_that_cannot_be_read_hides_no_other(caplog: pytest.LogCaptureFixture) -> None:
    held = [Broken(), Measured(Reading("cache_entries", 3, (("cache", "of this test"),)))]
    assert Measurements().of_readings()["cache_entries", ("of this test",)] == 3
    assert "the figures of Broken could not be read: RuntimeError" in caplog.text
    held.clear()


POOL = st.lists(st.text(st.characters(), max_size=30), min_size=1, max_size=30)


class Attacker:
    """Makes up records: every text in them is new, or one of the few that mean something."""

    def __init__(self, pool: list[str], seed: int) -> None:
        self.pool = [*pool, "chat", "allowed", "denied", "complete", "key_unknown", "x" * 10_000]
        self.random = random.Random(seed)
        self.made = 0

    def text(self) -> str:
        self.made += 1
        said = self.random.choice(self.pool)
        return said if self.random.random() < 0.3 else f"{said}{self.made}"

    def maybe(self) -> str | None:
        return self.text() if self.random.random() < 0.9 else None

    def record(self) -> Record:
        decisions = tuple(Decision(self.text(), self.text(), self.maybe(), self.maybe(), self.maybe(), self.maybe()) for _ in range(2))
        said: dict[str, Any] = {
            name: self.maybe() for name in ("outcome", "reason", "layer", "protocol", "verb", "path", "operation", "served", "end")
        }
        return record(
            **said,
            who=Who(tenant=self.text(), team=self.maybe(), org=self.maybe(), credential_id=self.maybe()),
            person=Person(user=self.text(), address=self.text(), end_user=self.text()),
            models=(self.text(), self.text()),
            decisions=decisions,
            spent=tuple(self.random.randrange(2**53) for _ in range(self.random.randrange(4))),
            status=self.random.randrange(-1, 100_000),
            usage=Usage(input=self.random.randrange(2**53), output=self.random.randrange(2**53)),
            charge=Charge(amount=1, model=self.text(), rule=self.text(), version="1") if self.random.random() < 0.5 else None,
            store_trouble=True,
        )


@settings(max_examples=10)
@given(POOL, st.integers())
def test_whatever_a_thousand_records_say_the_series_stay_as_many_as_stated(pool: list[str], seed: int) -> None:
    most, attacker = 20, Attacker(pool, seed)
    measurements = Measurements(most)
    seen: dict[str, set[tuple[str, ...]]] = {instrument.name: set() for instrument in INSTRUMENTS}
    for _ in range(1000):
        for instrument, values, amount in measurements.of_event(attacker.record()):
            assert amount >= 0
            assert all(value.isprintable() and 0 < len(value) <= MAX_VALUE for value in values)
            seen[instrument.name].add(values)
    assert all(len(series) <= 2 * most for series in seen.values())
    assert len(seen["tokens"]) >= most


def test_every_figure_of_a_sink_and_of_alerts_is_measured() -> None:
    told = {reading.name for one in (StdoutSink(), Alerts(log=True)) for reading in one.readings()}
    assert told == {name for name in READ if name.startswith(("audit_", "alerts_"))}


def test_an_observer_that_fails_at_every_request_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    class FailsAlways:
        def observe(self, event: object) -> None:
            raise ValueError(repr(event))

    failing = FailsAlways()
    telemetry.attach(failing)
    try:
        for _ in range(1000):
            telemetry.emit(record())
    finally:
        telemetry.detach(failing)
    told = [line.getMessage() for line in caplog.records]
    # The 1st, the 2nd, the 4th, the 8th.
    assert 10 == len(told)
    assert ("FailsAlways could not take Record: ValueError (1 so far)", "FailsAlways could not take Record: ValueError (512 so far)") == (
        told[0],
        told[-1],
    )
