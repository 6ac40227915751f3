"""The helper that starts real servers: what it promises to the tests that stand on it."""

import http.client
import os
import signal
import socket
from pathlib import Path

import httpx
import pytest

from llm_authmw.testing.servers import SERVERS, ServerName, ServerNotReady, serve

APPS = Path(__file__).parent / "apps"


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_cannot_start_says_why(server: ServerName) -> None:
    with (
        pytest.raises(ServerNotReady, match=r"(?s)the server (ended with|did not answer).*no_such_module"),
        serve("no_such_module:app", server=server, time_limit=10),
    ):
        pass


def test_a_server_that_does_not_answer_in_time_is_given_up_and_ended() -> None:
    with (
        pytest.raises(ServerNotReady, match=r"the server did not answer within 0 s"),
        serve("provider_app:app", directory=APPS, time_limit=0),
    ):
        pass


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_answers_inside_the_block_and_is_gone_after_it(server: ServerName) -> None:
    with serve("provider_app:app", server=server, directory=APPS) as running:
        assert {"status": "ok"} == httpx.get(f"{running.url}/health", trust_env=False).json()
    assert not is_listening(running.port)
    assert running.process.returncode is not None


def test_a_server_is_gone_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), serve("provider_app:app", directory=APPS) as running:
        raise ZeroDivisionError
    assert not is_listening(running.port)


def test_a_server_that_ignores_the_polite_request_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.testing.servers._GRACE", 0.05)
    with serve("provider_app:app", directory=APPS) as running:
        os.kill(running.process.pid, signal.SIGSTOP)
    assert -signal.SIGKILL == running.process.returncode
    assert not is_listening(running.port)


def test_environment_and_options_reach_the_server(tmp_path: Path) -> None:
    (tmp_path / "shows.py").write_text(
        "import os\n"
        "from starlette.responses import PlainTextResponse\n"
        "async def app(scope, receive, send):\n"
        "    await PlainTextResponse(os.environ['SHOWN'])(scope, receive, send)\n"
    )
    options = ["--header", "x-option:yes", "--lifespan", "off"]
    with serve("shows:app", directory=tmp_path, env={"SHOWN": "hello"}, options=options) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
        connection.request("GET", "/")
        answer = connection.getresponse()
        assert ("yes", b"hello") == (answer.getheader("x-option"), answer.read())
        connection.close()
        assert "shows" not in running.output
