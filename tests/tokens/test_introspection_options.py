import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError
from llm_authmw.testing import ManualClock, TestIssuer
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.tokens import ClaimMap, introspection
from llm_authmw.tokens.introspection import Introspector, introspector_of

ENDPOINT = "https://sso.example.com/introspect"
ISSUER = "https://sso.example.com"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider() -> TokenProvider:
    return TokenProvider()


@pytest.fixture
def make(provider: TokenProvider, clock: ManualClock) -> Callable[..., Introspector]:
    def build(**options: Any) -> Introspector:
        usual: dict[str, Any] = {
            "endpoint": ENDPOINT,
            "client_id": "llm-proxy",
            "client_secret": "s3cret",
            "http": provider,
            "clock": clock,
        }
        return Introspector(**{name: value for name, value in {**usual, **options}.items() if value is not ...})

    return build


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": "http://sso.example.com/introspect"}, "endpoint"),
        ({"endpoint": "https://u:p@sso.example.com/introspect"}, "endpoint"),
        ({"endpoint": None, "issuer": "ftp://sso.example.com"}, "issuer"),
        ({"issuer": ""}, "issuer"),
        ({"client_id": None}, "client_id"),
        ({"client_secret": None}, "client_secret"),
        ({"client_id": "x", "client_auth": "bearer"}, "client_id"),
        ({"client_id": None, "client_auth": "bearer", "signed_by": TestIssuer().trusted()}, "client_id"),
        ({"signed_by": ISSUER}, "signed_by"),
        ({"mode": "oauth"}, "mode"),
        ({"claims": {"user": "sub"}}, "claims"),
        ({"audience": []}, "audience"),
        ({"audience": [7]}, "audience"),
        ({"required_claims": "exp"}, "required_claims"),
        ({"realm": ""}, "realm"),
        ({"tenant": None}, "tenant"),
        ({"leeway": 61}, "leeway"),
        ({"leeway": -1}, "leeway"),
        ({"leeway": True}, "leeway"),
        ({"cache_ttl": math.inf}, "cache_ttl"),
        ({"cache_ttl": -1}, "cache_ttl"),
        ({"negative_ttl": math.nan}, "negative_ttl"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_calls": 0}, "max_calls"),
        ({"max_calls": 1.5}, "max_calls"),
        ({"deadline": 0}, "deadline"),
        ({"deadline": "2"}, "deadline"),
        ({"mode": "token_info"}, "client_id"),
        ({"mode": "token_info", "client_id": None}, "client_secret"),
        ({"mode": "token_info", "client_id": None, "client_secret": None, "signed_by": TestIssuer().trusted()}, "signed_by"),
        ({"mode": "token_info", "client_id": None, "client_secret": None, "endpoint": None, "issuer": ISSUER}, "endpoint"),
        ({"mode": "token_info", "client_id": None, "client_secret": None, "endpoint": "http://sso.example.com/"}, "endpoint"),
        ({"mode": "github", "client_id": None, "client_secret": None, "audience": "api://llm"}, "audience"),
        ({"mode": "github", "client_id": None, "client_secret": None, "issuer": ISSUER}, "issuer"),
    ],
)
def test_an_option_that_is_wrong_or_would_be_ignored_is_refused(
    make: Callable[..., Introspector], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(**options)
    assert named == caught.value.option


def test_it_prints_where_it_asks_and_no_secret(make: Callable[..., Introspector]) -> None:
    assert f"Introspector({ENDPOINT!r}, mode='rfc7662')" == repr(make())


def test_equal_options_are_one_handle_and_others_are_not(monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    monkeypatch.setenv("SECRET_OF_A", "a")
    monkeypatch.setenv("SECRET_OF_B", "b")
    usual: dict[str, Any] = {
        "endpoint": ENDPOINT,
        "client_id": "x",
        "client_secret": "env:SECRET_OF_A",
        "realm": "corp",
        "claims": ClaimMap(keep=["department"]),
        "audience": ["api://llm"],
        "required_claims": {"exp"},
        "clock": clock,
    }
    first = introspector_of(**usual)
    again: dict[str, Any] = {**usual, "claims": ClaimMap(keep=["department"]), "audience": ["api://llm"]}
    assert first is introspector_of(**again)
    changes: list[dict[str, Any]] = [
        {"realm": "partners"},
        {"client_id": "y"},
        {"client_secret": "env:SECRET_OF_B"},
        {"endpoint": ENDPOINT + "2"},
        {"audience": ["api://other"]},
        {"claims": ClaimMap()},
        {"clock": ManualClock()},
    ]
    for change in changes:
        other: dict[str, Any] = usual | change
        assert first is not introspector_of(**other)
    monkeypatch.setenv("SECRET_OF_A", "changed")
    assert first is not introspector_of(**usual)


def test_a_handle_and_its_secrets_go_with_the_last_layer_that_has_it() -> None:
    handle = introspector_of(endpoint=ENDPOINT, client_id="x", client_secret="s")
    gone = weakref.ref(handle)
    del handle
    gc.collect()
    assert gone() is None
    assert 0 == len(introspection._handles)


def test_an_option_that_cannot_be_compared_is_named_all_the_same() -> None:
    with pytest.raises(ConfigurationError) as caught:
        introspector_of(endpoint=ENDPOINT, client_id="x", client_secret="s", claims={"user": "sub"})  # type: ignore[arg-type]
    assert "claims" == caught.value.option
