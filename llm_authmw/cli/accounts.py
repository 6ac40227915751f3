"""`llm-authmw accounts …`: users, teams, organisations and end users."""

from typing import Any, Final, get_args

import click

from llm_authmw.accounts.records import ACCOUNT_KINDS, AccountKind, AccountRecord, AccountStatus
from llm_authmw.cli.options import (
    ACCOUNT_OPTIONS,
    account_field_options,
    clear_option,
    fields_of,
    page_options,
    reading,
    stacked,
    store_option,
    tenant_of,
    writing,
)
from llm_authmw.cli.output import emit, note, say
from llm_authmw.cli.show import print_account, print_accounts
from llm_authmw.cli.target import Target
from llm_authmw.history import HistoryEntry
from llm_authmw.stores import Store

ENFORCED: Final = (
    "Whether an account is blocked is enforced wherever keys are; its limits by RateLimitMiddleware, its budgets by BudgetMiddleware. "
    "Models and roles are stored with it, and the layers that enforce them come in later releases."
)

which_account: Final = stacked(
    click.argument("kind", metavar="KIND", type=click.Choice(ACCOUNT_KINDS)),
    click.argument("name"),
    tenant_of("account"),
    click.option("--realm", metavar="NAME", help="For users: where the name means one person. Left out: keys."),
)


@click.group(epilog=ENFORCED)
@store_option
def accounts() -> None:
    """Make, find, change and block users and teams.

    KIND is user, team, org or end_user. A team that a key names needs no account; it needs one to be blocked, or to have limits of
    its own.
    """


@accounts.command(
    epilog=f"""\b
Examples:
  llm-authmw accounts create team blue --budget '500 usd/month, soft 80%'
  llm-authmw accounts create user ann --realm corp --role developer

{ENFORCED}"""
)
@which_account
@account_field_options
@writing
def create(target: Target, /, *, kind: AccountKind, name: str, tenant: str, realm: str | None, **options: Any) -> None:
    """Add an account. KIND is user, team, org or end_user."""
    fields = fields_of(options, now=target.now)
    record = target.run(
        lambda store: store.accounts.create(kind, name, tenant=tenant, realm=realm, actor=target.actor, **fields),
        creates=True,
    )
    _report(target, record)


@accounts.command("list")
@click.option("--tenant", metavar="NAME", help="Of this tenant.")
@click.option("--kind", type=click.Choice(ACCOUNT_KINDS), help="Of this kind.")
@click.option("--status", type=click.Choice(get_args(AccountStatus)), help="With this status.")
@click.option("--search", metavar="TEXT", help="With this in the name.")
@page_options
@reading
def list_(target: Target, /, **filters: Any) -> None:
    """List accounts by tenant, kind, realm and name. Every filter that is given must hold."""
    page = target.run(lambda store: store.accounts.list(**filters))
    if target.json:
        emit({"accounts": [record.as_dict() for record in page.accounts], "next": page.next})
        return
    if not page.accounts:
        note(f"No such accounts in {target.place}.")
    else:
        print_accounts(page.accounts)
    if page.next is not None:
        note(f"There are more: --after {page.next}")


@accounts.command()
@which_account
@reading
def show(target: Target, /, *, kind: AccountKind, name: str, tenant: str, realm: str | None) -> None:
    """Show one account and what was done to it. KIND is user, team, org or end_user."""

    async def work(store: Store) -> tuple[AccountRecord, tuple[HistoryEntry, ...]]:
        record = await store.accounts.get(kind, name, tenant=tenant, realm=realm)
        return record, await store.accounts.history(kind, name, tenant=tenant, realm=realm)

    record, history = target.run(work)
    print_account(record, history, now=target.now, as_json=target.json)


@accounts.command(
    epilog=f"""What is not named stays. A list that is given replaces the one before, and so does metadata.

{ENFORCED}"""
)
@which_account
@account_field_options
@clear_option(ACCOUNT_OPTIONS)
@writing
def update(target: Target, /, *, kind: AccountKind, name: str, tenant: str, realm: str | None, **options: Any) -> None:
    """Change fields of an account. KIND is user, team, org or end_user."""
    fields = fields_of(options, now=target.now)
    if not fields:
        raise click.UsageError("name a field to change, such as --budget '50 usd/month'; --help lists them")
    record = target.run(lambda store: store.accounts.update(kind, name, tenant=tenant, realm=realm, actor=target.actor, **fields))
    _report(target, record)


@accounts.command(epilog="A name that has no account yet is added first: llm-authmw accounts create KIND NAME")
@which_account
@writing
def block(target: Target, /, *, kind: AccountKind, name: str, tenant: str, realm: str | None) -> None:
    """Stop everything that belongs to an account, keys included. KIND is user, team, org or end_user."""
    record = target.run(lambda store: store.accounts.block(kind, name, tenant=tenant, realm=realm, actor=target.actor))
    _report(target, record)


@accounts.command()
@which_account
@writing
def unblock(target: Target, /, *, kind: AccountKind, name: str, tenant: str, realm: str | None) -> None:
    """Let a blocked account work again. KIND is user, team, org or end_user."""
    record = target.run(lambda store: store.accounts.unblock(kind, name, tenant=tenant, realm=realm, actor=target.actor))
    _report(target, record)


def _report(target: Target, record: AccountRecord) -> None:
    if target.json:
        emit(record.as_dict())
    else:
        say(f"{record.kind} {record.name} is {record.status}")
