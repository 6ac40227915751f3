"""What a decision costs: roles, routes and models, warm and cold, from 1 to 1,000 roles, beside pycasbin.

    python -m benchmarks.access [--rounds 21] [--calls 2000]

Every case answers the same question in the same process, in interleaved rounds; each answer is checked once. A decision is that of
`AccessRules` alone: the layer around it and the reading of the body have rows of their own elsewhere, the bare decoding of a body stands
here for comparison.
"""

import argparse
import asyncio
import itertools
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import casbin  # type: ignore[import-untyped]
import msgspec

from benchmarks.rounds import Case, Timing, difference, pin_to_one_core, ratio, run_rounds
from llm_authmw.authz.access import AccessRequest
from llm_authmw.authz.roles import Role
from llm_authmw.authz.rules import AccessRules
from llm_authmw.call import LLMCall
from llm_authmw.llm.operation import Found, Operation
from llm_authmw.principal import Principal

CHAT = Found(Operation(name="chat", routes=["chat/completions"], dialect="openai"), ())
BODY = msgspec.json.encode({"model": "m0-large", "messages": [{"role": "user", "content": "x" * 2000}], "max_tokens": 100, "stream": True})
CASBIN = """
[request_definition]
r = sub, route, model
[policy_definition]
p = sub, route, model
[role_definition]
g = _, _
[policy_effect]
e = some(where (p.eft == allow))
[matchers]
m = g(r.sub, p.sub) && keyMatch(r.route, p.route) && keyMatch(r.model, p.model)
"""


class Fields(msgspec.Struct):
    """The members of a body that most questions are about."""

    model: str
    stream: bool = False
    max_tokens: int | None = None


def rules_of(roles: int, patterns: int) -> AccessRules:
    """Roles, each with its own routes and with its share of the model patterns."""
    each = max(1, patterns // roles)
    return AccessRules(
        roles={
            f"role{number}": Role(
                routes=["POST /v1/chat/completions", f"/v1/team{number}/**"],
                models=[f"m{number}-*", *(f"m{number}x{other}" + "*" * (other % 2) for other in range(each - 1))],
            )
            for number in range(roles)
        }
    )


def somebody(name: str, *roles: str) -> Principal:
    return Principal(user=name, method="key", roles=tuple(sorted(roles)))


def request(who: Principal, path: str, model: str) -> AccessRequest:
    call = LLMCall(dialect="openai", operation="chat", models=(model,))
    return AccessRequest(principal=who, method="POST", path=path, found=CHAT, call=call, now=0.0)


def deciding(rules: AccessRules, ask: Callable[[], AccessRequest], *, allowed: bool = True) -> Case:
    """Find the caller's roles and decide, as a layer does; `ask` gives the question."""
    if rules.decide(rules.holder(ask().principal), ask()).allowed != allowed:
        raise SystemExit("a case gave another answer than it is for")

    async def run() -> None:
        asked = ask()
        rules.decide(rules.holder(asked.principal), asked)

    return run


def warm(who: Principal, model: str) -> Callable[[], AccessRequest]:
    asked = request(who, "/v1/chat/completions", model)
    return lambda: asked


async def nothing() -> None:
    return


async def decode() -> None:
    msgspec.json.decode(BODY, type=Fields)


def row(timing: Timing, base: Timing) -> str:
    return f"| {timing.name} | {difference(timing, base):+.2f} | {timing.spread:.0f} % |"


async def sizes(*, rounds: int, calls: int) -> None:
    """How a warm decision grows, and that it does not."""
    cases: dict[str, Case] = {"nothing": nothing, "a body of 2 KB decoded": decode}
    made: dict[str, float] = {}
    for roles, patterns in ((1, 10), (10, 10), (100, 100), (1000, 1000), (1, 10_000), (1000, 10_000)):
        began = time.process_time()
        rules = rules_of(roles, patterns)
        made[f"{roles} roles, {patterns} patterns"] = (time.process_time() - began) * 1000
        one, every = somebody("one", "role0"), somebody("every", *(f"role{number}" for number in range(roles)))
        cases[f"{roles} roles, {patterns} patterns, a caller with one"] = deciding(rules, warm(one, "m0-large"))
        if roles > 1:
            last = f"m{roles - 1}-large"
            cases[f"{roles} roles, {patterns} patterns, a caller with all"] = deciding(rules, warm(every, last))
    timings = await run_rounds(cases, rounds=rounds, calls=calls)
    print(f"\nA warm decision, µs of CPU ({rounds} rounds of {calls} calls)\n\n| case | µs | IQR |\n|---|---:|---:|")
    for name in list(cases)[1:]:
        print(row(timings[name], timings["nothing"]))
    print("\n| rules | to compile, ms |\n|---|---:|")
    for name, milliseconds in made.items():
        print(f"| {name} | {milliseconds:.1f} |")


async def colds(*, rounds: int, calls: int) -> None:
    """What is new to the rules each time: a model, a path, a caller; and denials."""
    rules = rules_of(1000, 10_000)
    who = somebody("one", "role0")
    numbers = itertools.count()
    asked = request(who, "/v1/chat/completions", "m0-large")

    def refused(model: str, path: str) -> Callable[[], AccessRequest]:
        return lambda: request(who, path, model)

    cases = {
        "nothing": nothing,
        "the question itself made": _making(who),
        "a new model": deciding(rules, lambda: request(who, "/v1/chat/completions", f"m0-{next(numbers)}")),
        "a new path": deciding(rules, lambda: request(who, f"/v1/team0/a/{next(numbers)}", "m0-large")),
        "a new caller": deciding(rules, lambda: msgspec.structs.replace(asked, principal=somebody(f"u{next(numbers)}", "role0"))),
        "denied: route": deciding(rules, refused("m0-large", "/v2/x"), allowed=False),
        "denied: model": deciding(rules, refused("o3", "/v1/chat/completions"), allowed=False),
    }
    timings = await run_rounds(cases, rounds=rounds, calls=calls)
    print("\n1,000 roles and 10,000 patterns, the question made each time, µs of CPU\n\n| case | µs | IQR |\n|---|---:|---:|")
    for name in list(cases)[1:]:
        print(row(timings[name], timings["nothing"]))


def _making(who: Principal) -> Case:
    async def run() -> None:
        request(who, "/v1/chat/completions", "m0-large")

    return run


async def peer(*, rounds: int, calls: int) -> None:
    """The same question to pycasbin, which holds every rule against it."""
    cases: dict[str, Case] = {"nothing": nothing}
    for roles in (10, 100, 1000):
        rules = rules_of(roles, roles)
        engine: Any = casbin.Enforcer(casbin.Enforcer.new_model(text=CASBIN))
        for number in range(roles):
            engine.add_policy(f"role{number}", "/v1/chat/*", f"m{number}-*")
        engine.add_grouping_policy("one", f"role{roles - 1}")
        model = f"m{roles - 1}-large"
        cases[f"{roles} roles, llm_authmw"] = deciding(rules, warm(somebody("one", f"role{roles - 1}"), model))
        cases[f"{roles} roles, pycasbin"] = _enforcing(engine, model)
    timings = await run_rounds(cases, rounds=rounds, calls=calls)
    print(f"\nBeside pycasbin {version('casbin')}, µs of CPU\n")
    print("| roles | llm_authmw | pycasbin | pycasbin ÷ llm_authmw |\n|---:|---:|---:|---:|")
    for roles in (10, 100, 1000):
        ours, its = timings[f"{roles} roles, llm_authmw"], timings[f"{roles} roles, pycasbin"]
        base = timings["nothing"]
        print(f"| {roles} | {difference(ours, base):.2f} | {difference(its, base):.0f} | {ratio(its, ours):.0f} |")


def _enforcing(engine: Any, model: str) -> Case:
    if not engine.enforce("one", "/v1/chat/completions", model) or engine.enforce("one", "/v1/chat/completions", "o3"):
        raise SystemExit("pycasbin gave another answer than the case is for")

    async def run() -> None:
        engine.enforce("one", "/v1/chat/completions", model)

    return run


async def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=21)
    arguments.add_argument("--calls", type=int, default=2000)
    given = arguments.parse_args()
    pin_to_one_core()
    await sizes(rounds=given.rounds, calls=given.calls)
    await colds(rounds=given.rounds, calls=given.calls)
    await peer(rounds=min(given.rounds, 9), calls=max(5, given.calls // 20))


if __name__ == "__main__":
    asyncio.run(main())
