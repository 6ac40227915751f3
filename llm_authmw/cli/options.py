"""The options that several verbs take, and what becomes of them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, Final, ParamSpec

import click

from llm_authmw.cli.durations import parse_expiry, parse_moment
from llm_authmw.cli.target import COUNTERS_VARIABLE, DEFAULT_STORE, LEDGER_VARIABLE, META, STORE_VARIABLE, Target
from llm_authmw.errors import InvalidValueError
from llm_authmw.principal import DEFAULT_TENANT

ParamsT = ParamSpec("ParamsT")
Option = Callable[[Any], Any]

CLEARED: Final[dict[str, tuple[str, Any]]] = {
    "name": ("name", None),
    "user": ("user", None),
    "team": ("team", None),
    "org": ("org", None),
    "role": ("roles", ()),
    "scope": ("scopes", ()),
    "model": ("models", None),
    "route": ("routes", None),
    "tier": ("tier", None),
    "limit": ("limits", ()),
    "budget": ("budgets", ()),
    "network": ("networks", None),
    "tag": ("tags", ()),
    "metadata": ("metadata", {}),
    "not-before": ("not_before", None),
    "expires": ("expires_at", None),
}
"""By option: the field that it sets, and what the field is when nothing is said about it."""

ACCOUNT_OPTIONS: Final = ("limit", "budget", "model", "role", "metadata")


def stacked(*options: Option) -> Option:
    """Return one decorator that adds the options in the order given."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    # A group's and a verb's context share `meta`, and the verb's options are read last: the innermost one counts.
    if value is not None and value is not False:
        context.meta[f"{META}{parameter.name}"] = value


store_option: Final = click.option(
    "--store",
    metavar="URL",
    expose_value=False,
    callback=_remember,
    help=f"The app's store: keys, counts, records. Left out: the environment's {STORE_VARIABLE}, else {DEFAULT_STORE}.",
)
json_option: Final = click.option(
    "--json", is_flag=True, expose_value=False, callback=_remember, help="Answer, and fail, with one JSON object."
)
json_lines_option: Final = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_remember,
    help="Answer with one JSON object a record, each on a line as it was written. Fail with one.",
)
actor_option: Final = click.option(
    "--actor", metavar="NAME", expose_value=False, callback=_remember, help="Who does this, for the history. Left out: cli:<your login>."
)
counters_option: Final = click.option(
    "--counters",
    metavar="URL",
    expose_value=False,
    callback=_remember,
    help=f"Redis, where the app counts rates there: its counters=. Left out: the environment's {COUNTERS_VARIABLE}, else the store.",
)
ledger_option: Final = click.option(
    "--ledger",
    metavar="URL",
    expose_value=False,
    callback=_remember,
    help=f"Redis, where the app counts everything there: its ledger=. Left out: the environment's {LEDGER_VARIABLE}, else the store.",
)
quiet_option: Final = click.option(
    "--quiet",
    "-q",
    is_flag=True,
    expose_value=False,
    callback=_remember,
    help="Print the key and nothing else; where no key is shown, its id.",
)


def reading(verb: Callable[Concatenate[Target, ParamsT], None]) -> Callable[ParamsT, None]:
    """Add the options of every verb, and hand it its `Target`."""
    return store_option(json_option(_given_target(verb)))


def reading_records(verb: Callable[Concatenate[Target, ParamsT], None]) -> Callable[ParamsT, None]:
    """Do as `reading` does, for a verb whose answer is records, as many as there are."""
    return store_option(json_lines_option(_given_target(verb)))


def _given_target(verb: Callable[Concatenate[Target, ParamsT], None]) -> Callable[ParamsT, None]:
    @click.pass_context
    @functools.wraps(verb)
    def run(context: click.Context, /, *args: ParamsT.args, **kwargs: ParamsT.kwargs) -> None:
        verb(Target(context), *args, **kwargs)

    return run


def writing(verb: Callable[Concatenate[Target, ParamsT], None]) -> Callable[ParamsT, None]:
    """Add the options of every verb that changes something, and hand it its `Target`."""
    return actor_option(reading(verb))


def only_tenant(what: str) -> Option:
    """Return the option that makes sure of a tenant."""
    return click.option("--tenant", metavar="NAME", help=f"Refuse unless the {what} is of this tenant.")


def tenant_of(what: str) -> Option:
    """Return the option that says whose something is."""
    return click.option("--tenant", metavar="NAME", default=DEFAULT_TENANT, show_default=True, help=f"Whose {what} it is.")


limit_option: Final = click.option(
    "--limit", "limits", metavar="LIMIT", multiple=True, help="'60 requests/minute', '100000 tokens/day', '4 concurrent'. Repeatable."
)
budget_option: Final = click.option(
    "--budget", "budgets", metavar="BUDGET", multiple=True, help="'50 usd/month', '20 usd/day, soft 80%', '100 usd'. Repeatable."
)
model_option: Final = click.option(
    "--model", "models", metavar="PATTERN", multiple=True, help="'gpt-4o', 'gpt-4o*', '!gpt-4o-realtime*'. Repeatable. Left out: any."
)
no_models_option: Final = click.option(
    "--deny-all-models", is_flag=True, help="Allow no model: an empty list, where leaving out --model is no restriction."
)
role_option: Final = click.option("--role", "roles", metavar="NAME", multiple=True, help="A role of the holder. Repeatable.")
metadata_option: Final = click.option(
    "--metadata", "metadata", metavar="NAME=VALUE", multiple=True, help="A text of your own. Repeatable, up to 16."
)
idempotency_option: Final = click.option(
    "--idempotency-key", metavar="TEXT", help="Repeating the call with the same text within 24 hours changes nothing."
)


def at_most(most: int, *, default: int, what: str, name: str = "limit") -> Option:
    """Return the option that says how many of something an answer has at most; the verb takes it by that name."""
    return click.option(
        "--limit", name, metavar="N", type=click.IntRange(1, most), default=default, show_default=True, help=f"At most so many {what}."
    )


page_options: Final = stacked(
    click.option("--after", metavar="CURSOR", help="Go on where the page before ended."),
    at_most(1000, default=100, what="in a page", name="size"),
)

key_field_options: Final = stacked(
    click.option("--name", metavar="TEXT", help="A name for people."),
    click.option("--realm", metavar="NAME", help="Where --user means one person. Left out: keys."),
    click.option("--user", metavar="NAME", help="Who the key belongs to."),
    click.option("--team", metavar="NAME", help="The team that its use is counted to."),
    click.option("--org", metavar="NAME", help="The organisation."),
    role_option,
    click.option("--scope", "scopes", metavar="NAME", multiple=True, help="An OAuth scope of the holder. Repeatable."),
    model_option,
    no_models_option,
    click.option(
        "--route",
        "routes",
        metavar="PATTERN",
        multiple=True,
        help="'POST /v1/chat/completions', '/v1/**'. Repeatable. Left out: any.",
    ),
    click.option("--deny-all-routes", is_flag=True, help="Allow no route."),
    click.option(
        "--network", "networks", metavar="CIDR", multiple=True, help="Where it may be used from: '10.0.0.0/8'. Repeatable. Left out: any."
    ),
    click.option("--deny-all-networks", is_flag=True, help="Allow no network."),
    click.option("--tier", metavar="NAME", help="The named set of limits that applies."),
    limit_option,
    budget_option,
    click.option("--tag", "tags", metavar="NAME", multiple=True, help="A label. Repeatable."),
    metadata_option,
    click.option("--not-before", metavar="WHEN", help="When it begins to work: 2h from now, or a date."),
    click.option("--expires", "expires_at", metavar="WHEN", help="When it ends: 30d from now, a date (its midnight, UTC), now, never."),
)

account_field_options: Final = stacked(limit_option, budget_option, model_option, no_models_option, role_option, metadata_option)


def clear_option(names: tuple[str, ...] = tuple(CLEARED)) -> Option:
    """Return the option that takes fields away."""
    return click.option(
        "--clear",
        type=click.Choice(names),
        multiple=True,
        metavar="FIELD",
        help=f"Take a field away, so that it restricts, grants or says nothing: {', '.join(names)}. Repeatable.",
    )


def fields_of(options: Mapping[str, Any], *, now: float) -> dict[str, Any]:
    """Return the fields that the options name, as the services take them; what was not given is left out.

    Raises:
        InvalidValueError: a date or a piece of metadata cannot be read.
        click.UsageError: two options contradict each other.
    """
    found: dict[str, Any] = {}
    for option, given in options.items():
        if given is None or given is False or given == () or option == "clear":
            continue
        field = option.removeprefix("deny_all_")
        if field in found:
            raise click.UsageError(f"--deny-all-{field} and --{field.removesuffix('s')} contradict each other")
        found[field] = () if field != option else _value(option, given, now)
    for name in options.get("clear", ()):
        field, empty = CLEARED[name]
        if field in found:
            raise click.UsageError(f"--clear {name} and another option for the same field contradict each other")
        found[field] = empty
    return found


def _value(option: str, given: Any, now: float) -> Any:
    try:
        if option == "not_before":
            return parse_moment(given, now=now)
        if option == "expires_at":
            return parse_expiry(given, now=now)
    except InvalidValueError as error:
        name = {"not_before": "--not-before", "expires_at": "--expires"}[option]
        raise InvalidValueError(f"{name}: {error}") from None
    return _metadata(given) if option == "metadata" else given


def _metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or name in found:
            raise InvalidValueError("--metadata takes NAME=VALUE, and each name once")
        found[name] = value
    return found
