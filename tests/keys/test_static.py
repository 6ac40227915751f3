import itertools
import math
import secrets
from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.hashing import sha256
from llm_authmw.keys.static import StaticKey, StaticKeys
from llm_authmw.principal import ANONYMOUS, Assurance
from llm_authmw.quota import Limit
from llm_authmw.secrets import Secret
from llm_authmw.testing import ManualClock

pytestmark = pytest.mark.anyio

TEXT, OTHER = secrets.token_hex(32), mint_key().text


async def test_a_key_that_was_given_in_code_says_who_is_calling() -> None:
    keys = StaticKeys({"ci": StaticKey(TEXT, tenant="acme", user="ci", roles=["member"], limits=["4 concurrent"]), "other": OTHER})
    known = await keys.verify(TEXT.encode())
    assert known is keys.recall(TEXT.encode()) is await keys.verify(TEXT.encode(), imported=True)
    principal = known.principal
    assert ("ci", "acme", "ci", ("member",)) == (principal.credential_id, principal.tenant, principal.user, principal.roles)
    assert (Limit.parse("4 concurrent"),) == principal.limits
    assert ("key", Assurance.SHARED_SECRET) == (principal.method, principal.assurance)
    assert keys.judge(known) is None
    assert "key:other" == keys.recall(OTHER.encode()).principal.subject


@pytest.mark.parametrize(
    "presented",
    [
        b"",
        b"x",
        TEXT[:-1].encode(),
        TEXT.encode() + b"x",
        TEXT.upper().encode(),
        sha256(TEXT.encode()),
        sha256(TEXT.encode()).hex().encode(),
        b"\xff",
    ],
    ids=itertools.count(),
)
async def test_any_other_text_is_nobodys(presented: bytes) -> None:
    keys = StaticKeys({"ci": TEXT})
    known = await keys.verify(presented)
    assert ("key_unknown", None, ANONYMOUS) == (keys.judge(known), known.key_id, known.principal)


def test_a_static_key_keeps_its_dates_to_the_second() -> None:
    clock = ManualClock(now=100.0)
    keys = StaticKeys({"ci": StaticKey(TEXT, not_before=110.0, expires_at=120.0)}, clock=clock)
    known = keys.recall(TEXT.encode())
    seen: list[tuple[str | None, bool]] = []
    for seconds in (9.999, 0.001, 9.999, 0.001):
        clock.advance(seconds)
        seen.append((keys.judge(known), keys.holds(known)))
        assert pytest.approx(120.0 - clock.now()) == keys.due(known)
    assert [("key_not_yet_valid", True), (None, True), (None, True), ("key_expired", False)] == seen


def test_nothing_of_it_ever_has_to_be_asked_again() -> None:
    keys = StaticKeys({"ci": TEXT})
    assert keys is keys.verifier
    assert keys.bound is None
    assert keys.resource is None
    assert keys.holds(keys.recall(TEXT.encode()))
    assert math.inf == keys.due(keys.recall(TEXT.encode()))


def test_the_text_may_be_a_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI_KEY", TEXT)
    keys = StaticKeys({"ci": "env:CI_KEY", "other": Secret(OTHER)})
    assert "ci" == keys.recall(TEXT.encode()).key_id
    assert "other" == keys.recall(OTHER.encode()).key_id
    monkeypatch.delenv("CI_KEY")
    with pytest.raises(ConfigurationError, match=r"^key: the environment variable CI_KEY is not set"):
        StaticKey("env:CI_KEY")


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({}, "keys: names no key"),
        ({"a": TEXT, "b": TEXT}, "keys: 'b' has the same text as 'a'"),
        ({"a": "sk-1234"}, "key: has 7 characters"),
        ({"a": "changeme" * 5}, "key: is a well-known"),
        ({"": TEXT}, "keys: has an id that is empty"),
        ({"a\nb": TEXT}, "keys: has an id that holds a character that does not print"),
    ],
)
def test_a_wrong_set_of_keys_is_refused(keys: dict[str, str], problem: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        StaticKeys(keys)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "key:x"},
        {"limits": ["sixty"]},
        {"models": ["gpt*4"]},
        {"models": "gpt-4o*"},
        {"roles": "admin"},
        {"tenant": ""},
        {"expires_at": -1},
    ],
)
def test_a_wrong_field_is_refused_when_the_key_is_built(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        StaticKey(TEXT, **fields)


def test_no_secret_prints() -> None:
    key = StaticKey(TEXT, user="ci", roles=["member"])
    keys = StaticKeys({"b": key, "a": OTHER})
    assert "StaticKey(user='ci', roles=('member',))" == repr(key)
    assert "StaticKeys(['a', 'b'])" == repr(keys)
    shown = repr((key, keys, keys.recall(TEXT.encode()), vars(keys)))
    for secret in (TEXT, OTHER, TEXT[-8:]):
        assert secret not in shown
