"""`llm-authmw explain`: why what guards an app lets a request through, or does not."""

from typing import Any, Final

import click
import msgspec

from llm_authmw.authz.explanation import Check, Explanation, Shown
from llm_authmw.authz.grants import Condition
from llm_authmw.cli.apps import factory_option, load
from llm_authmw.cli.callers import Caller, caller_of, caller_options
from llm_authmw.cli.options import reading
from llm_authmw.cli.output import Column, emit, note, print_fields, print_table, say
from llm_authmw.cli.target import Target
from llm_authmw.explained import Explained
from llm_authmw.explained import explain as explain_request
from llm_authmw.principal import ClaimValue
from llm_authmw.reasons import REASONS

_MOST_SHOWN: Final = 3
"""Patterns of one role that are printed; the one that decided stands beside them, and `--json` has them all."""
_HELD: Final = (Column("WANTED", "wrap"), Column("FOUND", "wrap"), Column("MET", colored=True))


@click.command(
    epilog="""\b
Examples:
  llm-authmw explain myapp:guard 'POST /v1/chat/completions' --model o3 --user ada --role member
  llm-authmw explain myapp:guard 'GET /admin/users' --user ada --issuer https://id.example.com --scope llm:admin
  llm-authmw explain myapp:guard 'POST /v1/embeddings' --model text-embedding-3-small --key 9f2c41d07ab3e865

GUARD is MODULE:NAME of a Stack, of what it guards, or of a PolicyRouter. The module is imported, from the working directory too.
REQUEST is method and path, with WS as the method of a WebSocket; {model} in the path stands for the model. Nothing is sent, and
nobody is asked: not whether a token is good, not what is left of a limit, and no authorizer of your own. Where --key is given, the store
is read, for the key and for the limits and budgets of its user, team and organisation.

Ends with 0 where the request is allowed, and with 1 where it is denied."""
)
@click.argument("guard")
@click.argument("request", metavar="REQUEST")
@factory_option
@click.option("--model", metavar="NAME", help="The model that the request names.")
@click.option("--tool", "tools", metavar="NAME", multiple=True, help="A tool that it uses: 'web_search', 'prompt:summary'. Repeatable.")
@click.option("--address", metavar="IP", help="Where it comes from.")
@caller_options
@reading
def explain(
    target: Target,
    /,
    *,
    guard: str,
    request: str,
    factory: bool,
    model: str | None,
    tools: tuple[str, ...],
    address: str | None,
    key_id: str | None,
    tenant: str | None,
    **options: Any,
) -> None:
    """Say why a request is allowed or denied.

    It also says what would have been needed, and which limits and budgets the request falls under.
    """
    caller = caller_of(target, key_id, tenant, options)
    found = explain_request(
        load(guard, factory=factory),
        request,
        as_=caller.principal,
        model=model,
        tools=tools,
        address=address,
        accounts=caller.accounts,
        now=target.now,
    )
    if target.json:
        emit({**msgspec.to_builtins(found), "key_state": caller.refused})
    else:
        _print(found, caller)
    if not found.allowed or caller.refused is not None:
        click.get_current_context().exit(1)


def _print(found: Explained, caller: Caller) -> None:
    last = found.layers[-1] if found.layers else None
    need = last.need if last is not None and found.reason == last.reason else None
    print_fields(
        [
            ("verdict", _verdict(found)),
            ("because", None if found.reason is None else f"{found.reason}: {REASONS[found.reason].message}"),
            ("needed", need),
            ("caller", found.subject),
            ("request", found.route),
            ("policy", " > ".join(found.policies) or None),
            ("operation", None if last is None else last.operation),
            ("models", None if last is None else ", ".join(last.models) or None),
            ("tools", None if last is None else ", ".join(last.tools) or None),
            ("tier", None if last is None else last.tier),
        ]
    )
    for number, layer in enumerate(found.layers, start=1):
        _print_layer(layer, f" of layer {number}" if len(found.layers) > 1 else "")
    if found.limits:
        say("")
        rows = [[limit.limit, limit.scope, limit.subject, limit.layer] for limit in found.limits]
        print_table([Column("LIMIT", "wrap"), Column("COUNTED BY"), Column("OF", "wrap"), Column("LAYER")], rows)
    if not found.layers and found.allowed and not found.public:
        note("No RBACMiddleware is on the way, so nothing was held against roles.")
    for engine in found.not_asked:
        note(f"Not asked, and has a word in it too: {engine}")
    if caller.refused is not None:
        note(f"The key is {caller.refused}: it is refused before any of this.")


def _verdict(found: Explained) -> str:
    rule = found.layers[-1].rule if found.layers else None
    if not found.allowed:
        return f"denied with {found.status}" + (f", nearest role {rule}" if rule is not None else "")
    if any(layer.shadowed for layer in found.layers):
        return "allowed, since what would deny it is on trial"
    return "allowed" + (", public" if found.public else f" by {rule}" if rule is not None else "")


def _print_layer(layer: Explanation, of: str) -> None:
    if layer.grants:
        say("")
        rows = [
            [f"grant {number}" if place == 0 else "", grant.role if place == 0 else "", *_held(condition)]
            for number, grant in enumerate(layer.grants)
            for place, condition in enumerate(grant.conditions)
        ]
        print_table([Column(f"GRANTS{of.upper()}"), Column("ROLE"), Column("CONDITION"), *_HELD], rows)
    say("")
    rows = [["the credential" if place == 0 else "", "", *_held(check), check.by] for place, check in enumerate(layer.own)]
    for role in sorted(layer.roles, key=lambda role: not role.obtained):
        obtained = ", ".join(role.obtained) or "no"
        rows += [
            [role.name, obtained, *_held(check), check.by] if check is role.checks[0] else ["", "", *_held(check), check.by]
            for check in role.checks
        ]
    print_table([Column(f"ROLES{of.upper()}"), Column("OBTAINED", "wrap"), Column("CHECK"), *_HELD, Column("BY", "wrap")], rows)


def _held(check: Check | Condition) -> list[str | None]:
    return [check.name, _shown(check.wanted), _shown(check.found), "yes" if check.met else "no"]


def _shown(value: Shown | ClaimValue) -> str | None:
    if isinstance(value, tuple):
        shown = ", ".join(str(one) for one in value[:_MOST_SHOWN]) or "nothing"
        return shown if len(value) <= _MOST_SHOWN else f"{shown}, and {len(value) - _MOST_SHOWN} more"
    if isinstance(value, float):
        return f"{value:g} s"
    return None if value is None else str(value)
