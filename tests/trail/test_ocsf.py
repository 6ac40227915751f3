"""Events against the field rules of OCSF 1.8.0 (github.com/ocsf/ocsf-schema, tag 1.8.0, commit 6fa6499a), for what our events have."""

import ipaddress
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llm_authmw
from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision
from llm_authmw.trail.chain import Chain, link_hash
from llm_authmw.trail.ocsf import encode_ocsf, ocsf
from llm_authmw.trail.record import Change, Checkpoint, Person, Record, RecordKind, Reserved, Who

# Attributes of classes and objects, each with its type: "!" after those that are required, "[]" after lists, "=" before the values of
# an enumeration, "@" before the profile that an attribute belongs to. In a row of names with "+" between, one at least is required.
# An attribute that is not here is one that our events have not, or the schema has not.
BASE = """
    metadata:metadata! time:integer! class_uid:integer! class_name:text category_uid:integer! activity_id:integer! activity_name:text
    type_uid:integer! severity_id:integer=0-6|99! severity:text message:text unmapped:any status_id:integer=0-2|99 status:text
    status_code:text status_detail:text start_time:integer end_time:integer duration:integer action_id:integer=0-4|99@security_control
    action:text@security_control disposition_id:integer=0-27|99@security_control disposition:text@security_control
    authorizations:authorization[]@security_control
"""
CLASSES = {
    0: ("Base Event", "activity_id:integer=0|99!"),
    3001: ("Account Change", "activity_id:integer=0-12|99! user:user! actor:actor"),
    3004: ("Entity Management", "activity_id:integer=0-13|99! entity:managed_entity! actor:actor"),
    6002: ("Application Lifecycle", "activity_id:integer=0-8|99! app:product!"),
    6003: (
        "API Activity",
        """activity_id:integer=0-4|99! actor:actor! src_endpoint:network_endpoint! api:api! http_request:http_request
        http_response:http_response resources:resource_details[] ai_model:ai_model@ai_operation
        message_context:message_context@ai_operation trace:trace@trace""",
    ),
    6008: ("Application Error", "activity_id:integer=0-2|99!"),
}
OBJECTS = {
    "metadata": "version:text! product:product! event_code:text profiles:text[] correlation_uid:text tenant_uid:text is_truncated:flag",
    "product": "name:text vendor_name:text version:text name+uid",
    "actor": "user:user app_uid:text idp:idp process+user+invoked_by+session+app_name+app_uid",
    "user": """uid:text name:text type_id:integer=0-4|99 type:text domain:text org:organization groups:group[] email_addr:email
        programmatic_credentials:programmatic_credential[] account+name+uid""",
    "organization": "name:text name+uid",
    "group": "name:text type:text name+uid",
    "programmatic_credential": "uid:text! type:text",
    "idp": "uid:text issuer:text name+uid",
    "network_endpoint": "ip:address name:text ip+uid+name+hostname+svc_name+instance_uid+interface_uid+interface_name+domain",
    "api": "operation:text! request:request response:response",
    "request": "uid:text!",
    "response": "code:integer error:text",
    "http_request": "http_method:text=CONNECT|DELETE|GET|HEAD|OPTIONS|PATCH|POST|PUT|TRACE url:url",
    "http_response": "code:integer! latency:integer",
    "url": "path:text url_string+path",
    "resource_details": "name:text type:text role_id:integer=0-4|99 role:text name+uid",
    "ai_model": "name:text! ai_provider:text! name+uid",
    "message_context": """service:service ai_role_id:integer=0-6|99 prompt_tokens:integer completion_tokens:integer total_tokens:integer
        application+service""",
    "service": "name:text name+uid",
    "authorization": "decision:text policy:policy",
    "policy": "name:text type:text name+type+uid",
    "trace": "uid:text!",
    "managed_entity": "uid:text name:text type_id:integer=0-7|99 type:text name+uid+device+group+org+policy+user",
}
CAPTIONS = {
    "severity": {0: "Unknown", 1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical", 6: "Fatal"},
    "status": {0: "Unknown", 1: "Success", 2: "Failure"},
    "action": {0: "Unknown", 1: "Allowed", 2: "Denied"},
    "disposition": {0: "Unknown", 1: "Allowed", 2: "Blocked"},
}
EMAIL = re.compile(r"^[a-zA-Z0-9!#$%&'*+-/=?^_`{|}~.]+@[a-zA-Z0-9-]+\.[a-zA-Z0-9-.]+$")


class Rule(NamedTuple):
    type: str
    many: bool
    values: frozenset[str] | None
    profile: str | None
    required: bool


def rule(text: str) -> Rule:
    match = re.fullmatch(r"(\w+)(\[\])?(?:=([^@!]+))?(?:@(\w+))?(!)?", text)
    assert match is not None, text
    values = None if match[3] is None else frozenset(value for part in match[3].split("|") for value in spread(part))
    return Rule(match[1], match[2] is not None, values, match[4], match[5] is not None)


def spread(part: str) -> Iterator[str]:
    first, dash, last = part.partition("-")
    yield from map(str, range(int(first), int(last) + 1)) if dash else [part]


def violations(event: dict[str, Any]) -> list[str]:
    name, own = CLASSES[event["class_uid"]]
    found = list(object_violations("", event, f"{BASE} {own}", frozenset(event["metadata"].get("profiles", ()))))
    if event["class_name"] != name or event["category_uid"] != event["class_uid"] // 1000:
        found.append("the class has another name or category")
    if event["type_uid"] != event["class_uid"] * 100 + event["activity_id"]:
        found.append("type_uid is not class_uid * 100 + activity_id")
    found += [
        f"{what} is not the caption of {what}_id"
        for what, captions in CAPTIONS.items()
        if f"{what}_id" in event and event[what] != captions.get(event[f"{what}_id"], event[what])
    ]
    return found


def object_violations(place: str, value: dict[str, Any], rules: str, profiles: frozenset[str]) -> Iterator[str]:
    known: dict[str, Rule] = {}
    for word in rules.split():
        if "+" in word:
            if not any(name in value for name in word.split("+")):
                yield f"{place} has none of {word}"
            continue
        name, _, text = word.partition(":")
        known[name] = rule(text)
    yield from (f"{place}.{name} is required" for name, one in known.items() if one.required and name not in value)
    for name, item in value.items():
        if name not in known:
            yield f"{place}.{name} is no attribute"
        elif known[name].profile not in {None, *profiles}:
            yield f"{place}.{name} belongs to a profile that is not named"
        elif known[name].many != isinstance(item, list):
            yield f"{place}.{name} is no list, or should be none"
        else:
            for one in item if known[name].many else [item]:
                yield from value_violations(f"{place}.{name}", one, known[name], profiles)


SCALARS: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "integer": lambda value: type(value) is int and -(2**63) <= value < 2**63,
    "flag": lambda value: type(value) is bool,
    "email": lambda value: isinstance(value, str) and EMAIL.match(value) is not None,
    "address": lambda value: bool(ipaddress.ip_address(value)),
    "any": lambda value: isinstance(value, dict),
}


def value_violations(place: str, value: Any, known: Rule, profiles: frozenset[str]) -> Iterator[str]:
    if known.type in OBJECTS:
        if isinstance(value, dict):
            yield from object_violations(place, cast("dict[str, Any]", value), OBJECTS[known.type], profiles)
        else:
            yield f"{place} is no object"
    elif not SCALARS[known.type](value):
        yield f"{place} is no {known.type}: {value!r}"
    elif known.values is not None and str(value) not in known.values:
        yield f"{place} has a value that the enumeration has not: {value!r}"


ADA = Person(user="ada", email="ada@example.com", address="2001:db8::1", end_user="bob", actors=("agent",), extra={"desk": 4})
KEY = Who(
    tenant="acme",
    realm="keys",
    team="blue",
    org="acme",
    roles=("member",),
    tier="gold",
    method="key",
    credential_id="k1",
    assurance="signed",
)
ANSWERED = Record(
    time=1_700_000_000_123_456,
    kind="request",
    id="0123456789abcdef",
    trace_id="ab" * 16,
    who=KEY,
    person=ADA,
    outcome="allowed",
    protocol="http",
    verb="POST",
    path="/v1/chat/completions",
    operation="chat",
    models=("gpt-4o", "gpt-4o-mini"),
    served="gpt-4o-2024-08-06",
    streaming=True,
    tools=("web_search",),
    decisions=(Decision("keys", "allowed", None, "k1", "retiring_secret"), Decision("rbac", "allowed", rule="member")),
    spent=(10, 20),
    status=200,
    first_byte=12_345,
    duration=99_999,
    end="complete",
    usage=Usage(input=10, output=4, cached_input=2, complete=True),
    charge=Charge(amount=10, model="gpt-4o", rule="gpt-4o*", version="1"),
    reservations=(Reserved(id="r1", estimate={"cost": 5}, left={"team:blue": -1}, settled=True),),
    store_trouble=True,
    extra={"country": "NL"},
)
DENIED = Record(
    time=1,
    kind="request",
    outcome="denied",
    reason="missing_credential",
    layer="keys",
    protocol="http",
    verb="GET",
    path="/v1/models",
    status=401,
    decisions=(Decision("keys", "denied", "missing_credential"),),
)
RECORDS = {
    "answered": ANSWERED,
    "denied": DENIED,
    "failed": Record(time=1, kind="request", outcome="failed", verb="PROPFIND", protocol="http", who=KEY),
    "socket": Record(time=1, kind="request", outcome="allowed", verb="GET", protocol="websocket", status=101, end="client_gone"),
    "client": Record(
        time=1, kind="request", outcome="allowed", verb="DELETE", who=Who(tenant="t", client="c", issuer="https://i", method="jwt")
    ),
    "odd person": Record(
        time=1, kind="request", outcome="allowed", person=Person(user="eve", email="not an address", address="unix:/run/s")
    ),
    "forgotten": Record(time=1, kind="request", outcome="allowed", verb="PUT", who=Who(tenant="t", method="jwt")),
    "intent": Record(time=1, kind="intent", id="1", who=KEY, person=ADA, verb="POST", operation="chat"),
    "policy": Record(time=1, kind="policy", stands=("Stack(KeyAuthMiddleware)",)),
    "loss": Record(time=1, kind="loss", lost=12),
    "checkpoint": Record(time=1, kind="checkpoint", checkpoint=Checkpoint(state="running", previous="0" * 64, key="k", signature="s")),
}
TARGETS = [
    *[("key", "k1"), ("account", "user:ada"), ("account", "end_user:bob"), ("account", "team:blue"), ("account", "org:acme")],
    *[("revocation", "jti:1"), ("ledger", "team:blue"), ("policy", "main")],
]


@pytest.mark.parametrize("record", RECORDS.values(), ids=RECORDS)
def test_every_kind_of_record_is_a_valid_event(record: Record) -> None:
    assert [] == violations(json.loads(encode_ocsf(record)))


@pytest.mark.parametrize("action", ["create", "update", "rotate", "revoke", "block", "unblock", "delete", "acknowledge"])
@pytest.mark.parametrize(("what", "target"), TARGETS)
def test_every_kind_of_change_is_a_valid_event(what: str, target: str, action: str) -> None:
    person = Person(actor="root", changes={"models": [None, ["gpt-4o"]]})
    change = Change(what=what, target=target, action=action, fields=("models",))

    event = json.loads(encode_ocsf(Record(time=1, kind="change", who=Who(tenant="t"), person=person, change=change)))

    assert [] == violations(event)
    assert (3001 if "user:" in target else 3004) == event["class_uid"]
    assert "root" == event["actor"]["user"]["name"]
    assert {"models": [None, ["gpt-4o"]]} == event["unmapped"]["person"]["changes"]


anything = st.text() | st.text(alphabet='\x00\n\x1b\u202e\ud800é😀"\\', max_size=3)


@given(
    st.sampled_from(["request", "intent", "change", "policy", "loss", "checkpoint"]),
    st.builds(Person, user=st.none() | anything, email=st.none() | anything, address=st.none() | anything, actor=st.none() | anything),
    st.builds(Who, tenant=anything, realm=anything, client=st.none() | anything, roles=st.tuples(anything), method=anything),
    st.builds(Change, what=anything, target=anything, action=anything),
    st.none() | anything,
    st.sampled_from(["allowed", "denied", "failed", None]),
)
def test_whatever_texts_a_record_holds_its_event_is_valid_and_one_line_of_printable_ascii(
    kind: RecordKind, person: Person, who: Who, change: Change, text: str | None, outcome: Any
) -> None:
    record = Record(
        time=1, kind=kind, person=person, who=who, change=change, verb=text, path=text, operation=text, reason=text, layer=text,
        outcome=outcome, extra={"x": text}, models=(text or "m",), served=text,
    )  # fmt: skip

    line = encode_ocsf(record)

    assert re.fullmatch(rb"[ -~]+\}\}", line)
    assert [] == violations(json.loads(line))


@pytest.mark.parametrize("text", ["é\n", "😀", "\\"])
def test_endless_texts_in_every_field_leave_a_valid_event_that_says_that_it_was_cut(text: str) -> None:
    long = text * 20_000
    record = Record(
        time=1, kind="request", outcome="denied", verb=long, path=long, operation=long, layer=long, models=(long,) * 20, tools=(long,) * 20,
        decisions=(Decision(long, long, long, long, long, long),) * 50, extra=dict.fromkeys(map(str, range(40)), long), served=long,
        person=Person(user=long, email=long, address="192.0.2.1", actors=(long,) * 20, changes={"a": [long] * 20}),
        who=Who(tenant=long, team=long, roles=(long,) * 20, issuer=long, client=long, method=long),
    )  # fmt: skip

    line = encode_ocsf(record)

    event = json.loads(line)
    assert 60_000 >= len(line)
    assert event["metadata"]["is_truncated"]
    assert [] == violations(event)
    assert line.endswith(b"}}")
    assert ("request", 1) == (event["unmapped"]["kind"], event["unmapped"]["time"])


def test_values_that_json_has_not_become_ones_that_it_has() -> None:
    record = Record(
        time=1,
        kind="change",
        person=Person(changes={"a": [object(), float("nan"), 2**70]}),
        change=Change(what="key", target="k", action="x"),
    )

    event = json.loads(encode_ocsf(record))

    assert [] == violations(event)
    assert ["(object)", 1180591620717411303424] != event["unmapped"]["person"]["changes"]["a"]
    assert "(object)" == event["unmapped"]["person"]["changes"]["a"][0]


def test_a_request_says_who_did_what_with_which_model_and_what_became_of_it() -> None:
    event = ocsf(ANSWERED)

    assert (6003, 1, 600_301) == (event["class_uid"], event["activity_id"], event["type_uid"])
    assert ("ada", "keys", "ada@example.com") == tuple(event["actor"]["user"][name] for name in ("uid", "domain", "email_addr"))
    assert [{"name": "blue", "type": "team"}, {"name": "member", "type": "role"}] == event["actor"]["user"]["groups"]
    assert [{"uid": "k1", "type": "key"}] == event["actor"]["user"]["programmatic_credentials"]
    assert {"ip": "2001:db8::1"} == event["src_endpoint"]
    assert {"http_method": "POST", "url": {"path": "/v1/chat/completions"}} == event["http_request"]
    assert {"code": 200, "latency": 12} == event["http_response"]
    assert (1_700_000_000_123, 1_700_000_000_223, 99) == (event["time"], event["end_time"], event["duration"])
    assert ["gpt-4o", "gpt-4o-mini", "web_search"] == [resource["name"] for resource in event["resources"]]
    assert "gpt-4o-2024-08-06" == event["ai_model"]["name"]
    assert (10, 4, 14) == tuple(event["message_context"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    assert [("allowed", "keys"), ("allowed", "member")] == [(one["decision"], one["policy"]["name"]) for one in event["authorizations"]]
    assert ("0123456789abcdef", "acme") == (event["metadata"]["correlation_uid"], event["metadata"]["tenant_uid"])
    assert llm_authmw.__version__ == event["metadata"]["product"]["version"]
    assert {"uid": "ab" * 16} == event["trace"]


def test_what_has_no_place_in_the_schema_is_kept_by_its_own_name_and_exact() -> None:
    unmapped = json.loads(encode_ocsf(ANSWERED))["unmapped"]

    assert (1_700_000_000_123_456, 12_345, 99_999) == (unmapped["time"], unmapped["first_byte"], unmapped["duration"])
    assert {"tier": "gold", "method": "key", "assurance": "signed"} == unmapped["who"]
    assert {"end_user": "bob", "actors": ["agent"], "extra": {"desk": 4}} == unmapped["person"]
    assert {"cached_input": 2, "complete": True} == unmapped["usage"]
    assert "retiring_secret" == unmapped["decisions"][0]["mark"]
    assert {"amount": 10, "model": "gpt-4o", "rule": "gpt-4o*", "version": "1"} == unmapped["charge"]
    assert [{"id": "r1", "estimate": {"cost": 5}, "left": {"team:blue": -1}, "settled": True}] == unmapped["reservations"]
    assert ({"country": "NL"}, True, True) == (unmapped["extra"], unmapped["streaming"], unmapped["store_trouble"])


def test_a_denial_says_so_with_its_reason() -> None:
    event = ocsf(DENIED)

    assert (2, "Denied", 2, "Blocked") == (event["action_id"], event["action"], event["disposition_id"], event["disposition"])
    assert (2, "missing_credential") == (event["status_id"], event["status_code"])
    assert {"code": 401, "error": "missing_credential"} == event["api"]["response"]
    assert "anonymous" == event["actor"]["user"]["name"]
    assert ANSWERED_SEVERITY < event["severity_id"] < ocsf(RECORDS["failed"])["severity_id"]


ANSWERED_SEVERITY = ocsf(ANSWERED)["severity_id"]


def test_an_event_carries_its_place_in_a_chain_that_is_over_the_event() -> None:
    chain = Chain(format="ocsf")

    entries = chain.link_all([ANSWERED, DENIED])

    previous = bytes(32)
    for entry in entries:
        event = json.loads(entry.line)
        assert [] == violations(event)
        place = event["unmapped"].pop("chain")
        previous = link_hash(previous, place["writer"].encode(), place["sequence"], entry.sealed)
        assert previous.hex() == place["hash"]
        assert json.loads(entry.sealed) == event
        assert entry.person is None
