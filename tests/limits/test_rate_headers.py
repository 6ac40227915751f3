"""What an answer tells of the limits."""

import datetime as dt
import re
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import RateLimitMiddleware
from llm_authmw.asgi import ASGIApp
from llm_authmw.ledger.buckets import SECOND
from llm_authmw.limits.rate_headers import MAX_SHOWN, duration, moment
from llm_authmw.testing import Response, fake_principal, request
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

CHAT: Final = "POST /v1/chat/completions"
MESSAGES: Final = "POST /v1/messages"
ADA: Final = fake_principal("ada", team='bl"ue\\ü', org="acme", realm="home")
BODY: Final[dict[str, Any]] = {"model": "gpt-4o", "max_tokens": 10, "messages": []}
SIZE: Final = len('{"model":"gpt-4o","max_tokens":10,"messages":[]}')
# RFC 8941 §3.1, §3.1.2, §3.3.1 and §3.3.3: a list of strings with parameters that are integers or strings.
ITEM: Final = r'"[\x20\x21\x23-\x5b\x5d-\x7e]*"(?:;[a-z]+=(?:-?[0-9]{1,15}|"[\x20\x21\x23-\x5b\x5d-\x7e]*"))*'
LIST: Final = re.compile(rf"{ITEM}(?:, {ITEM})*")


async def ask(target: str = CHAT, *, app: ASGIApp | None = None, times: int = 1, json: Any = BODY, **options: Any) -> Response:
    books = Books()
    layer = RateLimitMiddleware(app or Recorder(), ledger=books.service, **options)
    for _ in range(times - 1):
        await request(layer, target, json=json, scope=called_by(ADA))
    return await request(layer, target, json=json, scope=called_by(ADA))


def line(answer: Response, name: str) -> str:
    return answer.header(name) or ""


def items(answer: Response) -> dict[str, str]:
    return dict(item.split(";", 1) for item in line(answer, "ratelimit").split(", "))


async def test_an_allowed_answer_says_what_is_left_of_each_limit() -> None:
    limits = {"team": ["60 requests/minute, burst 10", "4 concurrent"], "org": ["1000 requests/day, calendar"]}
    answer = await ask("POST /other", json={}, limits=limits | {"caller": ["9000 tokens/hour, burst 900"]})
    assert [
        '"organisation: requests/day";q=1000;w=86400',
        '"team: concurrent";q=4;qu="concurrent-requests"',
        '"team: requests/minute";q=60;w=60',
    ] == sorted(line(answer, "ratelimit-policy").split(", "))
    # The manual clock stands at 08:00.
    assert {'"team: requests/minute"': "r=9;t=1", '"team: concurrent"': "r=3", '"organisation: requests/day"': "r=999;t=57600"} == (
        items(answer)
    )


async def test_tokens_have_a_unit_of_their_own() -> None:
    answer = await ask(limits={"caller": ["9000 tokens/hour, burst 900", "800 input tokens/day, calendar"]})
    policies = line(answer, "ratelimit-policy").split(", ")
    assert ['"caller: input tokens/day";q=800;qu="input-tokens";w=86400', '"caller: tokens/hour";q=9000;qu="tokens";w=3600'] == sorted(
        policies
    )
    assert f'"caller: tokens/hour";r={900 - SIZE - 10};t={-(-(SIZE + 10) * 3600 // 9000)}' in line(answer, "ratelimit").split(", ")


@pytest.mark.parametrize("limit", ["2 requests/minute, burst 2", "2 requests/day, calendar"])
async def test_a_denial_says_that_nothing_is_left_and_never_promises_more_than_retry_after_does(limit: str) -> None:
    answer = await ask(times=3, limits={"team": [limit], "org": ["9 requests/day, calendar"]})
    assert 429 == answer.status
    told = items(answer)
    name = next(name for name in told if "team" in name)
    wait = answer.header("retry-after")
    assert f"r=0;t={wait}" == told[name]
    assert told['"organisation: requests/day"'].startswith("r=7;t=")
    assert all(int(item.partition(";t=")[2]) <= int(wait or 0) for item in told.values())


async def test_the_headers_are_structured_fields_whoever_calls_and_name_nobody() -> None:
    limits = {
        scope: [f"{number} requests/minute"]
        for number, scope in enumerate(("team", "caller", "user", "member", "team+model", "route+org"), 50)
    }
    for times in (1, 60):
        answer = await ask(times=times, limits=limits)
        for name in ("ratelimit", "ratelimit-policy"):
            value = line(answer, name)
            assert LIST.fullmatch(value) is not None, value
            assert not re.search(r"ada|acme|ue|home|gpt", value.replace("request", ""))


async def test_what_tenants_share_is_not_told() -> None:
    answer = await ask(times=2, limits={"global": ["1 requests/day, calendar"], "global+model": ["9 concurrent"]})
    assert 429 == answer.status
    assert [] == [name for name, _ in answer.headers if b"ratelimit" in name]
    both = await ask(limits={"global": ["9 requests/day, calendar"], "team": ["4 concurrent"]})
    assert '"team: concurrent";r=3' == both.header("ratelimit")


async def test_of_many_limits_those_with_the_least_left_are_told_and_each_name_once() -> None:
    models = {"fallbacks": [f"m{number}" for number in range(20)]}
    answer = await ask(json=BODY | models, limits={"model": ["9 requests/day, calendar"]})
    assert '"model: requests/day";r=8;t=57600' == answer.header("ratelimit")
    many = {scope: ["9 concurrent", "9 requests/day, calendar"] for scope in ("team", "org", "caller", "user", "member")}
    answer = await ask(limits=many | {"tenant": ["1 requests/hour, burst 1"]})
    told = line(answer, "ratelimit").split(", ")
    assert (MAX_SHOWN, True) == (len(told), told[0].startswith('"tenant: requests/hour";r=0'))


async def test_of_several_models_the_one_with_the_least_left_is_told() -> None:
    layer = RateLimitMiddleware(Recorder(), ledger=Books().service, limits={"model": ["9 requests/day, calendar"]})
    for models, left in ((["o3"], 8), (["gpt-4o", "o3", "o1"], 7), (["o1", "gpt-4o"], 7), (["o1", "o3", "gpt-4o"], 6)):
        body = BODY | {"model": models[0], "fallbacks": models[1:]}
        answer = await request(layer, CHAT, json=body, scope=called_by(ADA))
        assert f'"model: requests/day";r={left};t=57600' == answer.header("ratelimit")


OPENAI: Final = {b"x-ratelimit-%s-%s" % (what, unit) for what in (b"limit", b"remaining", b"reset") for unit in (b"requests", b"tokens")}
ANTHROPIC: Final = {
    b"anthropic-ratelimit-%s-%s" % (unit, what) for what in (b"limit", b"remaining", b"reset") for unit in (b"requests", b"tokens")
}
IETF: Final = {b"ratelimit", b"ratelimit-policy"}
BOTH: Final = {"team": ["60 requests/minute, burst 10", "6000 tokens/minute, burst 600"]}


CASES: Final[list[tuple[str, dict[str, Any], set[bytes]]]] = [
    (CHAT, {}, IETF | OPENAI),
    (MESSAGES, {}, IETF | ANTHROPIC),
    ("POST /v1beta/models/gemini-2.5-pro:generateContent", {}, IETF),
    (CHAT, {"headers": []}, set[bytes]()),
    (MESSAGES, {"headers": ["openai"]}, OPENAI),
    (CHAT, {"headers": ["ratelimit"]}, IETF),
    (CHAT, {"headers": ("anthropic", "openai", "ratelimit")}, IETF | OPENAI | ANTHROPIC),
]


@pytest.mark.parametrize(("target", "options", "expected"), CASES, ids=lambda value: None if isinstance(value, set) else str(value))
@pytest.mark.parametrize("times", [1, 11])
async def test_each_client_is_told_in_its_own_headers_on_answers_and_denials(
    target: str, options: Any, expected: set[bytes], times: int
) -> None:
    answer = await ask(target, limits=BOTH, times=times, **options)
    assert (times == 11) == (answer.status == 429)
    assert expected == {name for name, _ in answer.headers if b"ratelimit" in name}


async def test_openai_s_headers_have_its_durations() -> None:
    answer = await ask(limits=BOTH)
    values = {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in answer.headers if name in OPENAI}
    assert {
        "limit-requests": "60",
        "remaining-requests": "9",
        "reset-requests": "1s",
        "limit-tokens": "6000",
        "remaining-tokens": str(600 - SIZE - 10),
        "reset-tokens": f"{(SIZE + 10) * 10}ms",
    } == values


async def test_how_little_is_left_is_measured_by_a_full_bucket_and_not_by_its_limit() -> None:
    # 9 of 10 are left of the team's, and 1 of 2 of the caller's own.
    answer = await ask(limits={"team": ["100 requests/minute, burst 10"], "caller": ["2 requests/minute, burst 2"]})
    assert ("2", "1") == (line(answer, "x-ratelimit-limit-requests"), line(answer, "x-ratelimit-remaining-requests"))


async def test_anthropic_s_headers_have_its_moments() -> None:
    limits = {"team": ["60 requests/day, calendar", "600 input tokens/day, calendar", "500 output tokens/day, calendar"]}
    answer = await ask(MESSAGES, limits=limits)
    values = {name.decode().removeprefix("anthropic-ratelimit-"): value.decode() for name, value in answer.headers if b"anthropic" in name}
    midnight = "2027-01-16T00:00:00Z"
    assert ("60", "59", midnight) == tuple(values[f"requests-{what}"] for what in ("limit", "remaining", "reset"))
    assert ("600", str(600 - SIZE), midnight) == tuple(values[f"input-tokens-{what}"] for what in ("limit", "remaining", "reset"))
    assert ("500", "490", midnight) == tuple(values[f"output-tokens-{what}"] for what in ("limit", "remaining", "reset"))


async def test_a_header_that_the_app_sets_itself_wins_and_no_byte_of_the_answer_changes() -> None:
    own = [(b"X-RateLimit-Limit-Requests", b"7"), (b"ratelimit", b'"own";r=1'), (b"content-length", b"3")]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": own, "trailers": False})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"bc"})

    answer = await ask(app=app, limits=BOTH)
    assert own == list(answer.headers[:3])
    assert [b"a", b"bc"] == answer.chunks
    names = [name.lower() for name, _ in answer.headers]
    assert len(names) == len(set(names))
    assert b"x-ratelimit-remaining-requests" in names
    assert [(b"X-RateLimit-Limit-Requests", b"7"), (b"ratelimit", b'"own";r=1'), (b"content-length", b"3")] == own


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (0, "0ms"),
        (1, "1ms"),
        (20_000, "20ms"),
        (999_001, "1s"),
        (1_500_000, "1.5s"),
        (360_000_000, "6m0s"),
        (3_600_000_000, "1h0m0s"),
        (90_061_000_000, "1d1h1m1s"),
        (86_400_000_000, "1d0h0m0s"),
    ],
)
def test_a_duration_is_written_as_openai_does(microseconds: int, text: str) -> None:
    assert text == duration(microseconds)


@given(st.integers(0, 10**14))
def test_a_duration_is_never_shorter_than_it_is_and_less_than_a_millisecond_longer(microseconds: int) -> None:
    units = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
    parts = re.findall(r"([0-9.]+)(ms|[dhms])", duration(microseconds))
    assert 0 <= round(sum(float(number) * units[unit] for number, unit in parts)) * 1000 - microseconds < 1000


@given(st.integers(0, 8 * 10**15))
def test_a_moment_is_never_earlier_than_it_is_and_less_than_a_second_later(microseconds: int) -> None:
    read = int(dt.datetime.fromisoformat(moment(microseconds)).timestamp())
    assert 0 <= read * SECOND - microseconds < SECOND
