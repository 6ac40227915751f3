import logging
import re
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from standardwebhooks.webhooks import Webhook as Receiver
from standardwebhooks.webhooks import WebhookVerificationError

from llm_authmw import Secret, telemetry
from llm_authmw.alerts import Alerts, Webhook
from llm_authmw.alerts.outbox import WAITS
from llm_authmw.alerts.telling import NotToldError, Telling
from llm_authmw.telemetry import Alert
from llm_authmw.testing.raw_server import RawServer, answers, raw_server

pytestmark = pytest.mark.anyio

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEWER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD+b5sSYspob7o"
ALERT = Alert(kind="lockout", tenant="default", subject="192.0.2.7 \u202e", message="Too many failures.", details={"until": 12.5})


class Endpoint:
    """A receiver that answers as it is told, and keeps what came."""

    def __init__(self, *statuses: str) -> None:
        self.posts: list[tuple[dict[str, str], bytes]] = []
        self._statuses = [*statuses]
        self.server: RawServer | None = None

    async def __call__(self, stream: ByteStream) -> None:
        assert self.server is not None
        request, *lines = self.server.heads[-1].splitlines()
        assert re.fullmatch(r"POST /hook\?token=in-the-url HTTP/1\.1", request)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = b""
        while len(body) < int(headers["content-length"]):
            body += await stream.receive()
        self.posts.append((headers, body))
        status = self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]
        await answers(b"", status=status, headers="Location: https://elsewhere.example.com/\r\n" if status.startswith("3") else "")(stream)


async def told(endpoint: Endpoint, *, secret: Any = SECRET) -> NotToldError | None:
    async with raw_server(endpoint) as server:
        endpoint.server = server
        webhook = Webhook(f"{server.url}/hook?token=in-the-url", secret=secret)
        try:
            await webhook.tell(Telling(id="msg_1", at=1_700_000_000, alert=ALERT, repeated=2))
        except NotToldError as error:
            return error
        finally:
            await webhook.aclose()
    return None


async def test_a_receiver_with_the_secret_verifies_what_it_is_told() -> None:
    endpoint = Endpoint("204 No Content")
    assert await told(endpoint) is None
    ((headers, body),) = endpoint.posts
    data = {
        "tenant": "default",
        "subject": "192.0.2.7 \u202e",
        "message": "Too many failures.",
        "details": {"until": 12.5},
        "repeated": 2,
    }
    assert {"type": "lockout", "timestamp": "2023-11-14T22:13:20Z", "data": data} == Receiver(SECRET).verify(body, headers)
    assert ("msg_1", "application/json") == (headers["webhook-id"], headers["content-type"])


@pytest.mark.parametrize("change", ["body", "webhook-id", "webhook-timestamp", "secret"])
async def test_what_somebody_changed_on_the_way_is_not_verified(change: str) -> None:
    endpoint = Endpoint("204 No Content")
    await told(endpoint)
    ((headers, body),) = endpoint.posts
    if change == "body":
        body = body.replace(b"lockout", b"key_expiring")
    elif change == "webhook-timestamp":
        headers[change] = str(int(headers[change]) + 1)
    elif change != "secret":
        headers[change] += "0"
    with pytest.raises(WebhookVerificationError):
        Receiver(NEWER if change == "secret" else SECRET).verify(body, headers)


async def test_of_two_secrets_both_sign_so_that_one_can_be_replaced() -> None:
    endpoint = Endpoint("200 OK")
    await told(endpoint, secret=[SECRET, Secret(NEWER)])
    ((headers, body),) = endpoint.posts
    assert Receiver(SECRET).verify(body, headers) == Receiver(NEWER).verify(body, headers)


@pytest.mark.parametrize("status", ["408 Request Timeout", "425 Too Early", "429 Too Many Requests", "500 Oops", "503 Service Unavailable"])
async def test_a_receiver_that_may_take_it_later_is_told_again(status: str) -> None:
    error = await told(Endpoint(status))
    assert error is not None
    assert not error.permanent


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "404 Not Found", "410 Gone"])
async def test_a_receiver_that_refuses_it_is_not_told_again(status: str) -> None:
    error = await told(Endpoint(status))
    assert error is not None
    assert error.permanent


async def test_no_redirect_is_followed() -> None:
    endpoint = Endpoint("307 Temporary Redirect")
    error = await told(endpoint)
    assert error is not None
    assert "redirect" in str(error)
    assert 1 == len(endpoint.posts)


async def test_every_attempt_of_one_alert_has_the_same_id_and_the_last_one_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint, waits = Endpoint("503 Service Unavailable", "500 Oops", "200 OK"), list[float]()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    async with raw_server(endpoint) as server:
        endpoint.server = server
        alerts = Alerts(webhooks=Webhook(f"{server.url}/hook?token=in-the-url", secret=SECRET), sleep=sleep)
        async with alerts:
            telemetry.emit(ALERT)
    assert [*WAITS[:2]] == [wait for wait in waits if wait]
    assert 3 == len(endpoint.posts)
    assert 1 == len({headers["webhook-id"] for headers, _ in endpoint.posts})
    # Nor in the log of the HTTP library, which would write down every URL.
    assert "in-the-url" not in caplog.text + repr(alerts)
    assert SECRET not in caplog.text + repr(alerts)


async def test_a_receiver_that_is_down_ends_in_an_error_that_names_no_path(caplog: pytest.LogCaptureFixture) -> None:
    async def sleep(_: float) -> None:
        await anyio.lowlevel.checkpoint()

    async with raw_server(answers(b"")) as server:
        gone = server.url
    async with Alerts(webhooks=Webhook(f"{gone}/hook?token=in-the-url", secret=SECRET), sleep=sleep):
        telemetry.emit(ALERT)
    assert f"1 alert(s) did not reach Webhook('{gone}')" in caplog.text
    assert "in-the-url" not in caplog.text
