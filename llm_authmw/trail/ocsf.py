"""Records as events of the Open Cybersecurity Schema Framework, OCSF 1.8.0, which collectors of security events read.

| record | class | activity |
|---|---|---|
| request, intent | API Activity 6003, with the profiles security_control, ai_operation and trace | by the HTTP method |
| change of a user | Account Change 3001 | by what was done |
| another change | Entity Management 3004 | by what was done |
| policy | Application Lifecycle 6002 | Start |
| loss | Application Error 6008 | General Error |
| checkpoint | Base Event 0 | Other |

What has no place in the schema, or loses its exactness there (its times are milliseconds), is in `unmapped`, by the record's own names.
A person stands where the schema has persons, so no line of this format can forget one and stay verifiable: that takes the native one.
"""

import functools
import json
import sys
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from llm_authmw.network import parse_address
from llm_authmw.trail.encoding import MAX_TEXT, Bounds, Cutter, ascii_only
from llm_authmw.trail.ocsf_people import actor, named_user
from llm_authmw.trail.record import Change, Record

VERSION: Final = "1.8.0"
"""The version of the schema."""

_PRODUCT: Final = "llm_authmw"
_METHODS: Final[Mapping[str | None, tuple[int, str]]] = {
    "POST": (1, "Create"),
    **dict.fromkeys(("GET", "HEAD", "OPTIONS"), (2, "Read")),
    **dict.fromkeys(("PUT", "PATCH"), (3, "Update")),
    "DELETE": (4, "Delete"),
}
_HTTP_METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})
_ENTITY_ACTIONS: Final[Mapping[str, tuple[int, str]]] = {
    "create": (1, "Create"),
    "update": (3, "Update"),
    "rotate": (3, "Update"),
    "delete": (4, "Delete"),
    "revoke": (4, "Delete"),
    "unblock": (8, "Enable"),
    "block": (9, "Disable"),
}
_ACCOUNT_ACTIONS: Final[Mapping[str, tuple[int, str]]] = {
    "create": (1, "Create"),
    "unblock": (2, "Enable"),
    "block": (5, "Disable"),
    "delete": (6, "Delete"),
}
_ENTITY_TYPES: Final[Mapping[str, tuple[int, str]]] = {"team": (3, "Group"), "org": (4, "Organization"), "policy": (5, "Policy")}
_SEVERITIES: Final = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_CLASSES: Final = {
    0: "Base Event",
    3001: "Account Change",
    3004: "Entity Management",
    6002: "Application Lifecycle",
    6003: "API Activity",
    6008: "Application Error",
}

# As for lines of the native format, but that the schema's own objects, which are five deep, stay whole.
_TIGHTER_AND_TIGHTER: Final = (
    Bounds(MAX_TEXT, 1_000, 8, 10_000),
    Bounds(1_024, 200, 8, 2_000),
    Bounds(256, 50, 8, 600),
    Bounds(64, 12, 8, 300),
    # No address is longer than 40 characters, and no object of the schema has more than twelve members here.
    Bounds(40, 12, 8, 120),
)
_MAX_EVENT: Final = 60_000
_encode: Final = msgspec.json.Encoder().encode


def encode_ocsf(record: Record) -> bytes:
    """Return a record as an event on one line of ASCII JSON, which ends in `}}`: the end of `unmapped`, and of the event.

    No line is longer than 60,000 bytes. Where something had to be cut, `metadata.is_truncated` says so.
    """
    event = ocsf(record)
    try:
        line = _encode(event)
        if len(line) <= MAX_TEXT:  # so that no text in it is longer
            return line if line.isascii() and b"\x7f" not in line else ascii_only(line)
    except (ValueError, TypeError, OverflowError):  # half a character, an object that is no value, a number of more than 64 bits
        pass
    for bounds in _TIGHTER_AND_TIGHTER[:-1]:
        if len(line := _cut(event, bounds)) <= _MAX_EVENT:
            return line
    return _cut(event, _TIGHTER_AND_TIGHTER[-1])


def _cut(event: dict[str, Any], bounds: Bounds) -> bytes:
    cutter = Cutter(bounds)
    written: dict[str, Any] = {}
    for name, value in event.items():
        short = cutter.value(value, bounds.depth, anything=True)
        # What the schema requires comes first; of what comes later, half an object may be no valid one, but for the last.
        if not cutter.is_spent or name == "unmapped":
            written[name] = short
    if cutter.has_cut:
        written["metadata"]["is_truncated"] = True
        if len(written.get("actor", {}).get("user", {}).get("email_addr", "")) > bounds.text:
            del written["actor"]["user"]["email_addr"]
    if "time" not in written["unmapped"]:
        written["unmapped"] = {name: event["unmapped"][name] for name in ("kind", "time")}
    return json.dumps(written, separators=(",", ":"), allow_nan=False).encode().replace(b"\x7f", b"\\u007f")


def ocsf(record: Record) -> dict[str, Any]:
    """Return a record as an event. `unmapped` is its last member, and is never empty."""
    rest: dict[str, Any] = msgspec.to_builtins(record, enc_hook=lambda thing: f"({type(thing).__name__})")
    unmapped: dict[str, Any] = {"kind": rest.pop("kind"), "time": rest.pop("time"), **rest}
    event: dict[str, Any]
    if record.kind in {"request", "intent"}:
        event = _request(record, unmapped)
    elif record.kind == "change" and record.change is not None:
        event = _change(record, record.change, unmapped)
    elif record.kind == "policy":
        event = _event(6002, 3, "Start", 1) | {"message": "requests are guarded from now on", "app": _product()}
    elif record.kind == "loss":
        event = _event(6008, 1, "General Error", 4) | {"message": f"{record.lost} records of what happened were lost"}
    else:
        event = _event(0, 99, record.kind.capitalize(), 1) | {"message": f"a {record.kind} of the trail"}
    return {
        # The first and the last to be cut where it is too long.
        "metadata": _metadata(record, unmapped, event.pop("profiles", None)),
        "time": record.time // 1000,
        **event,
        "unmapped": unmapped,
    }


def _event(class_uid: int, activity_id: int, activity: str, severity_id: int) -> dict[str, Any]:
    """Return what classifies an event: `type_uid` and `category_uid` follow from the class."""
    return {
        "class_uid": class_uid,
        "class_name": _CLASSES[class_uid],
        "category_uid": class_uid // 1000,
        "activity_id": activity_id,
        "activity_name": activity,
        "type_uid": class_uid * 100 + activity_id,
        "severity_id": severity_id,
        "severity": _SEVERITIES[severity_id],
    }


def _metadata(record: Record, unmapped: dict[str, Any], profiles: list[str] | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"version": VERSION, "product": _product(), "event_code": record.kind}
    if profiles is not None:
        metadata["profiles"] = profiles
    if record.id is not None:
        # An intent and its request are two events about one thing.
        metadata["correlation_uid"] = unmapped.pop("id")
    who: dict[str, Any] = unmapped.get("who", {})
    if who:
        metadata["tenant_uid"] = who.pop("tenant")
        if not who:
            del unmapped["who"]
    return metadata


@functools.cache
def _product() -> Mapping[str, str]:
    # The public face, which imports this module in the end, and no module may import.
    version: str = sys.modules["llm_authmw"].__version__
    return {"name": _PRODUCT, "vendor_name": _PRODUCT, "version": version}


def _request(record: Record, unmapped: dict[str, Any]) -> dict[str, Any]:
    default = (99, "WebSocket" if record.protocol == "websocket" else record.verb or "Other")
    activity_id, activity = default if record.protocol == "websocket" else _METHODS.get(record.verb, default)
    severity = {"denied": 2, "failed": 3}.get(record.outcome or "", 1)
    event = _event(6003, activity_id, activity, severity) | {"profiles": ["security_control", "ai_operation"]}
    event["message"] = _sentence(record)
    event |= _status(record)
    event["actor"] = actor(record, unmapped)
    event["src_endpoint"] = _source(record, unmapped)
    event["api"] = _api(record, unmapped)
    event |= _http(record, unmapped)
    event |= _model(record, unmapped)
    event |= _verdict(record)
    if record.duration is not None:
        event |= {
            "start_time": record.time // 1000,
            "end_time": (record.time + record.duration) // 1000,
            "duration": record.duration // 1000,
        }
    if record.trace_id is not None:
        event["trace"] = {"uid": unmapped.pop("trace_id")}
        event["profiles"].append("trace")
    for name in ("outcome", "reason", "layer"):
        unmapped.pop(name, None)
    return event


def _sentence(record: Record) -> str:
    """Say what became of a request, without what says who asked."""
    asked = record.operation or "a request"
    if record.kind == "intent":
        return f"{asked} is let in"
    if record.outcome == "denied":
        return f"{asked} denied by {record.layer}: {record.reason}"
    return f"{asked} {record.outcome or 'over'}"


def _status(record: Record) -> dict[str, Any]:
    if record.kind == "intent":
        return {"status_id": 99, "status": "Let In"}
    failed = record.outcome != "allowed" or (record.status is not None and record.status >= 400)
    status: dict[str, Any] = {"status_id": 2, "status": "Failure"} if failed else {"status_id": 1, "status": "Success"}
    code = record.reason or record.status
    if code is not None:
        status["status_code"] = str(code)
    if record.end is not None:
        status["status_detail"] = record.end
    return status


def _source(record: Record, unmapped: dict[str, Any]) -> dict[str, Any]:
    """Return where a request came from. The schema wants one, and a socket of this machine has no address."""
    address = record.person.address if record.person is not None else None
    if address is None or parse_address(address) is None:
        return {"name": "unknown"}
    del unmapped["person"]["address"]
    return {"ip": address}


def _api(record: Record, unmapped: dict[str, Any]) -> dict[str, Any]:
    api: dict[str, Any] = {"operation": unmapped.pop("operation", None) or f"{record.verb or '?'} {record.path or '?'}"}
    if record.id is not None:
        api["request"] = {"uid": record.id}
    response: dict[str, Any] = {}
    if record.status is not None:
        response["code"] = record.status
    if record.reason is not None:
        response["error"] = record.reason
    return api | {"response": response} if response else api


def _http(record: Record, unmapped: dict[str, Any]) -> dict[str, Any]:
    request: dict[str, Any] = {}
    if record.verb in _HTTP_METHODS:
        request["http_method"] = unmapped.pop("verb")
    if record.path is not None:
        request["url"] = {"path": unmapped.pop("path")}
    found = {"http_request": request} if request else {}
    if record.status is not None:
        found["http_response"] = {"code": unmapped.pop("status")}
        if record.first_byte is not None:
            found["http_response"]["latency"] = record.first_byte // 1000
    return found


def _model(record: Record, unmapped: dict[str, Any]) -> dict[str, Any]:
    """Return what the request is about: its models and tools, and the tokens that it took."""
    found: dict[str, Any] = {}
    about = [("model", name) for name in unmapped.pop("models", ())] + [("tool", name) for name in unmapped.pop("tools", ())]
    if about:
        found["resources"] = [{"name": name, "type": kind, "role_id": 1, "role": "Target"} for kind, name in about]
    model = unmapped.pop("served", None) or next(iter(record.models), None)
    if model is not None:
        # The schema wants the provider, which only whoever is behind the app knows.
        found["ai_model"] = {"name": model, "ai_provider": "unknown"}
    if record.usage is not None:
        counts: dict[str, Any] = {name: count for name, count in unmapped.pop("usage").items() if count}
        asked, answered = counts.pop("input", 0), counts.pop("output", 0)
        found["message_context"] = {
            "service": {"name": record.operation or _PRODUCT},
            "ai_role_id": 0,
            "prompt_tokens": asked,
            "completion_tokens": answered,
            "total_tokens": asked + answered,
        }
        if counts:
            unmapped["usage"] = counts
    return found


def _verdict(record: Record) -> dict[str, Any]:
    """Return what we did to the request (profile security_control), and which layer decided what by which rule."""
    denied = record.outcome == "denied"
    verdict: dict[str, Any] = (
        {"action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked"}
        if denied
        else {"action_id": 1, "action": "Allowed", "disposition_id": 1, "disposition": "Allowed"}
    )
    if record.decisions:
        verdict["authorizations"] = [
            {"decision": one.outcome, "policy": {"name": one.rule or one.layer, "type": one.layer}} for one in record.decisions
        ]
        # `unmapped` keeps them, for their reasons and marks and the credentials that were judged.
    return verdict


def _change(record: Record, change: Change, unmapped: dict[str, Any]) -> dict[str, Any]:
    kind, _, name = change.target.partition(":") if change.what == "account" else (change.what, "", change.target)
    default = (99, change.action)
    event: dict[str, Any]
    if kind in {"user", "end_user"}:
        event = _event(3001, *_ACCOUNT_ACTIONS.get(change.action, default), 1)
        person = record.person
        event["user"] = named_user(name or (person and (person.user or person.end_user)) or "unknown")
    else:
        type_id, type_name = _ENTITY_TYPES.get(kind, (99, kind))
        event = _event(3004, *_ENTITY_ACTIONS.get(change.action, default), 1)
        event["entity"] = {"uid": change.target, "name": name, "type_id": type_id, "type": type_name}
    event |= {"message": f"{change.action} of {kind}", "status_id": 1, "status": "Success"}
    if record.person is not None and record.person.actor is not None:
        event["actor"] = {"user": named_user(unmapped["person"].pop("actor"))}
    return event
