"""`llm-authmw revoke …`: tokens of identity providers that are to be let in no longer."""

from collections.abc import Callable
from typing import Any, Final

import click

from llm_authmw.cli.completion import complete_revocation_id
from llm_authmw.cli.durations import exact, parse_expiry, parse_moment
from llm_authmw.cli.options import only_tenant, page_options, reading, stacked, store_option, writing
from llm_authmw.cli.output import emit, note, say
from llm_authmw.cli.show import print_revocations
from llm_authmw.cli.target import Target
from llm_authmw.errors import InvalidValueError
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.tokens.revocation_records import REVOCATION_KINDS, Revocation

ENFORCED: Final = (
    "Every process that verifies tokens against this store refuses them within the store's bound: one second, unless it was opened with "
    "another one."
)

issuer_argument: Final = click.argument("issuer")
revoking_options: Final = stacked(
    click.option("--tenant", metavar="NAME", default=DEFAULT_TENANT, show_default=True, help="Whose tokens are meant."),
    click.option("--note", metavar="TEXT", help="Why, for people."),
)


@click.group(
    epilog=f"""ISSUER is the `iss` of the tokens, letter by letter. API keys are ended with: llm-authmw keys revoke ID

{ENFORCED}"""
)
@store_option
def revoke() -> None:
    """Revoke tokens that identity providers issued."""


@revoke.command(
    epilog=f"""\b
Examples:
  llm-authmw revoke token https://id.example.com 6f1c2b9e --expires 1h
  llm-authmw revoke token https://id.example.com 6f1c2b9e --note 'was in a log, ticket 4711'

JTI is the `jti` in the token's claims; the token itself belongs on no command line. Revoking it again changes nothing, unless it
is to be remembered for longer.

{ENFORCED}"""
)
@issuer_argument
@click.argument("jti")
@click.option(
    "--expires",
    metavar="WHEN",
    help="When the token ends: 1h from now, or a date; a day later this may be forgotten. Left out: never.",
)
@revoking_options
@writing
def token(target: Target, /, *, issuer: str, jti: str, expires: str | None, **options: Any) -> None:
    """Revoke one token of an issuer."""
    expires_at = _read("--expires", expires, parse_expiry, target)
    _report(
        target, target.run(lambda store: store.revocations.revoke_token(issuer, jti, expires_at=expires_at, actor=target.actor, **options))
    )


@revoke.command(
    epilog=f"""\b
Examples:
  llm-authmw revoke subject https://id.example.com 'auth0|42'
  llm-authmw revoke subject https://id.example.com ann --issued-before 2030-01-31T18:00Z --expires 12h

SUBJECT is the `sub` of the tokens. Tokens that do not say when they were issued are revoked too. A later moment replaces an earlier
one; one that is still to come refuses new tokens until then.

{ENFORCED}"""
)
@issuer_argument
@click.argument("subject")
@click.option(
    "--issued-before",
    metavar="WHEN",
    default="now",
    show_default=True,
    help="Tokens issued until then are revoked: now, a date, or 5m from now, for an issuer whose clock is ahead.",
)
@click.option(
    "--expires",
    metavar="WHEN",
    help="When the last of these tokens ends: 12h from now, or a date; a day later this may be forgotten. Left out: never.",
)
@revoking_options
@writing
def subject(target: Target, /, *, issuer: str, subject: str, issued_before: str, expires: str | None, **options: Any) -> None:
    """Revoke the tokens that an issuer gave a subject until now."""
    before = _read("--issued-before", issued_before, parse_moment, target)
    expires_at = _read("--expires", expires, parse_expiry, target)
    _report(
        target,
        target.run(
            lambda store: store.revocations.revoke_subject(
                issuer, subject, issued_before=before, expires_at=expires_at, actor=target.actor, **options
            )
        ),
    )


@revoke.command(
    epilog=f"""\b
Examples:
  llm-authmw revoke key https://id.example.com 2030-01 --note 'the private key leaked'

KID is the `kid` of a key that the issuer signs with, as its key set names it. This holds until it is lifted, whatever the issuer
publishes. An API key is ended with: llm-authmw keys revoke ID

{ENFORCED}"""
)
@issuer_argument
@click.argument("kid")
@revoking_options
@writing
def key(target: Target, /, *, issuer: str, kid: str, **options: Any) -> None:
    """Revoke every token that is signed with a key of an issuer."""
    _report(target, target.run(lambda store: store.revocations.revoke_key(issuer, kid, actor=target.actor, **options)))


@revoke.command(
    "list",
    epilog="""\b
Examples:
  llm-authmw revoke list --issuer https://id.example.com --kind key
  llm-authmw revoke list --value 6f1c2b9e        is this token revoked?
  llm-authmw revoke list --json | jq -r '.revocations[].id'""",
)
@click.option("--tenant", metavar="NAME", help="Of tokens of this tenant.")
@click.option("--kind", type=click.Choice(REVOCATION_KINDS), help="Of this kind.")
@click.option("--issuer", metavar="URL", help="Of tokens of this issuer.")
@click.option("--value", metavar="TEXT", help="Of this jti, sub or kid.")
@click.option("--lifted", is_flag=True, help="Those that were lifted, instead of those that stand.")
@page_options
@reading
def list_(target: Target, /, **filters: Any) -> None:
    """List revocations, newest first. Every filter that is given must hold."""
    page = target.run(lambda store: store.revocations.list(**filters))
    if target.json:
        emit({"revocations": [revocation.as_dict() for revocation in page.revocations], "next": page.next})
        return
    if not page.revocations:
        note(f"No such revocations in {target.place}.")
    else:
        print_revocations(page.revocations, target.now)
    if page.next is not None:
        note(f"There are more: --after {page.next}")


@revoke.command(epilog="Tokens that it stopped, and that have not ended, are let in again within the store's bound.")
@click.argument("revocation_id", metavar="ID", shell_complete=complete_revocation_id)
@only_tenant("revocation")
@writing
def lift(target: Target, /, *, revocation_id: str, tenant: str | None) -> None:
    """End a revocation. ID is what `revoke` and `revoke list` show."""
    _report(target, target.run(lambda store: store.revocations.lift(revocation_id, tenant=tenant, actor=target.actor)))


def _read(option: str, text: str | None, parse: Callable[..., float | None], target: Target) -> float | None:
    try:
        return None if text is None else parse(text, now=target.now)
    except InvalidValueError as error:
        raise InvalidValueError(f"{option}: {error}") from None


def _report(target: Target, revocation: Revocation) -> None:
    if target.json:
        emit(revocation.as_dict())
        return
    value, issuer = revocation.value, revocation.issuer
    if revocation.kind == "token":
        what = f"token {value} of {issuer} is"
    elif revocation.kind == "key":
        what = f"tokens signed with key {value} of {issuer} are"
    else:
        before = "" if revocation.issued_before is None else f" issued until {exact(revocation.issued_before)}"
        what = f"tokens of {value} of {issuer}{before} are"
    say(f"{revocation.id}: {what} {'revoked' if revocation.lifted_at is None else 'no longer revoked'}")
