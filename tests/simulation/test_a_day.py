"""Days of traffic with everything that goes wrong in them. Each day is told by its seed, and is the same every time."""

import random
from functools import cache, partial

import anyio
import pytest

from llm_authmw.ledger.buckets import Bucket
from llm_authmw.ledger.windows import spans_at
from llm_authmw.quota import Budget
from llm_authmw.testing import SimulatedClock, simulate
from tests.simulation.world import HIGHEST_COST, LEASE, TEAMS, Execution, World

DAY = 86_400.0
BURSTS = 60
QUIET = 10 * LEASE
BUDGET = Budget.parse("0.05 usd/day")
"""Of a team: some 120 requests at their highest possible cost, fewer than come."""


def bucket(team: str, clock: SimulatedClock) -> Bucket:
    return Bucket(
        tenant="default",
        name=f"team:{team} / nano_usd / day",
        kind="window",
        measure="nano_usd",
        limit=BUDGET.amount,
        spans=spans_at(BUDGET, clock.now()),
    )


async def used(world: World) -> dict[str, int]:
    balances = await world.ledger.balance([bucket(team, world.clock) for team in TEAMS])
    return {team: balance.used for team, balance in zip(TEAMS, balances, strict=True)}


class Day:
    """What a day has shown.

    Attributes:
        world: The world.
        most: The most that a team's budget ever stood at.
        used: What they stand at in the end, when nothing is under way.
        under_way: What is held and unsettled then all the same.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.most = 0
        self.used: dict[str, int] = {}
        self.under_way = 0


async def a_day(clock: SimulatedClock, chance: random.Random, *, trouble: bool = True) -> Day:
    world = World(clock, chance, budget=str(BUDGET))
    day = Day(world)
    assert 0 == clock.now() % DAY

    async def call() -> None:
        team = chance.choice(TEAMS)
        for _ in range(3):
            leaves_after = chance.choice([0.0, 0.05, 0.5, 2.0, 5.0]) if chance.random() < 0.2 else 10 * LEASE
            execution = await world.any_worker().serve(team, leaves_after=leaves_after)
            if execution.status not in {429, 503}:
                break
            await anyio.sleep(chance.uniform(0.1, 2))
        for amount in (await used(world)).values():
            day.most = max(day.most, amount)

    async with world.running():
        async with anyio.create_task_group() as tasks:
            for _ in range(BURSTS):
                await anyio.sleep(chance.uniform(0.1, 1.9) * (DAY / 2) / BURSTS)
                for _ in range(chance.choice([1, 3, 20, 30])):
                    tasks.start_soon(call)
                if trouble and chance.random() < 0.3:
                    tasks.start_soon(world.trouble_one)
                if trouble and chance.random() < 0.1:
                    tasks.start_soon(world.kill_one)
        await anyio.sleep(QUIET)
        for team in TEAMS:
            # Whoever comes alone now gets all that is left.
            while (await world.any_worker().serve(team, leaves_after=10 * LEASE)).reason != "insufficient_quota":
                pass
        day.used = await used(world)
        day.under_way = sum(worker.handle.held + worker.handle.unsettled for worker in world.workers)
    return day


@cache
def the_day(seed: int) -> Day:
    return simulate(a_day, seed=seed)


def ran(day: Day) -> list[Execution]:
    return [execution for execution in day.world.executions if execution.input]


@pytest.mark.parametrize("seed", range(6))
def test_no_day_spends_more_than_the_budget_and_none_loses_track_of_what_was_spent(seed: int) -> None:
    day = the_day(seed)
    executions = day.world.executions
    # Never a nano-dollar over the limit, though what was asked for was several times as much.
    assert day.most <= BUDGET.amount
    assert BUDGET.amount < HIGHEST_COST * [execution.reason for execution in executions].count("insufficient_quota")
    # What a worker lived to see the end of is charged to the nano-dollar, where the upstream has said what it was.
    known = [execution for execution in ran(day) if execution.told and not execution.killed]
    assert known
    assert [execution.cost for execution in known] == [execution.charged for execution in known]
    # Nothing that ran was charged less than was seen of it.
    assert [] == [execution for execution in ran(day) if not execution.killed and (execution.charged or 0) < execution.cost]
    # The ledger is the sum of the charges; of what was killed it has the estimate, which is at least the truth.
    for team in TEAMS:
        charged = sum(execution.charged or 0 for execution in executions if execution.team == team and not execution.killed)
        lost = [execution for execution in executions if execution.team == team and execution.killed]
        assert charged + sum(execution.cost for execution in lost) <= day.used[team]
    # Nobody holds anything any more.
    assert 0 == day.under_way


def test_a_day_without_trouble_is_booked_to_the_nano_dollar_and_refuses_nothing_that_fits() -> None:
    day = simulate(partial(a_day, trouble=False), seed=1)
    for team in TEAMS:
        assert day.used[team] == sum(execution.charged or 0 for execution in day.world.executions if execution.team == team)
        assert BUDGET.amount - HIGHEST_COST < day.used[team] <= BUDGET.amount


def test_a_day_is_the_same_whenever_it_is_run_again() -> None:
    days = [the_day(5), simulate(a_day, seed=5)]
    told = [[(execution.team, execution.status, execution.output, execution.charged) for execution in day.world.executions] for day in days]
    assert told[0] == told[1]
    assert days[0].used == days[1].used
