import math
from collections.abc import Callable
from typing import Any

import pytest

from llm_authmw import fields
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.quota import Budget, Limit

NAMES = {"user": fields.user, "name": fields.text_or_none, "realm": fields.text}


@pytest.mark.parametrize("check", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("value", ["", " a", "a\n", "x" * 513, 7, b"a", ["a"]])
def test_a_name_is_a_usable_text(check: fields.Check, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^field "):
        check("field", value)
    assert "alice" == check("field", "alice")


def test_only_what_may_be_left_out_may_be_none() -> None:
    assert fields.text_or_none("name", None) is None
    assert fields.user("user", None) is None
    assert fields.moment("expires_at", None) is None
    for check in (fields.models, fields.routes, fields.networks):
        assert check("field", None) is None
    with pytest.raises(InvalidValueError, match="realm is not a text"):
        fields.text("realm", None)


@pytest.mark.parametrize("user", ["client:x", "key:x"])
def test_a_user_is_not_named_like_a_client_or_a_key(user: str) -> None:
    with pytest.raises(InvalidValueError, match="must not begin with"):
        fields.user("user", user)


@pytest.mark.parametrize("check", [fields.models, fields.routes, fields.networks])
def test_no_restriction_and_nothing_allowed_stay_two_things(check: fields.Check) -> None:
    assert check("field", None) is None
    assert () == check("field", [])


@pytest.mark.parametrize(
    ("check", "value"),
    [(fields.models, "gpt-4o*"), (fields.routes, "/v1/**"), (fields.networks, "10.0.0.0/8")],
    ids=["models", "routes", "networks"],
)
def test_a_bare_string_is_refused(check: fields.Check, value: str) -> None:
    with pytest.raises(ConfigurationError, match="takes a list of strings"):
        check("field", value)


@pytest.mark.parametrize("check", [fields.limits, fields.budgets])
@pytest.mark.parametrize("value", ["60 requests/minute", "50 usd/month", None, 7, {"60 requests/minute"}, {"limits": 1}])
def test_limits_and_budgets_are_a_list(check: fields.Check, value: Any) -> None:
    with pytest.raises(InvalidValueError, match=r"^field takes a list"):
        check("field", value)


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (fields.models, ["gpt*4"]),
        (fields.models, ["!"]),
        (fields.routes, ["get /v1"]),
        (fields.routes, ["/v1/../x"]),
        (fields.networks, ["10.0.0.1/8"]),
        (fields.networks, ["example.com"]),
        (fields.limits, ["50 usd/month"]),
        (fields.limits, ["0 requests/minute"]),
        (fields.limits, [7]),
        (fields.limits, [None]),
        (fields.limits, [Budget.parse("50 usd/month")]),
        (fields.budgets, ["60 requests/minute"]),
        (fields.budgets, ["0 usd"]),
        (fields.budgets, [Limit.parse("4 concurrent")]),
    ],
)
def test_an_entry_outside_its_grammar_is_refused(check: fields.Check, value: Any) -> None:
    with pytest.raises(InvalidValueError):
        check("field", value)


def test_values_are_kept_in_their_canonical_form_and_once() -> None:
    assert ("gpt-4o*", "!gpt-4o") == fields.models("models", ["gpt-4o*", "!gpt-4o", "gpt-4o*"])
    assert ("GET /v1/models",) == fields.routes("routes", ("GET /v1/models",))
    assert ("10.0.0.0/8", "2001:db8::1/128") == fields.networks(
        "networks", ["10.0.0.0/8", "2001:DB8::1", "10.0.0.0/255.0.0.0", "::ffff:10.0.0.0/104"]
    )
    minute = Limit.parse("60 requests/minute")
    assert (minute,) == fields.limits("limits", ["60 requests/minute", minute, "6_0 request/minute"])
    assert (Budget.parse("50 usd"),) == fields.budgets("budgets", (Budget.parse("50 usd"), "50.0 usd"))


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param("a=b", id="text"),
        pytest.param([("a", "b")], id="pairs"),
        pytest.param({str(number): "x" for number in range(17)}, id="too many"),
        pytest.param({"a": 1}, id="a number"),
        pytest.param({"a": None}, id="no value"),
        pytest.param({"a": {"b": "c"}}, id="nested"),
        pytest.param({"a": "x" * 513}, id="a long value"),
        pytest.param({"a": "\ud800"}, id="half a surrogate pair"),
        pytest.param({"": "x"}, id="an empty name"),
        pytest.param({"a\n": "x"}, id="a name with a line break"),
        pytest.param({7: "x"}, id="a name that is no text"),
    ],
)
def test_metadata_is_a_few_texts(value: Any) -> None:
    with pytest.raises(InvalidValueError):
        fields.metadata("metadata", value)


def test_metadata_is_copied() -> None:
    given = {"ticket": "OPS-1", "note": ""}
    kept = fields.metadata("metadata", given)
    assert given == kept
    assert given is not kept
    assert 16 == len(fields.metadata("metadata", {str(number): "x" * 512 for number in range(16)}))


@pytest.mark.parametrize("value", [True, False, "1800000000", -1, -0.001, math.nan, math.inf, -math.inf, 1e13, [1]])
def test_a_moment_is_seconds_since_1970(value: Any) -> None:
    with pytest.raises(InvalidValueError, match="expires_at is a number of seconds since 1970"):
        fields.moment("expires_at", value)


@pytest.mark.parametrize("value", [0, 1_800_000_000, 1.5, 1e12])
def test_a_moment_is_kept_as_a_float(value: float) -> None:
    kept = fields.moment("expires_at", value)
    assert value == kept
    assert isinstance(kept, float)


def test_a_field_that_does_not_exist_is_refused_before_any_is_checked() -> None:
    checks: dict[str, Callable[[str, Any], Any]] = {"name": fields.text, "user": fields.user}
    with pytest.raises(TypeError, match=r"^an API key has no field 'role'; its fields are name, user$"):
        fields.checked("an API key", checks, {"name": "", "role": "admin"})
    assert {"user": None, "name": "x"} == fields.checked("an API key", checks, {"user": None, "name": "x"})
