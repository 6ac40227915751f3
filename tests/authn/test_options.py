from typing import Any

import pytest

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Secret, StaticKeys, TrustedProxies, open_store
from llm_authmw.authn.credentials import NEVER_A_CREDENTIAL
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
MASTER = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
KEYS = StaticKeys({"ci": KEY})

WRONG: list[tuple[str, Any]] = [
    ("keys", None),
    ("keys", open_store("memory://")),
    ("keys", {"ci": KEY}),
    ("keys", [KEY]),
    ("keys", KEY),
    ("required", None),
    ("required", 0),
    ("required", "false"),
    ("header", ""),
    ("header", "X-Own-Key"),
    ("header", "x own key"),
    ("header", "x-own-key:"),
    ("header", "x-öwn-key"),
    ("header", "x-own-key\n"),
    ("header", b"x-own-key"),
    ("header", ["x-own-key"]),
    ("header", "authorization"),
    ("header", "x-api-key"),
    ("header", "api-key"),
    ("header", "x-goog-api-key"),
    *(("header", name.decode()) for name in sorted(NEVER_A_CREDENTIAL)),
    ("query_parameter", ""),
    ("query_parameter", True),
    ("query_parameter", b"key"),
    ("query_parameter", ["key"]),
    ("master_key", ""),
    ("master_key", "short"),
    ("master_key", MASTER[:31]),
    ("master_key", "a" * 64),
    ("master_key", "ab" * 20),
    ("master_key", "sk-1234567890123456789012345678901234567890"),
    ("master_key", "changeme-changeme-changeme-changeme"),
    ("master_key", "edd1c9f034335f136f87ad84b625c8f1"),
    ("master_key", MASTER + "é"),
    ("master_key", MASTER + " " + MASTER),
    ("master_key", MASTER + "\n"),
    ("master_key", MASTER * 20),
    ("master_key", "env:AUTHMW_NO_SUCH_VARIABLE"),
    ("master_key", "file:/no/such/file"),
    ("master_key", 12),
    ("imported", None),
    ("imported", "false"),
    ("imported", 1),
    ("imported", True),  # of static keys, which take texts of any form
    ("disclosure", None),
    ("disclosure", "full"),
    ("disclosure", True),
    ("trusted_proxies", ["10.0.0.0/8"]),
    ("trusted_proxies", "10.0.0.0/8"),
    ("trusted_proxies", True),
]


@pytest.mark.parametrize(("option", "value"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_option_is_refused_at_construction_by_name(option: str, value: Any) -> None:
    options: dict[str, Any] = {"keys": KEYS, option: value}
    with pytest.raises(ConfigurationError) as caught:
        KeyAuthMiddleware(Witness(), **options)
    assert option == caught.value.option


@pytest.mark.parametrize("master_key", ["too-short-" + "9xQ", "changeme" * 5, MASTER + " x"])
def test_what_refuses_a_secret_does_not_show_it(master_key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        KeyAuthMiddleware(Witness(), keys=KEYS, master_key=master_key)
    assert master_key not in f"{caught.value!r} {caught.value}"


def test_an_option_that_does_not_exist_is_a_type_error() -> None:
    options: dict[str, Any] = {"keys": KEYS, "optional": True}
    with pytest.raises(TypeError, match="optional"):
        KeyAuthMiddleware(Witness(), **options)


def test_every_option_is_keyword_only() -> None:
    construct: Any = KeyAuthMiddleware
    with pytest.raises(TypeError, match="positional"):
        construct(Witness(), KEYS)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("required", False),
        ("header", "x-litellm-api-key"),
        ("header", "ocp-apim-subscription-key"),
        ("query_parameter", "key"),
        ("query_parameter", "schlüssel"),
        ("master_key", MASTER),
        ("master_key", Secret(MASTER)),
        ("master_key", "env:AUTHMW_TEST_MASTER"),
        ("disclosure", "exact"),
        ("trusted_proxies", TrustedProxies(["10.0.0.0/8"])),
    ],
)
def test_a_right_option_is_accepted(option: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHMW_TEST_MASTER", MASTER)
    options: dict[str, Any] = {"keys": KEYS, option: value}
    assert KeyAuthMiddleware(Witness(), **options).name == "KeyAuthMiddleware"


def test_imported_keys_are_an_option_of_keys_in_a_store() -> None:
    store = open_store("memory://")
    layer = KeyAuthMiddleware(Witness(), keys=store.keys, imported=True)
    assert (store,) == layer.resources
    assert () == KeyAuthMiddleware(Witness(), keys=KEYS).resources


def test_the_repr_names_the_keys_and_shows_no_secret() -> None:
    layer = KeyAuthMiddleware(Witness(), keys=KEYS, master_key=MASTER, required=False)
    assert "KeyAuthMiddleware(keys=StaticKeys(['ci']), required=False)" == repr(layer)
