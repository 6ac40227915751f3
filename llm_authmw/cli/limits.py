"""`llm-authmw limits …`: what rate limits stand at."""

from typing import Any, Final

import click

from llm_authmw.cli.durations import exact, relative
from llm_authmw.cli.holders import HolderKind, Named, counting_options, looked_up, which_holder, without
from llm_authmw.cli.options import reading, store_option
from llm_authmw.cli.output import Column, emit, note, print_table
from llm_authmw.cli.target import Target
from llm_authmw.ledger.buckets import SECOND
from llm_authmw.limits.standing import Standing
from llm_authmw.quota import Limit

OWN: Final = (
    "These are the limits of keys and accounts themselves. What RateLimitMiddleware(limits=…, tiers=…) gives to everybody stands in the "
    "app, and is shown by: llm-authmw explain"
)


@click.group(epilog=OWN)
@store_option
def limits() -> None:
    """See what rate limits stand at.

    KIND is key, user, team or org, and NAME a key's id or an account's name.
    """


@limits.command(
    epilog=f"""\b
Examples:
  llm-authmw limits show key 9f2c41d07ab3e865
  llm-authmw limits show team blue --counters redis://127.0.0.1:6379/1

LEFT is what one request could have now. Of a limit that comes back little by little that is the burst at most. Name the counters that the
app uses: others know nothing of what it lets through.

{OWN}"""
)
@which_holder
@counting_options
@reading
def show(target: Target, /, *, kind: HolderKind, name: str, tenant: str | None, realm: str | None) -> None:
    """Show what is used and left of rate limits.

    Of a key's, and of those of the accounts that it belongs to; or of an account's.
    """
    record, found = looked_up(target, Named(kind, name, tenant, realm), Limit)
    if target.json:
        emit({"limits": [_object(standing) for standing in found], "counters": target.rates_place})
        return
    if not found:
        note(without(record, "limit"))
        return
    columns = [Column("LIMIT", "wrap"), Column("OF", "cut"), *map(Column, ("USED", "LEFT", "ALL BACK"))]
    print_table(columns, [_row(standing, target.now) for standing in found])


def _row(standing: Standing, now: float) -> list[str | None]:
    balance, counted = standing.balance, standing.counted
    ends = None if balance.ends_at is None else balance.ends_at / SECOND
    back = "with their ends" if counted.bucket.kind == "lease" else "now" if ends is None else f"{exact(ends)} ({relative(ends, now)})"
    return [str(counted.quota), counted.subject, str(balance.used), str(balance.left), back]


def _object(standing: Standing) -> dict[str, Any]:
    balance, counted = standing.balance, standing.counted
    return {
        "limit": str(counted.quota),
        "of": counted.subject,
        "tenant": counted.bucket.tenant,
        "bucket": counted.bucket.name,
        "unit": counted.bucket.measure,
        "used": balance.used,
        "left": balance.left,
        "ends_at": None if balance.ends_at is None else balance.ends_at / SECOND,
    }
