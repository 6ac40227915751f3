"""Puts the same load in front of three guards, each with a budget, and prints what they let through.

python -m benchmarks.overshoot                            ours on SQLite, a counter, and LiteLLM where it is installed
python -m benchmarks.overshoot --store postgres           ours on PostgreSQL; also redis
python -m benchmarks.overshoot --only ours --seed 7
"""

import argparse
import tempfile
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Final

from benchmarks.overshoot.asks import largest, leaving
from benchmarks.overshoot.guards import Guard, check_then_count, ours
from benchmarks.overshoot.litellm_guard import interpreter, litellm
from benchmarks.overshoot.report import dollars, table
from benchmarks.overshoot.runs import Found, Size, run
from benchmarks.overshoot.stores import STORES, StoreName

GUARDS: Final = ("ours", "counter", "litellm")
LEASE: Final = 10.0
"""Seconds after which what a killed worker held is nobody's; 30 is what stores have."""


def main() -> None:
    arguments = _arguments()
    size = Size(
        limit=arguments.ceilings * largest().most,
        workers=arguments.workers,
        streams=arguments.streams,
        seconds=arguments.seconds,
        seed=arguments.seed,
    )
    if arguments.calm:
        size = replace(size, kills=(), restarts=())
    if arguments.leaving:
        size = replace(size, asks=leaving)
    most = largest().most
    print(f"{size.workers} workers, {size.streams} clients, a budget of {arguments.ceilings} times {dollars(most)}, seed {size.seed}")
    found: list[Found] = []
    for name in arguments.only or (GUARDS if interpreter() else GUARDS[:-1]):
        with tempfile.TemporaryDirectory(prefix="authmw-overshoot-") as scratch:
            folder = Path(scratch)
            with _guard(name, arguments.store, folder, size.limit) as guard:
                print(f"{guard.name} …", flush=True)
                found.append(run(guard, folder, size))
    print(table(found))


def _guard(name: str, store: StoreName, folder: Path, limit: int) -> AbstractContextManager[Guard]:
    if name == "ours":
        return ours(store, folder, limit, lease=LEASE)
    if name == "counter":
        return check_then_count(folder, limit)
    python = interpreter()
    if python is None:
        raise SystemExit("make litellm installs the LiteLLM proxy, for --only litellm")
    return litellm(python, folder, limit)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overshoot", description=__doc__)
    parser.add_argument("--store", choices=STORES, default="sqlite", help="what our layers count in")
    parser.add_argument("--only", choices=GUARDS, action="append", help="which guard; may be repeated")
    parser.add_argument("--ceilings", type=int, default=400, help="the budget, in the most that one request may cost")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--streams", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=75.0, help="how long clients ask at most")
    parser.add_argument("--calm", action="store_true", help="kill no worker, and restart no store")
    parser.add_argument("--leaving", action="store_true", help="each client leaves before its answer says what it used")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
