import copy
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from llm_authmw.context import CONTEXT_KEY, Decision, RequestContext, current_principal, publish, unpublish
from llm_authmw.errors import Denial
from llm_authmw.network import TrustedProxies
from llm_authmw.principal import ANONYMOUS, Principal

pytestmark = pytest.mark.anyio

ALICE = Principal(user="alice", method="key", scopes=("llm:use",), credential_id="k1")
BOB = Principal(user="bob", method="key", credential_id="k2")


def scope(**changes: Any) -> dict[str, Any]:
    return {"type": "http", "path": "/", "headers": [], "client": ("10.0.0.1", 1), **changes}


# The context.


@pytest.mark.parametrize("copied", [dict, copy.copy, copy.deepcopy], ids=["dict", "copy", "deepcopy"])
def test_what_an_inner_layer_writes_into_a_copied_scope_an_outer_one_reads(copied: Callable[[Any], Any]) -> None:
    outer = scope()
    context = RequestContext.of(outer)
    inner = copied(outer)
    assert context is RequestContext.of(inner) is copied({"context": context})["context"] is copy.copy(context)
    RequestContext.of(inner).principal = ALICE
    RequestContext.of(inner).decided(Decision("keys", "allowed"))
    assert ALICE is RequestContext.of(outer).principal
    assert [Decision("keys", "allowed")] == context.decisions


def test_the_first_layer_opens_the_context_and_every_other_one_finds_it() -> None:
    request = scope()
    context = RequestContext.of(request)
    assert context is request[CONTEXT_KEY] is RequestContext.of(request)
    assert (ANONYMOUS, [], None, None) == (context.principal, context.decisions, context.denial, context.authentication)


def test_two_requests_share_nothing() -> None:
    one, other = RequestContext.of(scope()), RequestContext.of(scope())
    one.decided(Decision("keys", "passed"))
    assert [] == other.decisions
    assert one != other
    assert one.request_id != other.request_id


def test_a_request_id_is_ours_and_stays_the_same() -> None:
    request = scope(headers=[(b"x-request-id", b"chosen-by-the-client")])
    context = RequestContext.of(request)
    assert 16 == len(context.request_id)
    assert int(context.request_id, 16) >= 0
    assert context.request_id == context.request_id == RequestContext.of(dict(request)).request_id
    assert 1000 == len({RequestContext().request_id for _ in range(1000)})


def test_the_address_of_the_client_is_the_peer_where_no_proxy_is_trusted() -> None:
    request = scope(headers=[(b"x-forwarded-for", b"203.0.113.7")])
    assert "10.0.0.1" == str(RequestContext.of(request).client_address(request))


def test_the_address_of_the_client_is_resolved_once_for_all_layers() -> None:
    request = scope(headers=[(b"x-forwarded-for", b"203.0.113.7")])
    context = RequestContext.of(request, TrustedProxies(["10.0.0.0/8"]))
    assert "203.0.113.7" == str(context.client_address(request))
    # A layer in between that strips or adds a header changes nothing any more.
    assert "203.0.113.7" == str(context.client_address(scope(headers=[(b"x-forwarded-for", b"198.51.100.9")])))


def test_an_unknown_address_is_resolved_once_too() -> None:
    context = RequestContext()
    assert context.client_address(scope(client=None)) is None
    assert context.client_address(scope()) is None


def test_the_outermost_setting_of_trusted_proxies_counts() -> None:
    request = scope(headers=[(b"x-forwarded-for", b"203.0.113.7")])
    RequestContext.of(request, TrustedProxies(["10.0.0.0/8"]))
    context = RequestContext.of(request, TrustedProxies(["192.0.2.0/24"]))
    assert "203.0.113.7" == str(context.client_address(request))


def test_an_address_that_was_resolved_without_the_setting_is_resolved_again_with_it() -> None:
    request = scope(headers=[(b"x-forwarded-for", b"203.0.113.7")])
    assert "10.0.0.1" == str(RequestContext.of(request).client_address(request))
    assert "203.0.113.7" == str(RequestContext.of(request, TrustedProxies(["10.0.0.0/8"])).client_address(request))


def test_a_denial_is_recorded_by_ids_and_codes_only(caplog: pytest.LogCaptureFixture) -> None:
    context = RequestContext()
    denial = Denial("key_blocked", layer="KeyAuthMiddleware", rule="rule text", need="need text", challenges=("challenge text",))
    with caplog.at_level(logging.INFO, logger="llm_authmw"):
        context.record(denial, credential_id="k1", mark="retiring_secret")
    assert [Decision("KeyAuthMiddleware", "denied", "key_blocked", "k1", "retiring_secret", "rule text")] == context.decisions
    assert [f"request {context.request_id} denied by KeyAuthMiddleware: key_blocked (credential k1)"] == caplog.messages


def test_a_log_that_nobody_reads_is_not_written(caplog: pytest.LogCaptureFixture) -> None:
    context = RequestContext()
    with caplog.at_level(logging.WARNING, logger="llm_authmw"):
        context.record(Denial("key_blocked", layer="keys"))
    assert [] == caplog.messages
    assert [Decision("keys", "denied", "key_blocked")] == context.decisions


def test_the_context_prints_who_is_calling_and_no_more() -> None:
    context = RequestContext()
    context.principal = Principal(user="alice", email="alice@example.com", method="key", claims=(("secret", "claim"),))
    assert f"RequestContext(request_id={context.request_id!r}, subject='alice')" == repr(context)


# Publishing.


def test_the_principal_stands_where_the_frameworks_look() -> None:
    request = scope()
    token = publish(request, ALICE)
    try:
        assert ALICE is request["user"] is request["state"]["principal"] is current_principal()
        assert ["llm:use"] == request["auth"].scopes
    finally:
        unpublish(token)


def test_scopes_that_a_handler_adds_are_not_granted_to_the_next_request() -> None:
    first, second = scope(), scope()
    for request in (first, second):
        unpublish(publish(request, ALICE))
    first["auth"].scopes.append("admin")
    assert ["llm:use"] == second["auth"].scopes
    assert ("llm:use",) == ALICE.scopes


@pytest.mark.parametrize("state", [{}, {"pool": 1}, None])
def test_a_lifespan_state_that_all_requests_share_is_not_written_into(state: dict[str, Any] | None) -> None:
    request = scope(state=state)
    before = copy.copy(state)
    unpublish(publish(request, ALICE))
    assert before == state
    assert {**(state or {}), "principal": ALICE} == request["state"]


def test_the_principal_is_gone_when_the_request_is() -> None:
    outer = publish(scope(), ALICE)
    inner = publish(scope(), BOB)
    assert BOB is current_principal()
    unpublish(inner)
    assert ALICE is current_principal()
    unpublish(outer)
    with pytest.raises(LookupError, match=r"^current_principal\(\) was called outside a request"):
        current_principal()


async def test_requests_at_the_same_time_see_their_own_principal() -> None:
    seen: dict[str, str] = {}
    both_published = anyio.Event()

    async def call_for(principal: Principal) -> None:
        token = publish(scope(), principal)
        try:
            if principal is BOB:
                both_published.set()
            await both_published.wait()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(note, principal.subject)
        finally:
            unpublish(token)

    async def note(subject: str) -> None:
        seen[subject] = current_principal().subject

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call_for, ALICE)
        tasks.start_soon(call_for, BOB)
    assert {"alice": "alice", "bob": "bob"} == seen
    with pytest.raises(LookupError):
        current_principal()
