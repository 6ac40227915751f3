import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.limits.asked import Asked
from llm_authmw.limits.dimensions import DIMENSIONS, own_subject
from llm_authmw.limits.model_groups import ModelGroups
from llm_authmw.limits.scopes import Scope
from llm_authmw.network import parse_address
from llm_authmw.principal import ANONYMOUS, Principal
from llm_authmw.testing import fake_principal

ADA = fake_principal("ada", realm="staff", team="blue", org="acme", tenant="t1", tags=["batch", "night"], method="jwt")
GROUPS = ModelGroups({"cheap": ["gpt-4o-mini", "haiku*"], "small": ["gpt-4o-mini"], "rest": ["*", "!gpt-*", "!haiku*"]})
NAMES = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


def call(*models: str, **given: Any) -> LLMCall:
    return LLMCall(dialect="openai", operation="chat", models=models, **given)


def asked(
    principal: Principal = ADA,
    asking: LLMCall | None = None,
    target: str = "POST /v1/chat/completions",
    *,
    address: str | None = "192.0.2.7",
) -> Asked:
    method, _, path = target.partition(" ")
    operation = "chat" if asking is None else asking.operation
    return Asked(principal, None, asking, method, path, operation, None if address is None else parse_address(address))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "'' is nothing that is counted by"),
        ("teams", "'teams' is nothing"),
        ("Team", "'Team' is nothing"),
        ("team +model", "'team ' is nothing"),
        ("team++model", "'' is nothing"),
        ("team+team", "twice"),
        ("team+team:blue", "twice"),
        ("team:", "the value is empty"),
        ("team: blue", "the value begins or ends with a blank"),
        ("team:bl\nue", "does not print"),
        ("team:100%", "'%25' in place of '%'"),
        ("team:a%2Fb", "'%25' in place of '%'"),
        ("global:all", "global has no value"),
        ("key:k1", "limits of its own"),
        ("user:ada", "limits of its own"),
        ("caller:ada", "limits of their own"),
        ("member:blue", "team:NAME"),
        ("model:!gpt-4o", "excludes"),
        ("model:gpt-*-mini", "one '*' at its end"),
        ("model_group:cheap", "not in model_groups"),
        ("route:v1", "begins with '/'"),
        ("route:BREW /v1", "not a method"),
        ("address:10.0.0.1/8", "host bits"),
        ("address:here", "not a network"),
    ],
)
def test_what_is_no_scope_is_refused_with_what_was_expected(text: str, problem: str) -> None:
    with pytest.raises(InvalidValueError, match=re.escape(problem)):
        Scope.parse(text)


@pytest.mark.parametrize("groups", [[], {"": ["a"]}, {"a": "gpt-4o"}, {"a": []}, {"a": ["g*t"]}, {1: ["a"]}, {"a": None}], ids=repr)
def test_model_groups_outside_their_grammar_are_refused(groups: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ModelGroups(groups)
    assert caught.value.option.startswith("model_groups")


@pytest.mark.parametrize("text", ["model+team", "team+model"])
def test_the_order_of_the_words_makes_no_difference(text: str) -> None:
    assert "team+model" == Scope.parse(text).text
    assert ("team", "model") == Scope.parse(text).dimensions
    assert "team and model" == Scope.parse(text).words


@given(st.sampled_from(["team", "org", "tenant", "tag", "end_user"]), NAMES)
def test_the_text_of_a_scope_with_any_name_reads_as_the_same_scope(dimension: str, name: str) -> None:
    text = f"{dimension}:{name.replace('%', '%25').replace('+', '%2B')}"
    assert text == Scope.parse(text).text


@pytest.mark.parametrize(
    ("text", "subjects"),
    [
        ("global", ("global",)),
        ("tenant", ("tenant:t1",)),
        ("org", ("org:acme",)),
        ("team", ("team:blue",)),
        ("member", ("member:blue/staff/ada",)),
        ("user", ("user:staff/ada",)),
        ("caller", ("caller:staff/ada",)),
        ("tag", ("tag:batch", "tag:night")),
        ("end_user", ("end_user:bob",)),
        ("model", ("model:gpt-4o-mini",)),
        ("model_group", ("model_group:cheap", "model_group:small")),
        ("route", ("route:chat",)),
        ("address", ("address:192.0.2.7",)),
        ("team+model", ("team:blue+model:gpt-4o-mini",)),
        ("team+tag", ("team:blue+tag:batch", "team:blue+tag:night")),
        ("global+model", ("global+model:gpt-4o-mini",)),
        ("team:blue", ("team:blue",)),
        ("team:red", ()),
        ("team:red+model", ()),
        ("tag:batch", ("tag:batch",)),
        ("tag:day", ()),
        ("tenant:t1", ("tenant:t1",)),
        ("tenant:t2", ()),
        ("end_user:bob", ("end_user:bob",)),
        ("end_user:eve", ()),
        ("model:gpt-4o*", ("model:gpt-4o*",)),
        ("model:GPT-4o*", ("model:gpt-4o*",)),
        ("model:o3", ()),
        ("model_group:cheap", ("model_group:cheap",)),
        ("model_group:rest", ()),
        ("route:POST /v1/**", ("route:POST %2Fv1%2F**",)),
        ("route:GET /v1/**", ()),
        ("address:192.0.2.0/24", ("address:192.0.2.0%2F24",)),
        ("address:10.0.0.0/8", ()),
        # A limit per key binds keys only.
        ("key", ()),
        ("key+model", ()),
    ],
)
def test_a_request_is_counted_by(text: str, subjects: tuple[str, ...]) -> None:
    assert subjects == Scope.parse(text, GROUPS).subjects(asked(asking=call("GPT-4o-mini", end_user="bob")))


@pytest.mark.parametrize("text", sorted(DIMENSIONS.keys() - {"global", "route"}))
def test_what_a_nobody_does_not_name_is_missing(text: str) -> None:
    scope = Scope.parse(text, GROUPS)
    assert scope.subjects(asked(ANONYMOUS, call(), address=None)) is None
    assert Scope.parse(f"{text}+global", GROUPS).subjects(asked(ANONYMOUS, call(), address=None)) is None


@pytest.mark.parametrize("text", ["team:blue", "org:acme", "tenant:t1", "tag:batch", "end_user:bob", "address:10.0.0.0/8", "model:o3"])
def test_what_is_not_known_may_be_the_one_that_is_named(text: str) -> None:
    assert Scope.parse(text).subjects(asked(ANONYMOUS, call(), address=None)) is None


@pytest.mark.parametrize("text", ["team", "org", "user", "member", "tag"])
def test_a_caller_without_it_lacks_the_dimension_and_is_not_the_one_that_is_named(text: str) -> None:
    nobody = Principal(client="ci", method="jwt")
    assert Scope.parse(text).subjects(asked(nobody)) is None
    if text not in {"user", "member"}:
        assert () == Scope.parse(f"{text}:blue").subjects(asked(nobody))


@pytest.mark.parametrize("text", ["model", "model:gpt-4o*", "model_group", "model_group:cheap", "team+model", "model:o3+team:blue"])
def test_a_model_that_the_app_may_choose_is_missing(text: str) -> None:
    scope = Scope.parse(text, GROUPS)
    for asking in (None, call(), call("gpt-4o-mini", leaves_choice=True)):
        assert scope.subjects(asked(asking=asking)) is None


def test_what_a_scope_is_not_about_lacks_nothing() -> None:
    assert () == Scope.parse("team:red+model").subjects(asked(asking=call()))
    assert () == Scope.parse("end_user+model:o3").subjects(asked(asking=call("gpt-4o")))


def test_a_route_in_no_table_may_run_a_model_where_it_looks_like_one_of_an_llm_api() -> None:
    unlisted = LLMCall(dialect="other", operation=UNLISTED, needs_model=False)
    for scope in (Scope.parse("model"), Scope.parse("end_user")):
        assert scope.subjects(asked(asking=unlisted, target="POST /v1/chat/completions2")) is None
        assert scope.subjects(asked(asking=unlisted, target="WS /v1/chat/live")) is None
        assert () == scope.subjects(asked(asking=unlisted, target="POST /feedback"))
        assert () == scope.subjects(asked(asking=unlisted, target="GET /v1/chat/completions2"))
    assert ("route:unlisted",) == Scope.parse("route").subjects(asked(asking=unlisted, target="POST /any/path/1"))


@pytest.mark.parametrize("text", ["model", "end_user", "model_group", "team+end_user"])
def test_a_request_that_runs_no_model_is_not_counted_by_one(text: str) -> None:
    listing = LLMCall(dialect="openai", operation="models", needs_model=False)
    assert () == Scope.parse(text, GROUPS).subjects(asked(asking=listing, target="GET /v1/models"))


def test_every_model_that_is_named_counts_and_one_in_no_group_is_missing() -> None:
    several = call("gpt-4o", "GPT-4O", "o3")
    assert ("model:gpt-4o", "model:o3") == Scope.parse("model").subjects(asked(asking=several))
    assert ("model:gpt-4o*",) == Scope.parse("model:gpt-4o*").subjects(asked(asking=several))
    assert ("model_group:rest",) == Scope.parse("model_group", GROUPS).subjects(asked(asking=call("o3", "o1")))
    assert Scope.parse("model_group", GROUPS).subjects(asked(asking=call("o3", "gpt-5"))) is None
    assert ("model_group:rest",) == Scope.parse("model_group:rest", GROUPS).subjects(asked(asking=call("o3", "gpt-5")))


def test_keys_are_counted_by_key_and_by_their_owner() -> None:
    key = Principal(user="ada", realm="keys", method="key", credential_id="k1")
    assert ("key:k1",) == Scope.parse("key").subjects(asked(key))
    assert ("caller:keys/ada",) == Scope.parse("caller").subjects(asked(key))
    assert "key:k1" == own_subject(key)
    assert "caller:staff/ada" == own_subject(ADA)
    assert own_subject(ANONYMOUS) is None
    master = Principal(method="master_key", credential_id="master")
    assert ("key:master",) == Scope.parse("key").subjects(asked(master))
    assert ("caller:/key%3Amaster",) == Scope.parse("caller").subjects(asked(master))


@pytest.mark.parametrize(
    ("given", "subject"),
    [
        ("2001:db8:1:2:3:4:5:6", "address:2001%3Adb8%3A1%3A2%3A%3A"),
        ("2001:db8:1:2::ffff", "address:2001%3Adb8%3A1%3A2%3A%3A"),
        ("::ffff:192.0.2.7", "address:192.0.2.7"),
    ],
)
def test_whoever_has_an_address_has_all_of_its_network(given: str, subject: str) -> None:
    assert (subject,) == Scope.parse("address").subjects(asked(address=given))


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=2, max_size=2, unique=True))
def test_no_two_callers_have_one_subject(people: list[tuple[str, str, str]]) -> None:
    scope = Scope.parse("member")
    one, other = (scope.subjects(asked(Principal(realm=realm, user=f"u{user}", team=team, method="jwt"))) for realm, user, team in people)
    assert one != other


@given(st.lists(st.tuples(NAMES, NAMES), min_size=2, max_size=2, unique=True))
def test_no_name_reads_as_several_dimensions(pairs: list[tuple[str, str]]) -> None:
    scope = Scope.parse("org+team")
    one, other = (scope.subjects(asked(Principal(user="ada", org=org, team=team, method="jwt"))) for org, team in pairs)
    assert one != other
    assert one is not None
    assert 1 == one[0].count("+")


def test_a_scope_says_what_it_needs() -> None:
    assert [True, True, True] == [Scope.parse(text).needs_call for text in ("model", "team+end_user", "model:o3")]
    assert [False, True] == [Scope.parse(text).needs_address for text in ("model", "address+model")]
    assert [False, False, True, True] == [Scope.parse(text).moves for text in ("team", "team+tag", "route", "team+address")]
    assert [False, False, True, True] == [Scope.parse(text).needs_caller for text in ("address", "global+route", "team", "address+key")]
    assert [True, False] == [Scope.parse(text).tenantless for text in ("global+model", "tenant")]
    assert "Scope('team:blue+model')" == repr(Scope.parse("model+team:blue"))
