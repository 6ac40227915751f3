"""`llm-authmw keys …`: the life of an API key."""

from typing import Any, Final, get_args

import click

from llm_authmw.cli.completion import complete_key_id
from llm_authmw.cli.durations import exact, is_relative, parse_duration, relative
from llm_authmw.cli.imports import import_keys
from llm_authmw.cli.key_ids import checked_id
from llm_authmw.cli.options import (
    clear_option,
    fields_of,
    idempotency_option,
    key_field_options,
    only_tenant,
    page_options,
    quiet_option,
    reading,
    store_option,
    tenant_of,
    writing,
)
from llm_authmw.cli.output import emit, note, say
from llm_authmw.cli.show import key_object, print_key, print_keys, title
from llm_authmw.cli.target import Target
from llm_authmw.errors import InvalidValueError
from llm_authmw.history import HistoryEntry
from llm_authmw.keys.format import DEFAULT_PREFIX
from llm_authmw.keys.records import CreatedKey, KeyRecord, KeyState
from llm_authmw.keys.service import DEFAULT_GRACE
from llm_authmw.stores import Store

ENFORCED: Final = (
    "A key's status, dates, networks and routes are enforced wherever keys are; its models and roles by RBACMiddleware, its limits by "
    "RateLimitMiddleware, its budgets by BudgetMiddleware."
)
_STATES: Final = {state.replace(" ", "-"): state for state in get_args(KeyState)}

key_id_argument: Final = click.argument("key_id", metavar="ID", shell_complete=complete_key_id, callback=checked_id)
prefix_option: Final = click.option(
    "--prefix", metavar="TEXT", default=DEFAULT_PREFIX, show_default=True, help="What its text begins with."
)


@click.group(epilog=ENFORCED)
@store_option
def keys() -> None:
    """Make, find, change and end API keys."""


@keys.command(
    epilog=f"""\b
Examples:
  llm-authmw keys create --name ci --team blue --expires 30d
  llm-authmw keys create --user ann --model 'gpt-4o*' --budget '50 usd/month'
  KEY=$(llm-authmw keys create --name batch --route 'POST /v1/embeddings' --quiet)

The key is printed once and kept as a digest only. Where AUTHMW_PEPPER is set, the proxy needs the same one to verify it.

{ENFORCED}"""
)
@tenant_of("key")
@key_field_options
@prefix_option
@idempotency_option
@quiet_option
@writing
def create(target: Target, /, *, tenant: str, prefix: str, idempotency_key: str | None, **options: Any) -> None:
    """Make a key and print it, once."""
    dates = [options["not_before"], options["expires_at"]]
    if idempotency_key is not None and any(is_relative(text) for text in dates if text is not None):
        raise click.UsageError(
            "--idempotency-key goes with dates such as 2030-01-31: '30d' is another moment each time the call is repeated"
        )
    fields = fields_of(options, now=target.now)
    expires_at = fields.get("expires_at")
    if expires_at is not None and expires_at <= target.now:
        raise InvalidValueError("--expires: a new key cannot have ended already")
    created = target.run(
        lambda store: store.keys.create(tenant=tenant, prefix=prefix, actor=target.actor, idempotency_key=idempotency_key, **fields),
        creates=True,
    )
    _hand_over(target, created, f"API key {title(created.record)} is in {target.place}. Its text is printed now and never again:")


@keys.command(
    "list",
    epilog="""\b
Examples:
  llm-authmw keys list --team blue --state active
  llm-authmw keys list --unused-for 30d
  llm-authmw keys list --json | jq -r '.keys[].id'""",
)
@click.option("--tenant", metavar="NAME", help="Of this tenant.")
@click.option("--user", metavar="NAME", help="Of this user.")
@click.option("--team", metavar="NAME", help="Of this team.")
@click.option("--org", metavar="NAME", help="Of this organisation.")
@click.option("--tag", metavar="NAME", help="With this tag.")
@click.option("--state", type=click.Choice(tuple(_STATES)), help="In this state now.")
@click.option("--search", metavar="TEXT", help="With this in the name, or at the beginning of the id.")
@click.option("--unused-for", metavar="DURATION", help="Active, and neither used nor made for so long: the report of unused keys.")
@page_options
@reading
def list_(target: Target, /, *, unused_for: str | None, state: str | None, after: str | None, size: int, **filters: str | None) -> None:
    """List keys, newest first. Every filter that is given must hold."""
    if unused_for is not None:
        tenant = filters.pop("tenant")
        if state is not None or any(value is not None for value in filters.values()):
            raise click.UsageError("--unused-for goes with --tenant, --after and --limit only")
        since = target.now - parse_duration(unused_for)
        page = target.run(lambda store: store.keys.unused(since=since, tenant=tenant, after=after, size=size))
    else:
        wanted: dict[str, Any] = {**filters, "state": None if state is None else _STATES[state]}
        page = target.run(lambda store: store.keys.list(after=after, size=size, **wanted))
    if target.json:
        emit({"keys": [key_object(record, target.now) for record in page.keys], "next": page.next})
        return
    if not page.keys:
        note(f"No such keys in {target.place}.")
    else:
        print_keys(page.keys, target.now)
    if page.next is not None:
        note(f"There are more: --after {page.next}")


@keys.command()
@key_id_argument
@only_tenant("key")
@reading
def show(target: Target, /, *, key_id: str, tenant: str | None) -> None:
    """Show one key and what was done to it."""

    async def work(store: Store) -> tuple[KeyRecord, tuple[HistoryEntry, ...]]:
        return await store.keys.get(key_id, tenant=tenant), await store.keys.history(key_id, tenant=tenant)

    record, history = target.run(work)
    print_key(record, history, now=target.now, as_json=target.json)


@keys.command(
    epilog=f"""\b
Examples:
  llm-authmw keys update ID --expires now
  llm-authmw keys update ID --model gpt-4o --model 'o4*'
  llm-authmw keys update ID --clear network --clear expires
  llm-authmw keys update ID --deny-all-routes

What is not named stays. A list that is given replaces the one before, and so does metadata. --clear model, route or network lifts
the restriction; --deny-all-models, --deny-all-routes and --deny-all-networks allow nothing.

{ENFORCED}"""
)
@key_id_argument
@only_tenant("key")
@key_field_options
@clear_option()
@writing
def update(target: Target, /, *, key_id: str, tenant: str | None, **options: Any) -> None:
    """Change fields of a key."""
    fields = fields_of(options, now=target.now)
    if not fields:
        raise click.UsageError("name a field to change, such as --expires 30d; --help lists them")
    _report(target, target.run(lambda store: store.keys.update(key_id, tenant=tenant, actor=target.actor, **fields)))


@keys.command(
    epilog="""\b
Examples:
  llm-authmw keys rotate ID
  llm-authmw keys rotate ID --grace 0s      the old text leaked: it ends at once"""
)
@key_id_argument
@click.option(
    "--grace", metavar="DURATION", default=f"{DEFAULT_GRACE / 3600:.0f}h", show_default=True, help="For how long the old text works too."
)
@prefix_option
@only_tenant("key")
@idempotency_option
@quiet_option
@writing
def rotate(target: Target, /, *, key_id: str, grace: str, prefix: str, tenant: str | None, idempotency_key: str | None) -> None:
    """Give a key a new text and print it, once. It stays the same key, with its limits, budgets and history."""
    seconds = parse_duration(grace)
    created = target.run(
        lambda store: store.keys.rotate(
            key_id, grace=seconds, prefix=prefix, tenant=tenant, actor=target.actor, idempotency_key=idempotency_key
        )
    )
    old = f"works until {exact(target.now + seconds)}" if seconds else "has ended"
    _hand_over(target, created, f"API key {title(created.record)} has a new text, printed now and never again; the old one {old}:")


@keys.command()
@key_id_argument
@only_tenant("key")
@writing
def block(target: Target, /, *, key_id: str, tenant: str | None) -> None:
    """Stop a key until it is unblocked."""
    _report(target, target.run(lambda store: store.keys.block(key_id, tenant=tenant, actor=target.actor)))


@keys.command()
@key_id_argument
@only_tenant("key")
@writing
def unblock(target: Target, /, *, key_id: str, tenant: str | None) -> None:
    """Let a blocked key work again."""
    _report(target, target.run(lambda store: store.keys.unblock(key_id, tenant=tenant, actor=target.actor)))


@keys.command(epilog="A key that may be wanted again is blocked instead.")
@key_id_argument
@only_tenant("key")
@writing
def revoke(target: Target, /, *, key_id: str, tenant: str | None) -> None:
    """End a key for good."""
    _report(target, target.run(lambda store: store.keys.revoke(key_id, tenant=tenant, actor=target.actor)))


keys.add_command(import_keys)


def _hand_over(target: Target, created: CreatedKey, heading: str) -> None:
    """Print a key's text: in JSON, or alone on stdout with the rest on stderr, so that `KEY=$(…)` holds nothing else."""
    if target.json:
        emit({**key_object(created.record, target.now), "key": created.key, "replayed": created.replayed})
        return
    if created.key is None:
        note(f"This call was made before: API key {title(created.record)} has had its text printed then. For another one: keys rotate")
        return
    if not target.quiet:
        note(heading)
    say(created.key)


def _report(target: Target, record: KeyRecord) -> None:
    if target.json:
        emit(key_object(record, target.now))
        return
    ends = "" if record.expires_at is None or record.status == "revoked" else f", expiry {relative(record.expires_at, target.now)}"
    say(f"{title(record)} is {record.state(target.now)}{ends}")
