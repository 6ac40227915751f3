from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.ledger.buckets import SECOND
from llm_authmw.limits.holders import MAX_REMEMBERED
from llm_authmw.limits.model_groups import ModelGroups
from llm_authmw.limits.plan import Asked, Counted, Plan, buckets_of
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.quota import Budget, Limit
from llm_authmw.testing import ManualClock, fake_principal

ADA = fake_principal("ada", realm="staff", team="blue", org="acme", method="jwt")
START = 1_800_000_000.0


def plan(limits: Any = None, *, quota: Any = Limit, **options: Any) -> Plan:
    given: dict[str, Any] = {"clock": ManualClock(START)} | options
    return Plan(quota=quota, limits=limits, **given)


def asked(principal: Principal = ADA, *models: str, tier: str | None = None, end_user: str | None = None) -> Asked:
    call = LLMCall(dialect="openai", operation="chat", models=models, end_user=end_user)
    return Asked(principal, tier, call, "POST", "/v1/chat/completions", "chat")


def amounts(counted: tuple[Counted, ...]) -> dict[str, int]:
    return {one.bucket.name: one.bucket.limit for one in counted}


def found(plan: Plan, asked: Asked, *accounts: AccountRecord) -> dict[str, int]:
    return amounts(plan.counted(asked, accounts))


def account(kind: Any, name: str, realm: str = "", **fields: Any) -> AccountRecord:
    return AccountRecord(kind=kind, name=name, realm=realm, created_at=0, **fields)


@pytest.mark.parametrize(
    ("options", "option", "problem"),
    [
        ({"limits": ["60 requests/minute"]}, "limits", "takes scopes and lists"),
        ({"limits": {"team": "60 requests/minute"}}, "limits", "where a list is expected"),
        ({"limits": {"team": []}}, "limits", "where a list is expected"),
        ({"limits": {"team": ["60 requests"]}}, "limits", "needs a window"),
        ({"limits": {"team": [Budget(amount=1)]}}, "limits", "no Limit"),
        ({"limits": {"team": [60]}}, "limits", "no Limit"),
        ({"limits": {"team": ["60 requests/minute", "5 requests/minute"]}}, "limits", "same kind and window"),
        ({"limits": {"team": ["60 requests/minute", "5 requests/minute, calendar"]}}, "limits", "same kind and window"),
        ({"limits": {"teams": ["60 requests/minute"]}}, "limits", "nothing that is counted by"),
        ({"limits": {1: ["60 requests/minute"]}}, "limits", "nothing that is counted by"),
        ({"limits": {"team+model": ["4 concurrent"], "model+team": ["5 concurrent"]}}, "limits", "twice"),
        ({"limits": {"end_user": ["5 requests/minute"]}}, "limits", "whatever the caller names"),
        ({"limits": {"team+end_user": ["5 requests/minute"], "tag": ["4 concurrent"]}}, "limits", "whatever the caller names"),
        ({"tiers": {"silver": {"end_user": ["5 requests/minute"]}}}, "tiers['silver']", "whatever the caller names"),
        ({"tiers": ["silver"]}, "tiers", "takes names and limits"),
        ({"tiers": {"": ["4 concurrent"]}}, "tiers", "is empty"),
        ({"tiers": {2: ["4 concurrent"]}}, "tiers", "is not a text"),
        ({"tiers": {"silver": "4 concurrent"}}, "tiers['silver']", "where a list is expected"),
        ({"tiers": {"silver": ["4 at once"]}}, "tiers['silver']", "not a limit"),
        ({"model_groups": {"cheap": ["a"]}}, "model_groups", "by which nothing is counted"),
        ({"limits": {"model_group:cheap": ["4 concurrent"]}, "model_groups": {"cheap": ["a"], "dear": ["b"]}}, "model_groups", "'dear'"),
        ({"limits": {"model_group:cheap": ["4 concurrent"]}}, "limits", "not in model_groups"),
        ({"missing": "allow"}, "missing", "'deny' or 'skip'"),
    ],
    ids=str,
)
def test_a_plan_that_is_wrong_or_would_be_ignored_is_refused(options: Mapping[str, Any], option: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Plan(quota=Limit, **options)
    assert option == caught.value.option
    assert problem in caught.value.problem


def test_a_tier_that_is_not_defined_denies() -> None:
    for principal, tier in ((fake_principal(tier="gold"), None), (fake_principal(tier="gold"), "silver"), (ADA, "gold")):
        with pytest.raises(Denial) as caught:
            plan(tiers={"silver": ["4 concurrent"]}).counted(asked(principal, tier=tier), ())
        assert ("tier_unknown", "gold") == (caught.value.reason, caught.value.rule)


def test_tiers_are_no_matter_of_a_plan_that_is_given_none() -> None:
    assert {} == found(plan(), asked(fake_principal(tier="gold"), tier="silver"))


@pytest.mark.parametrize("scope", ["team", "team+model", "user", "end_user"])
def test_what_is_missing_denies_unless_the_limit_is_to_be_skipped(scope: str) -> None:
    nobody = Principal(client="ci", method="jwt")
    limits = {scope: ["4 concurrent"], "caller": ["9 concurrent"]}
    with pytest.raises(Denial) as caught:
        plan(limits).counted(asked(nobody, "gpt-4o"), ())
    assert ("limit_dimension_missing", scope) == (caught.value.reason, caught.value.rule)
    assert {"caller:/client%3Aci / concurrent": 9} == found(plan(limits, missing="skip"), asked(nobody, "gpt-4o"))


def test_nobody_is_counted_by_who_is_calling() -> None:
    with pytest.raises(Denial, match="limit_dimension_missing"):
        plan({"caller": ["4 concurrent"]}).counted(asked(ANONYMOUS), ())
    assert {"global / concurrent": 4} == found(plan({"global": ["4 concurrent"]}), asked(ANONYMOUS))


def test_more_buckets_than_one_request_may_be_counted_in_are_refused() -> None:
    limits = {"model": ["60 requests/minute"], "team": ["4 concurrent"]}
    assert 64 == len(plan(limits).counted(asked(ADA, *(f"m{number}" for number in range(63))), ()))
    for models in (64, 1000):
        with pytest.raises(Denial) as caught:
            plan(limits).counted(asked(ADA, *(f"m{number}" for number in range(models))), ())
        assert "limits_too_many" == caught.value.reason
    own = tuple(Limit(amount=n, unit="requests", window="day", calendar=True) for n in range(1, 3))
    assert 1 == len(plan().counted(asked(fake_principal(limits=list(own))), ()))


def test_the_names_of_buckets_say_whose_what_and_over_which_window() -> None:
    limits = {
        "team": ["60 requests/minute", "1000 tokens/day, calendar", "4 concurrent"],
        "team+model": ["9 output tokens/hour"],
        "global": ["9 requests/year, calendar"],
    }
    counted = plan(limits).counted(asked(ADA, "gpt-4o"), ())
    assert {
        "team:blue / requests / minute rolling": 60,
        "team:blue / tokens / day": 1000,
        "team:blue / concurrent": 4,
        "team:blue+model:gpt-4o / output tokens / hour rolling": 9,
        "global / requests / year": 9,
    } == amounts(counted)
    assert {"default", "*"} == {one.bucket.tenant for one in counted}
    assert ["*"] == [one.bucket.tenant for one in counted if one.scope.tenantless]
    assert ["rolling", "window", "lease", "window", "rolling"] == [one.bucket.kind for one in counted]
    assert [1] * 5 == [one.one.amount for one in counted]
    assert all(one.one.bucket is one.bucket for one in counted)


def test_budgets_name_their_first_day_and_their_zone() -> None:
    limits = {
        "team": ["500 usd/month, starts 15", "100 usd", "20 usd/day, timezone Europe/Berlin"],
        "org": ["1 usd/year, starts 2, timezone Asia/Kathmandu"],
    }
    assert [
        "team:blue / nano_usd / month from 15",
        "team:blue / nano_usd / ever",
        "team:blue / nano_usd / day Europe/Berlin",
        "org:acme / nano_usd / year from 2 Asia/Kathmandu",
    ] == list(found(plan(limits, quota=Budget), asked()))


# What holds where several say something.


def test_own_limits_of_a_key_go_by_key_and_of_anybody_else_by_caller() -> None:
    key = fake_principal("ada", method="key", credential_id="k1", limits=["5 requests/minute"])
    assert {"key:k1 / requests / minute rolling": 5} == found(plan(), asked(key))
    person = fake_principal("ada", realm="staff", method="jwt", limits=["5 requests/minute"])
    assert {"caller:staff/ada / requests / minute rolling": 5} == found(plan(), asked(person))


def test_an_own_limit_replaces_the_layers_of_the_same_scope_measure_and_window_and_others_add() -> None:
    limits = {"key": ["60 requests/minute", "100 requests/day", "4 concurrent"], "user": ["7 requests/minute"]}
    key = fake_principal("ada", realm="keys", method="key", credential_id="k1", limits=["600 requests/minute, calendar", "9 tokens/minute"])
    assert {
        "key:k1 / requests / minute": 600,
        "key:k1 / requests / day rolling": 100,
        "key:k1 / concurrent": 4,
        "key:k1 / tokens / minute rolling": 9,
        "user:keys/ada / requests / minute rolling": 7,
    } == found(plan(limits), asked(key))


def test_limits_of_accounts_replace_the_layers_and_a_scope_with_a_value_one_without() -> None:
    limits = {"team": ["60 requests/minute", "4 concurrent"], "team:blue": ["90 requests/minute"], "org": ["1 concurrent"]}
    assert {
        "team:blue / requests / minute rolling": 90,
        "team:blue / concurrent": 4,
        "org:acme / concurrent": 1,
    } == found(plan(limits), asked())
    blue = account("team", "blue", limits=(Limit.parse("5 requests/minute"),))
    acme = account("org", "acme", limits=(Limit.parse("50 concurrent"), Limit.parse("7 tokens/day")))
    ada = account("user", "ada", "staff", limits=(Limit.parse("3 concurrent"),), budgets=(Budget.parse("1 usd"),))
    assert {
        "team:blue / requests / minute rolling": 5,
        "team:blue / concurrent": 4,
        "org:acme / concurrent": 50,
        "org:acme / tokens / day rolling": 7,
        "user:staff/ada / concurrent": 3,
    } == found(plan(limits), asked(), blue, acme, ada)
    assert {"user:staff/ada / nano_usd / ever": 10**9} == found(plan(quota=Budget), asked(), blue, acme, ada)


def test_a_model_with_a_limit_of_its_own_is_not_held_to_that_of_every_model() -> None:
    limits = {"model": ["10 requests/minute"], "model:o3": ["99 requests/minute"], "model:gpt-4o*": ["20 requests/minute"]}
    assert {"model:o3 / requests / minute rolling": 99} == found(plan(limits), asked(ADA, "o3"))
    assert {"model:gpt-4o-mini / requests / minute rolling": 10, "model:gpt-4o* / requests / minute rolling": 20} == found(
        plan(limits), asked(ADA, "gpt-4o-mini")
    )


def test_a_tier_goes_before_the_layer_and_the_callers_own_tier_before_its_roles() -> None:
    tiers = {"silver": ["60 requests/minute", "4 concurrent"], "gold": {"caller": ["600 requests/minute"], "team": ["9 concurrent"]}}
    limits = {"caller": ["1 requests/minute", "2 requests/day"], "team": ["1 concurrent"]}
    both = plan(limits, tiers=tiers)
    mine = "caller:staff/ada / "
    assert {mine + "requests / minute rolling": 1, mine + "requests / day rolling": 2, "team:blue / concurrent": 1} == found(both, asked())
    silver = {
        mine + "requests / minute rolling": 60,
        mine + "requests / day rolling": 2,
        mine + "concurrent": 4,
        "team:blue / concurrent": 1,
    }
    assert silver == found(both, asked(tier="silver"))
    gold = fake_principal("ada", realm="staff", team="blue", method="jwt", tier="gold")
    assert {mine + "requests / minute rolling": 600, mine + "requests / day rolling": 2, "team:blue / concurrent": 9} == found(
        both, asked(gold, tier="silver")
    )
    assert frozenset({"silver", "gold"}) == both.tiers


def test_of_two_of_the_same_rank_on_one_bucket_the_smaller_holds() -> None:
    own = fake_principal(limits=["60 requests/minute, burst 5", "90 requests/minute, burst 3"])
    counted = plan().counted(asked(own), ())
    assert [(60, 3)] == [(one.bucket.limit, one.bucket.burst) for one in counted]
    budgets = fake_principal(budgets=["9 usd/day", "5 usd/day, soft 50%"])
    assert [5 * 10**9] == [one.bucket.limit for one in plan(quota=Budget).counted(asked(budgets), ())]


# Time.


def test_an_increase_counts_until_it_ends() -> None:
    clock = ManualClock(START)
    until = int(START) + 100
    caller = fake_principal(budgets=[Budget(amount=10, window="month", plus=5, until=until)])
    budgets = plan(quota=Budget, clock=clock)
    assert [15] == [one.bucket.limit for one in budgets.counted(asked(caller), ())]
    clock.advance(99.5)
    assert [15] == [one.bucket.limit for one in budgets.counted(asked(caller), ())]
    clock.advance(0.5)
    assert [10] == [one.bucket.limit for one in budgets.counted(asked(caller), ())]


def test_a_calendar_bucket_moves_on_with_its_window() -> None:
    clock = ManualClock(START)
    limits = plan({"team": ["9 requests/minute, calendar"]}, clock=clock)
    (one,) = limits.counted(asked(), ())
    span = one.bucket.span_at(int(START * SECOND))
    assert span is not None
    clock.advance(span.end / SECOND - START)
    (other,) = limits.counted(asked(), ())
    assert span.end == other.bucket.spans[3].start
    assert one.bucket.ref == other.bucket.ref


# What is remembered.


def test_a_warm_answer_is_the_very_same_object_until_something_changes() -> None:
    limits = plan({"team+model": ["4 concurrent"], "caller": ["9 concurrent"]})
    first = limits.counted(asked(ADA, "gpt-4o"), ())
    assert first is limits.counted(asked(ADA, "gpt-4o"), ())
    assert first is not limits.counted(asked(ADA, "o3"), ())
    blue = account("team", "blue", limits=(Limit.parse("9 tokens/minute"),))
    assert 3 == len(limits.counted(asked(ADA, "gpt-4o"), (blue,)))
    assert 2 == len(limits.counted(asked(ADA, "gpt-4o"), ()))


def test_what_is_remembered_of_one_request_is_not_taken_for_another() -> None:
    covered = plan({"route:POST /v1/**": ["4 concurrent"]})

    def count(of: Plan, path: str, operation: str = "chat", **given: Any) -> int:
        call = LLMCall(dialect="openai", operation=operation, **given)
        return len(of.counted(Asked(ADA, None, call, "POST", path, operation), ()))

    assert [1, 0, 1] == [count(covered, path) for path in ("/v1/chat/completions", "/chat/completions", "/v1/chat/completions")]
    by_model = plan({"model": ["4 concurrent"]}, missing="skip")
    assert [1, 0, 1] == [count(by_model, "/x", models=models) for models in (("a",), (), ("b",))]
    assert [1, 0] == [count(by_model, "/x", models=("a",), leaves_choice=choice) for choice in (False, True)]
    denying = plan({"model": ["4 concurrent"]})
    assert 0 == count(denying, "/feedback", UNLISTED, needs_model=False)
    with pytest.raises(Denial, match="limit_dimension_missing"):
        count(denying, "/v1/chat/completions2", UNLISTED, needs_model=False)


def test_callers_cannot_make_the_plan_remember_without_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_authmw.limits.plan.MAX_HOLDERS", 100)
    limits = plan({"model": ["4 concurrent"], "caller": ["9 concurrent"]})
    holder = limits.holder(ADA, None, ())
    for number in range(300):
        limits.counted(asked(fake_principal(f"u{number}"), "gpt-4o"), ())
    for number in range(200):
        holder.counted(asked(ADA, f"m{number}"))
    assert len(holder._remembered) <= MAX_REMEMBERED
    assert 90 < len(limits._holders) <= 100


def test_callers_cannot_make_the_groups_remember_without_bound() -> None:
    groups = ModelGroups({"all": ["*"]})
    for number in range(5000):
        assert ("all",) == groups.of(f"m{number}")
    assert len(groups._remembered) <= 4096


def test_a_holder_says_what_has_to_be_known() -> None:
    both = plan({"team+model": ["4 tokens/minute"], "caller": ["9 concurrent"]}, tiers={"t": {"address": ["4 concurrent"]}})
    assert (True, True, True) == (both.needs_call, both.needs_address, both.needs_caller)
    assert ["concurrent", "tokens"] == sorted(both.measures)
    holder = both.holder(ADA, None, ())
    assert (True, False, ["concurrent", "tokens"]) == (holder.needs_call, holder.needs_address, sorted(holder.measures))
    assert both.holder(ADA, "t", ()).needs_address
    own = plan().holder(fake_principal(limits=["9 input tokens/minute"]), None, ())
    assert (False, False, ["input tokens"]) == (own.needs_call, own.needs_address, sorted(own.measures))


@given(
    st.lists(st.sampled_from(["team", "caller", "user", "org", "model", "team+model", "address", "global"]), unique=True, max_size=6),
    st.data(),
)
def test_adding_a_limit_never_takes_one_away(scopes: list[str], data: st.DataObject) -> None:
    limits = {scope: [f"{data.draw(st.integers(1, 99))} requests/minute"] for scope in scopes}
    more = {**limits, "org+model": ["5 concurrent"], "tenant": ["6 requests/hour"]}
    ask = Asked(ADA, None, asked(ADA, "gpt-4o").call, "POST", "/v1/chat/completions", "chat", None)
    fewer = found(plan(limits, missing="skip"), ask)
    assert fewer.items() <= found(plan(more, missing="skip"), ask).items()
    assert len(fewer) == len(scopes) - ("address" in scopes)


def test_a_plan_prints_its_limits() -> None:
    assert "team=['60 requests/minute', '4 concurrent']" == repr(plan({"team": ["60 requests/minute", "4 concurrent"]}))


def test_the_buckets_of_a_callers_own_limits_are_those_that_every_plan_counts_in() -> None:
    budgets = (Budget.parse("5 usd/day, timezone Asia/Tokyo"), Budget.parse("9 usd"))
    caller = fake_principal("ada", realm="staff", team="blue", method="jwt", budgets=budgets, limits=["4 concurrent"])
    accounts = [account("team", "blue", budgets=(Budget.parse("9 usd/month, starts 15"),)), account("user", "ada", "staff")]
    clock = ManualClock(START)

    own = buckets_of(caller, accounts, Budget, clock=clock)

    assert [one.bucket for one in plan(quota=Budget).counted(asked(caller), accounts)] == [one.bucket for one in own]
    assert [*budgets, *accounts[0].budgets] == [one.quota for one in own]
    assert ["4 concurrent"] == [str(one.quota) for one in buckets_of(caller, accounts, Limit, clock=clock)]


def test_accounts_have_their_buckets_without_a_caller() -> None:
    org = account("org", "acme", tenant="t1", limits=(Limit.parse("60 requests/minute"),))

    (bucket,) = [one.bucket for one in buckets_of(msgspec.structs.replace(ANONYMOUS, tenant="t1"), [org], Limit)]
    assert ("t1", "org:acme / requests / minute rolling") == bucket.ref
