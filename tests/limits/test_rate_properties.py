"""Whatever comes in whatever order: never more than a limit, and the wait that is told is the shortest one."""

from collections.abc import Callable, Coroutine
from typing import Any, Final

import anyio
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import Limit, Principal, RateLimitMiddleware
from llm_authmw.ledger.buckets import SECOND
from llm_authmw.testing import Response, fake_principal, request
from llm_authmw.testing.books import Books, called_by
from llm_authmw.testing.recorder import Recorder

CALLERS: Final = [fake_principal(user, realm="home", team=team) for user, team in (("ada", "blue"), ("bob", "blue"), ("eve", "red"))]


def _limit(amount: int, window: str, *, calendar: bool) -> str:
    return f"{amount} requests/{window}" + (", calendar" if calendar else f", burst {(amount + 1) // 2}")


LIMITS: Final = st.builds(_limit, st.integers(1, 6), st.sampled_from(["second", "minute"]), calendar=st.booleans())
STEPS: Final = st.lists(st.tuples(st.sampled_from(CALLERS), st.sampled_from([0.0, 0.1, 0.5, 1.0, 7.3, 20.0])), min_size=1, max_size=25)


def played(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    anyio.run(scenario)


class Site:
    def __init__(self, limits: dict[str, list[str]]) -> None:
        self.books: Final = Books()
        self.app: Final = Recorder()
        self.layer: Final = RateLimitMiddleware(self.app, ledger=self.books.service, limits=limits)

    async def ask(self, who: Principal) -> Response:
        return await request(self.layer, "GET /v1/models", scope=called_by(who))


@given(LIMITS, LIMITS, STEPS)
def test_no_more_gets_through_than_each_limit_lets_through(of_team: str, of_all: str, steps: list[tuple[Principal, float]]) -> None:
    async def scenario() -> None:
        site = Site({"team": [of_team], "global": [of_all]})
        admitted: list[tuple[int, str | None]] = []
        for who, pause in steps:
            site.books.clock.advance(pause)
            if (await site.ask(who)).status == 200:
                # As the ledger counts: tenths of a second have no exact float.
                admitted.append((round(site.books.clock.now() * SECOND), who.team))
        for text, teams in ((of_team, ["blue", "red"]), (of_all, [None])):
            limit = Limit.parse(text)
            length = (1 if limit.window == "second" else 60) * SECOND
            for team in teams:
                times = [at for at, whose in admitted if team in {None, whose}]
                for start in times:
                    if limit.calendar:
                        most, end = limit.amount, start - start % length + length
                    else:
                        most, end = limit.burst_amount + limit.amount, start + length
                    assert len([at for at in times if start <= at < end]) <= most
        assert len(admitted) == len(site.app.scopes)
        assert 0 == site.books.held

    played(scenario)


@given(LIMITS, LIMITS, STEPS)
def test_the_wait_that_is_told_is_enough_and_a_moment_less_is_not(
    of_team: str, of_caller: str, steps: list[tuple[Principal, float]]
) -> None:
    async def scenario() -> None:
        site = Site({"team": [of_team], "caller": [of_caller]})
        for who, pause in steps:
            site.books.clock.advance(pause)
            refused = await site.ask(who)
            if refused.status == 200:
                continue
            wait = int(refused.header("retry-after-ms") or 0)
            assert 0 < wait <= 60_000
            # Told in whole milliseconds, rounded up.
            site.books.clock.advance(wait / 1000 - 0.002)
            assert 429 == (await site.ask(who)).status or wait <= 2
            site.books.clock.advance(0.002)
            assert 200 == (await site.ask(who)).status

    played(scenario)


@given(LIMITS, STEPS)
def test_a_limit_that_is_added_lets_nothing_more_through(text: str, steps: list[tuple[Principal, float]]) -> None:
    async def admitted(limits: dict[str, list[str]]) -> list[bool]:
        site = Site(limits)
        answers: list[bool] = []
        for who, pause in steps:
            site.books.clock.advance(pause)
            answers.append((await site.ask(who)).status == 200)
        return answers

    async def scenario() -> None:
        one = {"team": ["4 requests/minute, calendar"]}
        fewer, more = await admitted(one | {"caller": [text]}), await admitted(one)
        assert sum(fewer) <= sum(more)

    played(scenario)
