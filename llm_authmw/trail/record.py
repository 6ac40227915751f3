"""One record: what a line of the audit trail says. Only what has a field here can get into one.

No header, no query, no body and no credential has a field, so that none can be written down by mistake. What says who a person is stands
apart (`Person`), so that it can be forgotten while everything else stays (GDPR Art. 17).
"""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias, cast

import msgspec

from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision

RecordKind: TypeAlias = Literal["request", "intent", "change", "policy", "loss", "checkpoint"]
Outcome: TypeAlias = Literal["allowed", "denied", "failed"]
End: TypeAlias = Literal["complete", "client_gone", "upstream_error", "cut"]
Detail: TypeAlias = str | int | float | bool | None
CheckpointState: TypeAlias = Literal["opened", "running", "closed"]

_EMPTY_WEIGHT: Final = 2_048
_ODD_WEIGHT: Final = 65_536
_packed: Final = msgspec.msgpack.Encoder().encode


class Who(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Who is calling, as far as that says nothing about a person. See `Principal`, whose words these are."""

    tenant: str
    realm: str = ""
    team: str | None = None
    org: str | None = None
    client: str | None = None
    roles: tuple[str, ...] = ()
    tier: str | None = None
    method: str = "anonymous"
    issuer: str | None = None
    credential_id: str | None = None
    assurance: str | None = None


class Person(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What says who a person is, or leads there.

    Attributes:
        user: The person, within tenant and realm.
        email: Their address for mail.
        address: The client's network address, as the one trusted-proxy setting resolves it.
        end_user: Whom the caller says that a request is for.
        actor: Who made a change.
        actors: Who acted on the subject's behalf, the nearest first (RFC 8693 §4.1).
        changes: The fields that a change has changed, as [before, after]; never a secret.
        extra: What an enrichment has added, where it says who a person is.
        cut: The names of those of these fields that were too long, and of which the beginning is here.
    """

    user: str | None = None
    email: str | None = None
    address: str | None = None
    end_user: str | None = None
    actor: str | None = None
    actors: tuple[str, ...] = ()
    changes: dict[str, Any] = {}
    extra: dict[str, Detail] = {}
    cut: tuple[str, ...] = ()


def users_of(person: Person) -> tuple[str, ...]:
    """Return the users whose record it is: two of them where a change gave what was one's to another."""
    given: Any = person.changes.get("user")
    names: list[Any] = [person.user]
    if isinstance(given, list | tuple):
        names.extend(cast("Sequence[Any]", given))
    return tuple(dict.fromkeys([name for name in names if isinstance(name, str)]))


class Reserved(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One reservation that was made for a request.

    Attributes:
        id: The ledger's id of it.
        estimate: What was booked at first, by measure: the most that the request could use. Money is nano-dollars.
        left: What is left of each bucket, by its name, as the ledger last said; negative where it is in debt.
        settled: Whether the ledger has confirmed the truth.
    """

    id: str
    estimate: dict[str, int] = {}
    left: dict[str, int] = {}
    settled: bool = False


class Change(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """A change of what requests are decided by.

    Attributes:
        what: Of what kind of thing: "key", "account", "revocation", "ledger", "policy".
        target: Its id.
        action: What was done: "create", "rotate", "revoke".
        fields: The names of the fields that changed; their values are the person's part.
    """

    what: str
    target: str
    action: str
    fields: tuple[str, ...] = ()


class Head(NamedTuple):
    """Where a chain stands: its last entry.

    Attributes:
        sequence: Its place, from 0 on.
        hash: Its hash, 64 hexadecimal digits.
        time: When it is dated, in microseconds since 1970.
    """

    sequence: int
    hash: str
    time: int


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Where a writer's chain stands, signed where it has a key.

    Attributes:
        state: "opened" where it begins, or begins to write to another file; "running" now and then; "closed" where it ends.
        previous: The hash of the entry before, 64 hexadecimal digits; zeros where there is none.
        seen: Where other writers' chains stood in the same place, by writer.
        key: The id of the key that signs it: the first 16 hexadecimal digits of the SHA-256 of the public key.
        signature: The signature (Ed25519), 128 hexadecimal digits, over what `checkpoints.signed_text` says.
    """

    state: CheckpointState
    previous: str
    seen: dict[str, Head] = {}
    key: str | None = None
    signature: str | None = None


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One record. What is not known, or has no meaning for its kind, is left out.

    Attributes:
        time: When the request came or the change was made, in microseconds since 1970.
        kind: "request" for one that is over, "intent" for one that is let in now (mode "required"), "change", "policy" when a process
            begins to guard, "loss" for records that were lost, "checkpoint" for a signed state of the chain.
        id: The request's id; the same in its intent.
        trace_id: Of the trace that it is in (W3C Trace Context), 32 hexadecimal digits. A client may have chosen it.
        who: Who is calling.
        outcome: "allowed", "denied", or "failed" where the app raised an error.
        reason: The exact reason code of a denial.
        layer: The layer that denied.
        protocol: "http" or "websocket".
        verb: The method.
        path: The canonical path, without the query. Segments that look like credentials are left out of it.
        operation: What is asked for, as the table of operations names it.
        models: Every model that is asked for.
        served: The model that the answer names.
        streaming: Whether a stream was asked for.
        tools: What it has run at the provider or at an MCP server.
        decisions: What each layer decided, with reason and rule.
        spent: Microseconds until each of these decisions, from the first layer's turn on.
        status: The HTTP status of the answer; 101 for a socket that was accepted.
        first_byte: Microseconds until the first byte of the answer's body.
        duration: Microseconds until the answer was over.
        end: How it ended: "complete", "client_gone", "upstream_error", or "cut" by a layer of ours.
        usage: What it used.
        charge: What that cost.
        reservations: What was reserved for it.
        store_trouble: Whether a store did not answer a question about it in time.
        change: What was changed.
        lost: How many records were lost before this one, of kind "loss".
        stands: What guards, of kind "policy": the layers as they print themselves.
        extra: What an enrichment has added.
        cut: The names of those of these fields that were too long, and of which the beginning is here.
        checkpoint: Where the chain stands, of kind "checkpoint".
        person: What says who is calling as a person; None once it is forgotten. It is the last one here as it is in a line.
    """

    time: int
    kind: RecordKind
    id: str | None = None
    trace_id: str | None = None
    who: Who | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    layer: str | None = None
    protocol: str | None = None
    verb: str | None = None
    path: str | None = None
    operation: str | None = None
    models: tuple[str, ...] = ()
    served: str | None = None
    streaming: bool = False
    tools: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()
    spent: tuple[int, ...] = ()
    status: int | None = None
    first_byte: int | None = None
    duration: int | None = None
    end: End | None = None
    usage: Usage | None = None
    charge: Charge | None = None
    reservations: tuple[Reserved, ...] = ()
    store_trouble: bool = False
    change: Change | None = None
    lost: int = 0
    stands: tuple[str, ...] = ()
    extra: dict[str, Detail] = {}
    cut: tuple[str, ...] = ()
    checkpoint: Checkpoint | None = None
    person: Person | None = None

    def weight(self) -> int:
        """Return about how many bytes it takes while it waits to be written."""
        try:
            return _EMPTY_WEIGHT + len(_packed(self))
        except (ValueError, TypeError, OverflowError):  # half a character, an object that is no value, a number of more than 64 bits
            return _ODD_WEIGHT

    def record(self) -> "Record":
        """Return itself: what is a record already needs not be made when it is written."""
        return self
