from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.principal import Assurance
from llm_authmw.quota import Budget, Limit
from llm_authmw.testing import fake_principal


@pytest.mark.parametrize("field", ["roles", "scopes", "groups", "tags", "models", "routes", "networks"])
def test_a_bare_string_is_refused_as_a_list(field: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{field}: takes a list of strings"):
        fake_principal(**{field: "admin"})


@pytest.mark.parametrize(
    "fields",
    [
        {"user": None},
        {"user": "key:x"},
        {"models": ["gpt*4"]},
        {"routes": ["no-slash"]},
        {"networks": ["not a network"]},
        {"limits": ["many"]},
        {"budgets": "50 usd"},
    ],
)
def test_a_principal_that_no_layer_would_make_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidValueError):
        fake_principal(**fields)


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="rolls"):
        fake_principal(rolls=["admin"])


def test_left_out_it_is_ada_who_knows_a_shared_secret() -> None:
    principal = fake_principal()
    assert ("ada", "test", Assurance.SHARED_SECRET, "default", True) == (
        principal.subject,
        principal.method,
        principal.assurance,
        principal.tenant,
        principal.is_authenticated,
    )


def test_lists_are_normalised_as_on_a_key() -> None:
    principal = fake_principal(
        roles=["b", "a", "b"],
        scopes={"y", "x"},
        models=["gpt-4o*", "!gpt-4o-mini"],
        networks=["10.1.2.3"],
        limits=["60 requests/minute"],
        budgets=["50 usd/month"],
    )
    assert (("a", "b"), ("x", "y"), ("gpt-4o*", "!gpt-4o-mini"), ("10.1.2.3/32",)) == (
        principal.roles,
        principal.scopes,
        principal.models,
        principal.networks,
    )
    assert (Limit.parse("60 requests/minute"), Budget.parse("50 usd/month")) == (*principal.limits, *principal.budgets)
    assert fake_principal(roles=["b", "a"]) == fake_principal(roles=["a", "b"])


def test_a_caller_that_is_no_person_can_be_made_and_anything_be_changed() -> None:
    principal = fake_principal(user=None, client="batch", method="jwt", assurance=Assurance.SIGNED)
    assert ("client:batch", "jwt", Assurance.SIGNED) == (principal.subject, principal.method, principal.assurance)
