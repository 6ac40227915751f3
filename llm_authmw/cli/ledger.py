"""`llm-authmw ledger …`: whether what counts money and rates can be relied upon."""

import contextlib
from typing import Any, Final, NamedTuple

import anyio
import click

from llm_authmw.cli.failures import NoStoreError
from llm_authmw.cli.holders import counting_options
from llm_authmw.cli.options import actor_option, ledger_option, reading, store_option
from llm_authmw.cli.output import Column, emit, print_table, say
from llm_authmw.cli.target import Target, as_given
from llm_authmw.errors import ConfigurationError, InvalidValueError, MissingExtraError, StoreError
from llm_authmw.history import HistoryEntry
from llm_authmw.ledger.buckets import Bucket
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.stores import Store

_ASKED_FOR: Final = Bucket(tenant="default", name="llm-authmw ledger check", kind="lifetime", measure="requests", limit=1)
"""A bucket that nothing is ever counted in: reading it shows whether the ledger answers."""


class _Checked(NamedTuple):
    """What came of asking one ledger.

    Attributes:
        counts: What is counted there.
        place: Where it is.
        problem: What is wrong with it, and what to do; None where it answers.
    """

    counts: str
    place: str
    problem: str | None


@click.group()
@store_option
def ledger() -> None:
    """Check what counts money and rates, and go on after a loss."""


@ledger.command(
    epilog="""\b
Examples:
  llm-authmw ledger check
  llm-authmw ledger check --ledger redis://127.0.0.1:6379/1

Each is read once; nothing is booked. Of Redis, each new connection also looks whether the server may drop keys when its memory is full,
whether it writes to its disk where it holds money, and whether it has lost some of what it held.

Ends with 0 where both answer, and with 1 where one does not, or is not to be relied upon."""
)
@counting_options
@reading
def check(target: Target, /) -> None:
    """Say where money and rates are counted, and if that answers.

    Also what is wrong with it.
    """

    async def work(store: Store) -> list[_Checked]:
        return [
            _Checked("money", target.money_place, await _problem(store.ledger.money)),
            _Checked("rates", target.rates_place, await _problem(store.ledger.rates)),
        ]

    found = target.run(work, counts=True)
    if target.json:
        emit({one.counts: {"place": one.place, "answers": one.problem is None, "problem": one.problem} for one in found})
    else:
        columns = [Column("COUNTS"), Column("WHERE", "wrap"), Column("ANSWERS", colored=True), Column("PROBLEM", "wrap")]
        print_table(columns, [[one.counts, one.place, "yes" if one.problem is None else "no", one.problem] for one in found])
    if any(one.problem is not None for one in found):
        click.get_current_context().exit(1)


@ledger.command(
    epilog="""\b
Example:
  llm-authmw ledger acknowledge --ledger redis://127.0.0.1:6379/1

A ledger in Redis that holds money grants nothing where it is new, or holds less than it did: it restarted without its file, or from an
older copy. Look what has happened first. This goes on with what is there, and what was lost counts as not used.

Counters that may be lost, and ledgers in files and databases, need nothing of the kind."""
)
@ledger_option
@actor_option
@reading
def acknowledge(target: Target, /) -> None:
    """Let a ledger in Redis count again from what it holds.

    It waits for that where it is new, or has lost something.
    """
    if target.ledger is None:
        raise InvalidValueError("no ledger in Redis is named, with --ledger or AUTHMW_LEDGER: no other one waits for that")
    redis = _redis(target.ledger)

    async def work() -> bool:
        try:
            await redis.start()
        except StoreError:
            # Whatever else is wrong with it is wrong with this step too, and with looking once more.
            await redis.acknowledge()
            await redis.start()
            return True
        finally:
            await redis.aclose()
        return False

    done = anyio.run(work)
    if done:
        _record(target)
    if target.json:
        emit({"ledger": target.money_place, "acknowledged": done})
    elif done:
        say(f"{target.money_place} counts from now on with what it holds.")
    else:
        say(f"{target.money_place} has lost nothing: there was nothing to acknowledge.")


def _record(target: Target) -> None:
    """Note in the trail of the store that it was done. Where there is no store, there is no trail."""
    entry = HistoryEntry(at=target.now, action="acknowledge", actor=target.actor)

    async def work(store: Store) -> None:
        store.audit.changed("ledger", target.money_place, entry, tenant=DEFAULT_TENANT)

    with contextlib.suppress(NoStoreError, InvalidValueError):
        target.run(work)


async def _problem(handle: LedgerHandle) -> str | None:
    try:
        await handle.balance([_ASKED_FOR])
    except StoreError as error:
        return str(error)
    return None


def _redis(url: str) -> Any:
    try:
        from llm_authmw.stores.redis import RedisLedger  # noqa: PLC0415 - redis-py is an extra
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise as_given(MissingExtraError("ledger", "redis")) from error
    try:
        return RedisLedger(url, whole=True, option="ledger")
    except ConfigurationError as error:
        raise as_given(error) from None
