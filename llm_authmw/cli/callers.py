"""Who is calling, from the options of a verb: as a key's layer would make him, or put together field by field."""

import json
from collections.abc import Mapping
from typing import Any, Final

import click

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.cli.completion import complete_key_id
from llm_authmw.cli.durations import parse_duration
from llm_authmw.cli.key_ids import checked_id
from llm_authmw.cli.options import Option, only_tenant, stacked
from llm_authmw.cli.target import Target
from llm_authmw.errors import InvalidValueError
from llm_authmw.keys.records import KeyRecord
from llm_authmw.names import name_set
from llm_authmw.principal import DEFAULT_TENANT, KEYS_REALM, Assurance, ClaimValue, Principal
from llm_authmw.stores import Store

_METHODS: Final = {
    "key": Assurance.SHARED_SECRET,
    "jwt": Assurance.SIGNED,
    "introspection": Assurance.INTROSPECTED,
    "header": Assurance.PEER_TRUSTED,
    "client_cert": Assurance.BOUND,
    "custom": Assurance.SHARED_SECRET,
}
"""By method: how well an identity is proven by it."""
_LISTS: Final = ("roles", "scopes", "groups", "tags")

_identity: Final = (
    click.option("--user", metavar="NAME", help="The person who calls."),
    click.option("--client", metavar="NAME", help="The OAuth client that calls."),
    click.option("--email", metavar="ADDRESS", help="The caller's address, as the source vouches for it."),
    click.option("--team", metavar="NAME", help="The caller's team."),
    click.option("--org", metavar="NAME", help="The caller's organisation."),
    click.option("--role", "roles", metavar="NAME", multiple=True, help="A role of the caller's own, or that the token names. Repeatable."),
    click.option("--scope", "scopes", metavar="NAME", multiple=True, help="An OAuth scope. Repeatable."),
    click.option("--group", "groups", metavar="NAME", multiple=True, help="A group that the source names. Repeatable."),
    click.option("--tag", "tags", metavar="NAME", multiple=True, help="A label of the credential. Repeatable."),
    click.option(
        "--claim",
        "claims",
        metavar="NAME=VALUE",
        multiple=True,
        help="A claim that was kept: 'department=research', 'admin=true'. Repeatable.",
    ),
    click.option("--issuer", metavar="URL", help="Who issued the token."),
    click.option("--realm", metavar="NAME", help="Where --user means one person. Left out: the issuer, else keys."),
    click.option("--method", type=click.Choice(tuple(_METHODS)), help="How the caller logged in. Left out: jwt with --issuer, else key."),
    click.option(
        "--assurance",
        type=click.Choice([level.name.lower() for level in Assurance]),
        help="How well the identity is proven. Left out: as well as the method can.",
    ),
    click.option("--acr", metavar="NAME", help="The authentication context class of the login."),
    click.option("--logged-in", metavar="DURATION", help="How long ago the caller logged in: 5m, 12h."),
)

caller_options: Final[Option] = stacked(
    click.option(
        "--key",
        "key_id",
        metavar="ID",
        shell_complete=complete_key_id,
        callback=checked_id,
        help="Whoever has this key of the store, in place of all the options below.",
    ),
    only_tenant("caller"),
    *_identity,
)


class Caller:
    """Who is calling.

    Attributes:
        principal: As a layer would have made him; None where nobody was named.
        refused: The state of his key, where that keeps him out before any role is looked at.
        accounts: The accounts that he belongs to, where the store was read.
    """

    def __init__(self, principal: Principal | None, refused: str | None = None, accounts: tuple[AccountRecord, ...] = ()) -> None:
        self.principal: Final = principal
        self.refused: Final = refused
        self.accounts: Final = accounts


def caller_of(target: Target, key_id: str | None, tenant: str | None, options: Mapping[str, Any]) -> Caller:
    """Return who is meant.

    Raises:
        click.UsageError: two options contradict each other, or nobody is named and something is said of him.
        InvalidValueError: a value is outside its grammar.
        AuthmwError: the store cannot be read, or has no such key.
    """
    given = {name: value for name, value in options.items() if value not in {None, ()}}
    if key_id is not None:
        if given:
            raise click.UsageError(
                f"--key says who is calling, and so does --{min(given).replace('_', '-').removesuffix('s')}: give one of them"
            )

        async def work(store: Store) -> tuple[KeyRecord, tuple[AccountRecord, ...]]:
            record = await store.keys.get(key_id, tenant=tenant)
            return record, await store.ledger.accounts.load(record.principal())

        record, accounts = target.run(work)
        state = record.state(target.now)
        return Caller(record.principal(), None if state == "active" else state, accounts)
    if not given and tenant is None:
        return Caller(None)
    if "user" not in given and "client" not in given:
        raise click.UsageError("name who is calling: --user, --client or --key")
    method = given.pop("method", "jwt" if "issuer" in given else "key")
    assurance = given.pop("assurance", None)
    logged_in = given.pop("logged_in", None)
    claims = given.pop("claims", ())
    fields: dict[str, Any] = {
        name: name_set(f"--{name.removesuffix('s')}", value) if name in _LISTS else value for name, value in given.items()
    }
    fields.setdefault("realm", given.get("issuer", KEYS_REALM))
    return Caller(
        Principal(
            tenant=DEFAULT_TENANT if tenant is None else tenant,
            method=method,
            assurance=_METHODS[method] if assurance is None else Assurance[assurance.upper()],
            authenticated_at=None if logged_in is None else target.now - parse_duration(logged_in),
            claims=_claims(claims),
            **fields,
        )
    )


def _claims(pairs: tuple[str, ...]) -> tuple[tuple[str, ClaimValue], ...]:
    found: dict[str, list[ClaimValue]] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise InvalidValueError("--claim takes NAME=VALUE")
        found.setdefault(name, []).append(_claim(text))
    # A claim that is given twice is a list of both.
    return tuple((name, values[0] if len(values) == 1 else tuple(values)) for name, values in found.items())


def _claim(text: str) -> ClaimValue:
    """Return true, false and numbers as such, and everything else as text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if type(value) in {bool, int, float} else text
