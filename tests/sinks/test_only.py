from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError
from llm_authmw.sinks.only import Only
from llm_authmw.testing.places import make_record
from llm_authmw.trail.record import Who

DENIED: dict[str, Any] = {"outcome": "denied", "reason": "key_revoked", "layer": "keys"}


@pytest.mark.parametrize(
    ("only", "fits", "fits_not"),
    [
        (Only(kinds=["change"]), {"kind": "change"}, {}),
        (Only(outcomes=["denied", "failed"]), DENIED, {}),
        (Only(outcomes=["denied"]), DENIED, {"outcome": None}),
        (Only(reasons=["key_revoked"]), DENIED, {**DENIED, "reason": "key_expired"}),
        (Only(layers=["keys"]), DENIED, {**DENIED, "layer": "rbac"}),
        (Only(tenants=["acme"]), {}, {"who": Who(tenant="other")}),
        (Only(tenants=["acme"]), {}, {"who": None}),
        (Only(teams=["blue"]), {}, {"who": Who(tenant="acme", team="red")}),
        (Only(operations=["chat"]), {}, {"operation": "mcp"}),
        (Only(models=["gpt-5"]), {}, {"models": ("gpt-4",)}),
        (Only(models=["gpt-5-2026"]), {"served": "gpt-5-2026"}, {}),
        (Only(tenants=["acme"], outcomes=["denied"]), DENIED, {}),
    ],
)
def test_a_record_has_to_fit_everything_that_is_named(only: Only, fits: dict[str, Any], fits_not: dict[str, Any]) -> None:
    assert only.takes(make_record(**fits))
    assert not only.takes(make_record(**fits_not))


@pytest.mark.parametrize("kind", ["loss", "checkpoint"])
def test_what_belongs_to_the_chain_is_always_taken(kind: str) -> None:
    assert Only(tenants=["other"]).takes(make_record(kind=kind))


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({}, "only"),
        ({"outcomes": []}, "outcomes"),
        ({"outcomes": "denied"}, "outcomes"),
        ({"outcomes": ["refused"]}, "outcomes"),
        ({"kinds": ["requests"]}, "kinds"),
        ({"reasons": ["no_such_reason"]}, "reasons"),
        ({"tenants": [1]}, "tenants"),
        ({"teams": 5}, "teams"),
    ],
)
def test_a_filter_that_is_wrong_is_an_error(options: dict[str, Any], option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Only(**options)
    assert option == caught.value.option


def test_it_prints_what_it_names() -> None:
    assert "Only(outcomes=['denied'], tenants=['acme'])" == repr(Only(tenants=["acme"], outcomes=["denied"]))
