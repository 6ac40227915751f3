import logging
from typing import Any

import anyio
import pytest

from llm_authmw import ConfigurationError, open_store, telemetry
from llm_authmw.alerts import Alerts, Webhook
from llm_authmw.alerts.outbox import WAITS, Outbox
from llm_authmw.alerts.telling import NotToldError, Telling
from llm_authmw.telemetry import Alert
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

SECRET = "whsec_" + "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOCKOUT = Alert(kind="lockout", tenant="default", subject="192.0.2.7", message="Too many failures.")
OUTAGE = Alert(kind="issuer_outage", tenant="*", subject="https://sso.example.com", message="The keys cannot be fetched.")


class Told:
    """A function of a user's, and a way to wait for what it is told."""

    def __init__(self, *, fails: int = 0) -> None:
        self.alerts: list[Alert] = []
        self.calls = 0
        self._fails = fails
        self._came = anyio.Event()

    async def __call__(self, alert: Alert) -> None:
        self.calls += 1
        if self.calls <= self._fails:
            raise RuntimeError("sk-a-secret-that-a-user-may-put-into-an-error")
        self.alerts.append(alert)
        self._came.set()
        self._came = anyio.Event()

    async def until(self, count: int) -> list[Alert]:
        with anyio.fail_after(10):
            while len(self.alerts) < count:
                await self._came.wait()
        return self.alerts


class Waits:
    """Stands in for waiting: it takes no time, and is written down."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        await anyio.lowlevel.checkpoint()
        if seconds:
            self.seconds.append(seconds)


async def test_an_alert_is_told_and_the_one_who_raised_it_does_not_wait() -> None:
    told = Told()
    async with Alerts(on_alert=told):
        telemetry.emit(LOCKOUT)
        assert [] == told.alerts
        assert [LOCKOUT] == await told.until(1)


async def test_nobody_is_told_before_it_has_started_and_after_it_has_ended() -> None:
    told = Told()
    alerts = Alerts(on_alert=told)
    telemetry.emit(LOCKOUT)
    async with alerts:
        telemetry.emit(OUTAGE)
        await told.until(1)
    telemetry.emit(LOCKOUT)
    await anyio.lowlevel.checkpoint()
    assert [OUTAGE] == told.alerts


async def test_the_same_thing_is_told_once_in_the_stated_time_and_then_with_how_often_it_was_raised() -> None:
    clock, tellings = ManualClock(), list[Telling]()
    alerts = Alerts(log=True, again=600, clock=clock)
    alerts.tell = tellings.append  # type: ignore[method-assign, assignment]
    for _ in range(5):
        alerts.observe(LOCKOUT)
    clock.advance(599)
    alerts.observe(LOCKOUT)
    assert [0] == [telling.repeated for telling in tellings]
    clock.advance(1)
    alerts.observe(LOCKOUT)
    assert [0, 5] == [telling.repeated for telling in tellings]
    assert 2 == len({telling.id for telling in tellings})


async def test_another_subject_tenant_kind_or_occasion_is_told_of_by_itself() -> None:
    told = Told()
    others = [
        Alert(kind="lockout", tenant="default", subject="192.0.2.8", message="x"),
        Alert(kind="lockout", tenant="other", subject="192.0.2.7", message="x"),
        Alert(kind="audit_loss", tenant="default", subject="192.0.2.7", message="x"),
        Alert(kind="lockout", tenant="default", subject="192.0.2.7", message="x", occasion="the second one"),
    ]
    async with Alerts(on_alert=told):
        for alert in (LOCKOUT, *others, LOCKOUT):
            telemetry.emit(alert)
        assert [LOCKOUT, *others] == await told.until(5)


async def test_only_the_kinds_that_were_asked_for_are_told() -> None:
    told = Told()
    async with Alerts(on_alert=told, kinds=["issuer_outage"]):
        telemetry.emit(LOCKOUT)
        telemetry.emit(OUTAGE)
        assert [OUTAGE] == await told.until(1)


async def test_what_is_no_alert_means_nothing_to_it() -> None:
    told = Told()
    async with Alerts(on_alert=told):
        telemetry.emit(telemetry.Fetched("jwks", "https://sso.example.com", 0.1, "ok"))
        telemetry.emit(object())
        telemetry.emit(LOCKOUT)
        assert [LOCKOUT] == await told.until(1)


async def test_a_function_that_fails_is_called_again_after_growing_waits_and_its_error_is_not_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told, waits = Told(fails=3), Waits()
    async with Alerts(on_alert=told, sleep=waits):
        telemetry.emit(LOCKOUT)
        assert [LOCKOUT] == await told.until(1)
    assert list(WAITS[:3]) == waits.seconds
    assert "sk-a-secret" not in caplog.text


async def test_an_alert_that_nobody_takes_is_given_up_in_the_end_and_the_next_one_is_told(caplog: pytest.LogCaptureFixture) -> None:
    told, waits = Told(fails=len(WAITS) + 1), Waits()
    alerts = Alerts(on_alert=told, sleep=waits)
    async with alerts:
        telemetry.emit(LOCKOUT)
        telemetry.emit(OUTAGE)
        assert [OUTAGE] == await told.until(1)
        figures = {reading.name: reading.value for reading in alerts.readings()}
    assert {"alerts_told": 1, "alerts_lost": 1, "alerts_waiting": 0} == figures
    assert "1 alert(s) did not reach on_alert=Told: RuntimeError" in caplog.text
    assert "sk-a-secret" not in caplog.text


async def test_of_too_many_that_wait_the_oldest_goes() -> None:
    class Never:
        async def tell(self, telling: Telling) -> None:
            del telling
            raise NotToldError("it is down")

        async def aclose(self) -> None:
            pass

    waiting = anyio.Event()

    async def sleep(_: float) -> None:
        await waiting.wait()

    outbox = Outbox(Never(), size=3, sleep=sleep)
    for number in range(10):
        outbox.put(Telling(id=str(number), at=0, alert=LOCKOUT))
    assert 3 == len(outbox)
    assert 7 == outbox.lost
    await outbox.aclose(patience=0)
    assert 10 == outbox.lost


async def test_of_several_processes_that_see_the_same_thing_one_tells(tmp_path: Any) -> None:
    store, told, other = open_store(f"sqlite:///{tmp_path}/authmw.db"), Told(), Told()
    async with store:
        first, second = Alerts(on_alert=told, ledger=store.ledger), Alerts(on_alert=other, ledger=store.ledger)
        async with first:
            first.observe(LOCKOUT)
            await told.until(1)
        second.observe(LOCKOUT)
        second.observe(OUTAGE)
        assert [OUTAGE] == await other.until(1)
        await second.aclose()


async def test_where_the_ledger_does_not_answer_it_is_told_all_the_same(tmp_path: Any) -> None:
    (tmp_path / "authmw.db").write_bytes(b"this is no database, and long enough to be looked at as one" * 100)
    store, told = open_store(f"sqlite:///{tmp_path}/authmw.db"), Told()
    async with Alerts(on_alert=told, ledger=store.ledger):
        telemetry.emit(LOCKOUT)
        assert [LOCKOUT] == await told.until(1)
    await store.aclose()


async def test_the_log_has_one_line_whatever_the_subject_is(caplog: pytest.LogCaptureFixture) -> None:
    hostile = Alert(kind="lockout", tenant="a\nb", subject="x\r\nWARNING forged \x1b[31m\u202e", message="one\ntwo")
    told = Told()
    with caplog.at_level(logging.WARNING, "llm_authmw.alerts"):
        async with Alerts(log=True, on_alert=told):
            telemetry.emit(hostile)
            await told.until(1)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "llm_authmw.alerts"]
    assert line.isprintable()
    assert r"x\r\nWARNING forged \x1b[31m\u202e" in line


async def test_budgets_tell_when_a_threshold_is_passed() -> None:
    from llm_authmw.limits.alerts import BudgetAlert, _event  # noqa: PLC0415 - what becomes of one is looked at here

    budget = BudgetAlert(
        tenant="default",
        scope="team",
        subject="team:blue",
        budget="10 usd/day, soft 80%",
        percent=80,
        used=8_000_000_000,
        limit=10_000_000_000,
        ends_at=1.0,
    )
    soft = _event(budget)
    assert ("budget_soft", "team:blue") == (soft.kind, soft.subject)
    assert "The budget '10 usd/day, soft 80%' has reached 80%: 8.000000 of 10.00 usd are used." == soft.message


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "nobody would be told"),
        ({"webhooks": "https://example.com"}, "takes Webhook"),
        ({"log": 1}, "True or False"),
        ({"log": True, "again": 0}, "at least 1"),
        ({"log": True, "again": True}, "at least 1"),
        ({"log": True, "kinds": "lockout"}, "kinds"),
        ({"log": True, "kinds": ["lock_out"]}, "'lock_out'"),
        ({"log": True, "ledger": object()}, "store.ledger"),
        ({"on_alert": "print"}, "takes a function"),
    ],
)
async def test_an_option_that_is_wrong_is_an_error(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Alerts(**options)


@pytest.mark.parametrize(
    ("url", "secret", "says"),
    [
        ("http://alerts.example.com/x", SECRET, "https"),
        ("https://user:password@alerts.example.com/x", SECRET, "credentials have options"),
        ("https://alerts.example.com/x", [], "names none"),
        ("https://alerts.example.com/x", "whsec_c2hvcnQ=", "24 to 64 bytes"),
        ("https://alerts.example.com/x", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_"),
        ("https://alerts.example.com/x", "whsec_not base64!", "24 to 64 bytes"),
    ],
)
async def test_a_webhook_that_could_not_be_trusted_is_an_error_that_quotes_nothing(url: str, secret: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        Webhook(url, secret=secret)
    assert "example.com" not in str(raised.value)
    assert "MfKQ" not in str(raised.value)
