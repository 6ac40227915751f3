"""From the notes of a request to its record. Nothing here is on the path of a request that need not be recorded before it goes on."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from msgspec.structs import replace

from llm_authmw.audit.notes import MAX_NAMES, few
from llm_authmw.audit.paths import MASK, masked, masked_path
from llm_authmw.audit.trace_parent import trace_id_of
from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision, request_id
from llm_authmw.errors import Denial
from llm_authmw.ledger.hold import Hold
from llm_authmw.lens import RequestLens
from llm_authmw.network import parse_address
from llm_authmw.patterns import canonical_route
from llm_authmw.principal import Principal
from llm_authmw.trail.record import End, Outcome, Person, Record, Reserved, Who

if TYPE_CHECKING:
    from llm_authmw.audit.notes import Known, Notes

MICROSECONDS: Final = 1_000_000
_SERVER_ERRORS: Final = 500
_ERRORS: Final = 400
_REMEMBERED: Final = 512
_SHORT: Final = 256
# Characters up to which it is remembered what becomes of a name.
_MAX_METHOD: Final = 32

_SUBJECT: Final = re.compile(r"(?:^|(?<=\+))(user|member|caller|end_user|address):.*?(?=\+| / |$)")
"""What a bucket is called by, where that is, or leads to, a person: see `limits.dimensions`."""


def record_of(notes: "Notes") -> Record:
    """Return the record of a request that is over, or of the intent to let it in.

    Raises:
        ValueError: nothing is known of it yet.
    """
    known = notes.known
    if known is None:
        raise ValueError("a record is made of a request that is let in, or over")
    call, began = known.call, notes.began
    verb, path, operation, models = _asked(notes)
    # Only what there is: a struct looks for each name that it is given among all that it has.
    said: dict[str, Any] = {
        "time": int(notes.time * MICROSECONDS),
        "kind": notes.kind,
        "id": request_id(known.request),
        "who": _who(known.principal, known.roles, known.tier),
        "protocol": notes.protocol,
        "verb": verb,
        "path": path,
        "operation": operation,
        "models": models,
        "person": _person(notes, known),
    }
    if notes.trace_id or known.traced:
        said["trace_id"] = notes.trace_id or trace_id_of(known.traced)
    if call is not None:
        said |= {"operation": call.operation, "models": _names(call.models), "streaming": call.streaming, "tools": _names(call.tools)}
    if known.decisions:
        said["decisions"] = tuple([_decision(one) for one in known.decisions[:MAX_NAMES]])
        said["spent"] = tuple([_microseconds(moment - began) for moment in known.timings[:MAX_NAMES]])
    if known.holds:
        said["reservations"] = tuple([_reserved(hold) for hold in known.holds])
    if known.store_trouble or (known.holds and any(map(_is_unsettled, known.holds))):
        said["store_trouble"] = True
    if known.usage is not None:
        said["usage"] = usage = _usage(known.usage)
        said["served"] = usage.model
    if known.charge is not None:
        said["charge"] = _charge(known.charge)
    if notes.first_byte is not None:
        said["first_byte"] = _microseconds(notes.first_byte - began)
    if notes.kind == "request":
        said["outcome"], said["end"], denial = _ending(notes, known)
        if denial is not None:
            said["reason"], said["layer"] = denial.reason, denial.layer
        said["status"] = notes.status
        said["duration"] = _microseconds((notes.over or notes.ended) - began)
    return Record(**said)


def _ending(notes: "Notes", known: "Known") -> tuple[Outcome, End, Decision | None]:
    """Return what became of a request, how its answer ended, and the denial that did it."""
    before = known.decisions[: notes.taken] if notes.status is not None else known.decisions
    last = before[-1] if before else None
    if last is not None and last.outcome == "denied" and (notes.status is None or notes.status >= _ERRORS):
        return "denied", "client_gone" if notes.left else "complete", last
    cut = next((one for one in known.decisions[len(before) :] if one.outcome == "denied"), None)
    if cut is not None:
        # The app ran, and used something: that it was ended is another matter than that it was not let in.
        return "allowed", "cut", cut
    if notes.left:
        return "allowed", "client_gone", None
    whole = notes.over is not None or (notes.protocol == "websocket" and notes.status is not None and not notes.raised)
    if notes.killed and notes.over is None:
        return "failed", "cut", None
    if not whole:
        return "failed", "upstream_error", None
    failed = known.answer_failed or (notes.status is not None and notes.status >= _SERVER_ERRORS)
    return "failed" if notes.raised else "allowed", "upstream_error" if failed else "complete", None


def _asked(notes: "Notes") -> tuple[str, str, str | None, tuple[str, ...]]:
    """Return method and path as a record has them, and the operation and the models that they name."""
    short = len(notes.path) + len(notes.raw_path) + len(notes.method) <= _REMEMBERED
    find = _found if short else _found.__wrapped__
    return find(notes.protocol, notes.method, notes.path, notes.raw_path, notes.root_path, notes.lens)


@lru_cache(maxsize=1024)
def _found(
    protocol: str, method: str, path: str, raw_path: bytes, root_path: str, lens: RequestLens
) -> tuple[str, str, str | None, tuple[str, ...]]:
    verb = ("WS" if protocol == "websocket" else method)[:_MAX_METHOD]
    route = canonical_route({"type": protocol, "method": method, "path": path, "raw_path": raw_path, "root_path": root_path})
    if route is None:
        # It can be read in more than one way: the record has it as it came.
        return verb, masked_path(path), None, ()
    try:
        found = lens.find(*route)
    except Denial:
        found = None
    if found is None:
        return verb, masked_path(route[1]), None, ()
    return verb, masked_path(route[1]), found.operation.name, _names(found.models)


@lru_cache(maxsize=4096)
def _who(principal: Principal, roles: tuple[str, ...], tier: str | None) -> Who:
    return Who(
        tenant=principal.tenant,
        realm=principal.realm,
        team=principal.team,
        org=principal.org,
        client=principal.client,
        roles=roles or principal.roles,
        tier=principal.tier or tier,
        method=principal.method,
        issuer=principal.issuer,
        credential_id=principal.credential_id,
        assurance=principal.assurance.name.lower() if principal.is_authenticated else None,
    )


def _person(notes: "Notes", known: "Known") -> Person | None:
    principal, call = known.principal, known.call
    address: str | None
    if known.address is not None:
        address = str(known.address)
    elif known.proxies is not None:
        found = known.proxies.client_address({"client": notes.client, "headers": known.forwarded})
        address = None if found is None else str(found)
    else:
        address = _address(notes.client[0]) if notes.client else None
    end_user = None if call is None or call.end_user is None else masked(call.end_user)
    if address is None and end_user is None and principal.user is None and principal.email is None and not principal.actors:
        return None
    return Person(user=principal.user, email=principal.email, address=address, end_user=end_user, actors=principal.actors)


@lru_cache(maxsize=4096)
def _address(text: str) -> str | None:
    """Return the address that a server gives for a connection, in its one spelling."""
    address = parse_address(text)
    return None if address is None else str(address)


def _decision(decision: Decision) -> Decision:
    rule = decision.rule
    if rule is None or ":" not in rule or (plain := without_person(rule)) == rule:
        return decision
    return replace(decision, rule=plain)


def _is_unsettled(hold: Hold) -> bool:
    """Say whether the truth was given, and nobody has confirmed it."""
    return hold.settled and hold.settlement is None


def _reserved(hold: Hold) -> Reserved:
    """Return what a record says of a reservation, without the names of people: those stand in its sealed part alone."""
    settlement = hold.settlement
    balances = hold.reservation.balances if settlement is None else settlement.balances
    estimate: dict[str, int] = {}
    left: dict[str, int] = {}
    for claim, balance in zip(hold.claims, balances, strict=False):
        bucket = claim.bucket
        estimate[bucket.measure] = max(claim.amount, estimate.get(bucket.measure, 0))
        # A balance that is below zero says so: what can be had then is nothing.
        left[without_person(bucket.name)] = balance.limit - balance.used if balance.used > balance.limit else balance.left
    return Reserved(id=hold.id, estimate=estimate, left=left, settled=settlement is not None)


def without_person(name: str) -> str:
    """Return the name of a bucket, or a rule that is one, without whoever it is about."""
    return (_without_person if len(name) <= _SHORT else _without_person.__wrapped__)(name)


# A regular expression takes longer than all the rest, and most requests name what others have named.
@lru_cache(maxsize=4096)
def _without_person(name: str) -> str:
    return _SUBJECT.sub(r"\1", name)


def _usage(usage: Usage) -> Usage:
    if usage.model is None or _name(usage.model) == usage.model:
        return usage
    return replace(usage, model=MASK)


def _charge(charge: Charge) -> Charge:
    if _name(charge.model) == charge.model:
        return charge
    return replace(charge, model=MASK)


def _name(given: str) -> str:
    return (_masked if len(given) <= _SHORT else masked)(given)


_masked: Final = lru_cache(maxsize=4096)(masked)


def _names(given: Sequence[Any]) -> tuple[str, ...]:
    # Notes have few of them already, with a last one that says so.
    return tuple([_name(name) for name in (given if len(given) <= MAX_NAMES + 1 else few(given))])


def _microseconds(seconds: float) -> int:
    return int(seconds * MICROSECONDS + 0.5) if seconds > 0 else 0
