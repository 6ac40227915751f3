"""Who has limits and budgets of its own: a key, a user, a team or an organisation, as verbs take and find them."""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import click
import msgspec
from click.shell_completion import CompletionItem

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.cli.completion import complete_key_id
from llm_authmw.cli.key_ids import checked_id
from llm_authmw.cli.options import Option, counters_option, ledger_option, stacked
from llm_authmw.cli.output import printable
from llm_authmw.cli.show import key_object, title
from llm_authmw.cli.target import Target
from llm_authmw.errors import AuthmwError, Denial, InvalidValueError
from llm_authmw.increases import BudgetChange
from llm_authmw.keys.records import KeyRecord
from llm_authmw.limits.standing import Standing, standings
from llm_authmw.principal import ANONYMOUS, DEFAULT_TENANT, Principal
from llm_authmw.quota import Budget, Limit
from llm_authmw.stores import Store

HolderKind: TypeAlias = Literal["key", "user", "team", "org"]
_KINDS: Final = ("key", "user", "team", "org")


class Named(NamedTuple):
    """Whom a command line names.

    Attributes:
        kind: A key, or the kind of an account.
        name: A key's id, or an account's name.
        tenant: Whose it is; None for any key, and for the tenant that accounts have where none is named.
        realm: Where a user's name means one person; None for that of keys which name none.
    """

    kind: HolderKind
    name: str
    tenant: str | None
    realm: str | None

    @property
    def listing(self) -> str:
        """The verb that lists such ones."""
        return "llm-authmw keys list" if self.kind == "key" else f"llm-authmw accounts list --kind {self.kind}"

    async def find(self, store: Store) -> KeyRecord | AccountRecord:
        """Return the record.

        Raises:
            NotFoundError: there is no such key or account.
            InvalidValueError: the name, or the realm, is none that there can be.
            StoreError: the store cannot be read.
        """
        if self.kind == "key":
            return await store.keys.get(self.name, tenant=self.tenant)
        return await store.accounts.get(self.kind, self.name, tenant=self.tenant or DEFAULT_TENANT, realm=self.realm)

    async def change(self, store: Store, change: BudgetChange, *, action: str, actor: str) -> KeyRecord | AccountRecord:
        """Change its budgets, and return the record.

        Raises:
            NotFoundError: there is no such key or account.
            InvalidValueError: `change` refuses.
            ConflictError: the key is revoked.
            StoreError: the store cannot be written.
        """
        if self.kind == "key":
            return await store.keys.change_budgets(self.name, change, action=action, tenant=self.tenant, actor=actor)
        return await store.accounts.change_budgets(
            self.kind, self.name, change, action=action, tenant=self.tenant or DEFAULT_TENANT, realm=self.realm, actor=actor
        )


def _complete_name(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Return the ids of keys, or the names of accounts, that begin with what was typed. Says nothing where there is no store."""
    kind = context.params.get("kind")
    if kind == "key":
        return complete_key_id(context, parameter, incomplete)
    try:
        page = Target(context).run(lambda store: store.accounts.list(kind=kind, search=incomplete or None, size=50))
    except (AuthmwError, OSError):
        return []
    return [
        CompletionItem(record.name, help=printable(record.realm or record.tenant))
        for record in page.accounts
        if record.name.startswith(incomplete)
    ]


def _tenant(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if context.params.get("kind") == "key" and context.params.get("realm") is not None:
        raise click.UsageError("--realm is for users: an id names one key", context)
    return value


which_holder: Final[Option] = stacked(
    click.argument("kind", metavar="KIND", type=click.Choice(_KINDS), is_eager=True),
    click.argument("name", metavar="NAME", shell_complete=_complete_name, callback=checked_id),
    click.option("--realm", metavar="NAME", is_eager=True, help="For users: where the name means one person. Left out: keys."),
    click.option(
        "--tenant", metavar="NAME", callback=_tenant, help=f"Whose it is. Left out: any key, and accounts of the tenant {DEFAULT_TENANT}."
    ),
)
counting_options: Final[Option] = stacked(counters_option, ledger_option)


async def standings_of(
    store: Store, record: KeyRecord | AccountRecord, quota: type[Limit] | type[Budget], *, alone: bool = False
) -> Sequence[Standing]:
    """Return what is counted for a key, and for the accounts that it belongs to, or for an account.

    Args:
        store: Where it is kept.
        record: The key or the account.
        quota: `Limit` or `Budget`: which of both.
        alone: Leave out the accounts of a key.

    Raises:
        InvalidValueError: there is more than one request may be counted in.
        StoreError: the store, or the ledger, does not answer.
    """
    principal: Principal
    accounts: Sequence[AccountRecord]
    if isinstance(record, KeyRecord):
        principal = record.principal()
        accounts = () if alone else await store.ledger.accounts.load(principal)
    else:
        principal, accounts = msgspec.structs.replace(ANONYMOUS, tenant=record.tenant), (record,)
    try:
        return await standings(store.ledger, principal, accounts, quota)
    except Denial as denial:
        raise InvalidValueError(f"{named(record)} is under more than any request may be counted in: {denial.rule}") from None


def looked_up(target: Target, who: Named, quota: type[Limit] | type[Budget]) -> tuple[KeyRecord | AccountRecord, Sequence[Standing]]:
    """Return whom a command line names, and what is counted for it: see `standings_of`."""

    async def work(store: Store) -> tuple[KeyRecord | AccountRecord, Sequence[Standing]]:
        record = await who.find(store)
        return record, await standings_of(store, record, quota)

    return target.run(work, counts=True, listing=who.listing)


def named(record: KeyRecord | AccountRecord) -> str:
    """Return what a person calls it."""
    return f"key {title(record)}" if isinstance(record, KeyRecord) else f"{record.kind} {record.name}"


def without(record: KeyRecord | AccountRecord, what: str) -> str:
    """Return the sentence that it has none of something."""
    others = ", nor has an account that it belongs to" if isinstance(record, KeyRecord) else ""
    return f"{named(record)} has no {what} of its own{others}."


def as_object(record: KeyRecord | AccountRecord, now: float) -> dict[str, Any]:
    """Return the record as `--json` gives it."""
    return key_object(record, now) if isinstance(record, KeyRecord) else record.as_dict()
