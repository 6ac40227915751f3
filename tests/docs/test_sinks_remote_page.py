"""What the page about collectors elsewhere says is what they are met with."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from llm_authmw.clock import SYSTEM_CLOCK
from llm_authmw.errors import SinkError
from llm_authmw.sinks.frames import severity
from llm_authmw.sinks.http import HTTPSink, HTTPTransport
from llm_authmw.sinks.http_calls import MAX_ANSWER, MAX_HOLD, TIMEOUT, Collector
from llm_authmw.sinks.retries import FIRST_PAUSE, MAX_PAUSE
from llm_authmw.sinks.splunk import ACK_PATIENCE, SplunkSink, SplunkTransport
from llm_authmw.sinks.syslog import SyslogSink
from llm_authmw.sinks.tls import client_context
from llm_authmw.testing.places import make_record
from llm_authmw.trail import ocsf
from llm_authmw.trail.chain import Chain
from tests.peers.collectors import Reply, collector

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "docs/sinks-remote.md").read_text(encoding="utf-8")
TLS = client_context(ca_file=None, cert_file=None, key_file=None)


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("| ")]


def numbers(text: str) -> set[int]:
    return set(map(int, re.findall(r"\b\d+\b", text)))


FAILURES = {row[0]: row[1] for row in rows("When it goes wrong")}
(REFUSALS,) = (what for what in FAILURES if what.startswith("400"))
STATUSES, _, CODES = REFUSALS.partition(";")


async def failure(reply: Reply, *, splunk: bool) -> SinkError:
    with collector() as peer:
        peer.replies.append(reply)
        calls = Collector(peer.url, headers={}, tls=TLS, clock=SYSTEM_CLOCK)
        place: Any = HTTPTransport(calls, body="ndjson", compress=False, max_body=100_000)
        if splunk:
            place = SplunkTransport(calls, envelope={"host": "h"}, acknowledge=False, compress=False, max_body=100_000, clock=SYSTEM_CLOCK)
        with pytest.raises(SinkError) as caught:
            await place.write([Chain().link(make_record())])
        await place.aclose()
    return caught.value


@pytest.mark.parametrize("status", [*range(400, 432), 451, 500, 502, 503, 504])
async def test_a_status_loses_records_where_the_page_says_so_only(status: int) -> None:
    assert (status in numbers(STATUSES)) == (await failure(Reply(status), splunk=False)).permanent


@pytest.mark.parametrize("code", range(1, 30))
async def test_a_code_of_splunk_loses_records_where_the_page_says_so_only(code: int) -> None:
    error = await failure(Reply(400, b'{"text":"","code":%d}' % code), splunk=True)

    assert (code in numbers(CODES)) == error.permanent


def test_the_bounds_are_those_of_the_code() -> None:
    assert {400, 413, 414, 415, 422, 431} == numbers(STATUSES)
    assert f"within {TIMEOUT:.0f} s" in " ".join(FAILURES)
    assert f"reads {MAX_ANSWER // 1024} KiB of it" == FAILURES["an answer that has no end"]
    assert (300, "five minutes") == (MAX_HOLD, re.findall(r"five minutes", FAILURES["408, 425, 429, 5xx"])[0])
    assert (120, "two minutes") == (ACK_PATIENCE, re.findall(r"two minutes", FAILURES["Splunk has not acknowledged"])[0])
    assert f"after {FIRST_PAUSE:g} s and then ever later up to {MAX_PAUSE:g} s" in PAGE


@pytest.mark.parametrize(("heading", "sink"), [("Syslog", SyslogSink), ("HTTP", HTTPSink), ("Splunk", SplunkSink)])
def test_the_options_have_the_defaults_of_the_page(heading: str, sink: type) -> None:
    parameters = inspect.signature(sink).parameters
    shown = [row for row in rows(heading) if row[0].startswith("`") and len(row) == 3 and row[1] != "as above"]
    assert len(shown) > 5
    for names, default, _ in shown:
        for name in re.findall(r"`(\w+)`", names):
            found = parameters[name].default
            if default == "required":
                assert found is inspect.Parameter.empty
            elif default.startswith("`"):
                assert default == f"`{found}`"
            elif numbers(default):
                assert numbers(default) == {found}
            else:
                assert found is None


def test_the_severities_and_the_classes_are_those_of_the_page() -> None:
    said = next(row[1] for row in rows("Syslog") if row[0] == "PRI")
    for fields, word in [
        ({"outcome": "failed"}, "failed"),
        ({"kind": "loss"}, "lost"),
        ({"outcome": "denied"}, "denials"),
        ({"kind": "change"}, "changes"),
    ]:
        stated = re.search(rf"(\d) for [^\d]*{word}", said)
        assert stated is not None
        assert severity(make_record(**({"outcome": None} | fields))) == int(stated[1])
    assert severity(make_record()) == int(said[-1])
    assert f"version {ocsf.VERSION}" in PAGE
    assert {f"{name} ({number})" for number, name in ocsf._CLASSES.items()} == {row[1].partition(",")[0] for row in rows("OCSF")[1:]}
