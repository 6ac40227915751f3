"""`llm-authmw budgets …`: what budgets stand at, and more money for a time."""

from typing import Any, Final

import click

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.cli.durations import exact, is_relative, parse_moment, relative
from llm_authmw.cli.holders import HolderKind, Named, as_object, counting_options, looked_up, named, standings_of, which_holder, without
from llm_authmw.cli.options import reading, store_option, writing
from llm_authmw.cli.output import Column, emit, note, print_table, say
from llm_authmw.cli.target import Target
from llm_authmw.dates import rfc3339
from llm_authmw.increases import Which, chosen, with_increase, with_reset, without_increase
from llm_authmw.keys.records import KeyRecord
from llm_authmw.ledger.buckets import SECOND
from llm_authmw.limits.standing import Standing
from llm_authmw.quota import WINDOWS, Budget, usd_text
from llm_authmw.stores import Store

OWN: Final = (
    "These are the budgets of keys and accounts themselves. What BudgetMiddleware(limits=…) gives to everybody stands in the app, and is "
    "shown by: llm-authmw explain"
)

which_budget: Final = click.option(
    "--window",
    "which",
    type=click.Choice((*WINDOWS, "ever")),
    help="Which budget, where there are several: the one of this window, or the one for ever.",
)
replace_option: Final = click.option("--replace", is_flag=True, help="In place of the increase that the budget has already.")


@click.group(epilog=OWN)
@store_option
def budgets() -> None:
    """See what budgets stand at, raise and reset them.

    KIND is key, user, team or org, and NAME a key's id or an account's name.
    """


@budgets.command(
    epilog=f"""\b
Examples:
  llm-authmw budgets show team blue
  llm-authmw budgets show key 9f2c41d07ab3e865 --json | jq '.budgets[].left_nano_usd'

What requests that are under way may cost at most is used until they are settled. A budget that is used beyond its limit is in debt.
Amounts are exact, to the billionth of a dollar.

{OWN}"""
)
@which_holder
@counting_options
@reading
def show(target: Target, /, *, kind: HolderKind, name: str, tenant: str | None, realm: str | None) -> None:
    """Show what is used and left of budgets.

    Of a key's, and of those of the accounts that it belongs to; or of an account's.
    """
    record, found = looked_up(target, Named(kind, name, tenant, realm), Budget)
    if target.json:
        emit({"budgets": [_object(standing) for standing in found], "ledger": target.money_place})
        return
    if not found:
        note(without(record, "budget"))
        return
    columns = [Column("BUDGET", "wrap"), Column("OF", "cut"), *map(Column, ("USED", "LIMIT", "LEFT", "UNTIL"))]
    print_table(columns, [_row(standing, target.now) for standing in found])


@budgets.command(
    "raise",
    epilog=f"""\b
Examples:
  llm-authmw budgets raise team blue --by '20 usd' --until 2026-12-01
  llm-authmw budgets raise key 9f2c41d07ab3e865 --by '5 usd' --until 12h --window day

A budget has one increase at a time. Another one until the very same moment is added to it. To raise a budget for good, write it
anew: llm-authmw accounts update team blue --budget '70 usd/month'

{OWN}""",
)
@which_holder
@click.option("--by", metavar="AMOUNT", required=True, help="How much more there is: '20 usd'.")
@click.option(
    "--until",
    metavar="WHEN",
    required=True,
    help="When that is over: 12h from now, a date (its beginning, in the budget's time zone), or 2026-12-01T18:00:00Z.",
)
@which_budget
@replace_option
@writing
def raise_(
    target: Target,
    /,
    *,
    kind: HolderKind,
    name: str,
    tenant: str | None,
    realm: str | None,
    by: str,
    until: str,
    which: Which | None,
    replace: bool,
) -> None:
    """Give a budget more money for a time.

    It is the budget of a key, a user, a team or an organisation.
    """
    who = Named(kind, name, tenant, realm)
    end = rfc3339(int(parse_moment(until, now=target.now))) if is_relative(until) else until

    def raised(budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
        budgets = without_increase(budgets, which=which) if replace else budgets
        return with_increase(budgets, by, until=end, now=target.now, which=which)

    record = target.run(lambda store: who.change(store, raised, action="raise", actor=target.actor), listing=who.listing)
    _report(target, record, which)


@budgets.command(
    epilog=f"""\b
Examples:
  llm-authmw budgets reset team blue
  llm-authmw budgets reset user ann --realm corp --window month

It is an increase by what is used now, until the window of the budget ends; of a budget for ever, without end. So what was used stays
on the books, and the whole amount is left once more. Doing it again changes nothing until more is used. What requests that are under
way may cost at most counts as used, and comes back beside that.

{OWN}"""
)
@which_holder
@which_budget
@replace_option
@counting_options
@writing
def reset(
    target: Target,
    /,
    *,
    kind: HolderKind,
    name: str,
    tenant: str | None,
    realm: str | None,
    which: Which | None,
    replace: bool,
) -> None:
    """Let what was used of a budget not count until its window ends.

    It is the budget of a key, a user, a team or an organisation.
    """
    who = Named(kind, name, tenant, realm)

    async def work(store: Store) -> tuple[KeyRecord | AccountRecord, bool]:
        record = await who.find(store)
        budget = chosen(record.budgets, which)
        standing = next(one for one in await standings_of(store, record, Budget, alone=True) if one.counted.quota == budget)
        balance = standing.balance
        until = None if balance.ends_at is None else balance.ends_at // SECOND

        def changed(budgets: tuple[Budget, ...]) -> tuple[Budget, ...]:
            budgets = without_increase(budgets, which=which) if replace else budgets
            return with_reset(budgets, balance.used, until=until, now=target.now, which=which)

        after = await who.change(store, changed, action="reset", actor=target.actor)
        return after, after.revision != record.revision

    record, did = target.run(work, counts=True, listing=who.listing)
    if not did and not target.json:
        note("Nothing was to be done: the whole amount is left.")
    _report(target, record, which)


def _report(target: Target, record: KeyRecord | AccountRecord, which: Which | None) -> None:
    if target.json:
        emit(as_object(record, target.now))
    else:
        say(f"{named(record)} has {chosen(record.budgets, which)}")


def _row(standing: Standing, now: float) -> list[str | None]:
    balance, counted = standing.balance, standing.counted
    ends = None if balance.ends_at is None else balance.ends_at / SECOND
    return [
        str(counted.quota),
        counted.subject,
        usd_text(balance.used),
        usd_text(balance.limit),
        usd_text(balance.left),
        "for ever" if ends is None else f"{exact(ends)} ({relative(ends, now)})",
    ]


def _object(standing: Standing) -> dict[str, Any]:
    balance, counted = standing.balance, standing.counted
    return {
        "budget": str(counted.quota),
        "of": counted.subject,
        "tenant": counted.bucket.tenant,
        "bucket": counted.bucket.name,
        "used_nano_usd": balance.used,
        "limit_nano_usd": balance.limit,
        "left_nano_usd": balance.left,
        "ends_at": None if balance.ends_at is None else balance.ends_at / SECOND,
    }
