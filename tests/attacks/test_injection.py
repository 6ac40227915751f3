"""Text that means something to somebody behind us: SQL, templates, log lines, formats. In keys, and in what is kept about keys."""

import logging
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from llm_authmw import InvalidValueError, KeyAuthMiddleware, Store, StoreUnavailableError, open_store
from llm_authmw.errors import AuthmwError
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, request
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

ATTACKS = [
    "'or'1'='1",
    "sk-'or'1'='1'--",
    "sk-x');DROP/**/TABLE/**/keys;--",
    'sk-"or""="',
    "sk-1'UNION/**/SELECT*FROM/**/keys--",
    "sk-%27%20or%201=1",
    "{{7*7}}${7*7}#{7*7}<%=7*7%>",
    "${jndi:ldap://x.example/a}",
    "%s%s%n%x{0}{key}",
    "../../etc/passwd",
    "*",
    "sk-*",
    "sk-%",
    "sk-_",
]


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Store]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'authmw.db'}"
    async with open_store(url, clock=ManualClock(), deadline=5) as opened:
        yield opened


@pytest.mark.parametrize("attack", ATTACKS)
async def test_sql_or_template_text_as_a_key_is_just_no_key(store: Store, attack: str) -> None:
    """CVE-2026-42208 of LiteLLM: an injection before authentication."""
    made = await store.keys.create()
    app = Witness()
    for imported in (True, False):
        layer = KeyAuthMiddleware(app, keys=store.keys, query_parameter="key", imported=imported)
        for headers in ([(b"x-api-key", attack.encode())], [(b"authorization", f"Bearer {attack}".encode())]):
            response = await request(layer, "GET /v1/models", headers=headers)
            assert 401 == response.status
            assert attack not in response.text
    assert [] == app.scopes
    assert [made.id] == [record.id for record in (await store.keys.list()).keys]
    assert 200 == (await request(KeyAuthMiddleware(app, keys=store.keys), "GET /", headers=[(b"x-api-key", str(made.key).encode())])).status


async def test_the_error_path_does_no_lookup_and_quotes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """CVE-2026-42208 was in the error path."""
    asked: list[Any] = []

    async def down(*args: Any) -> Any:
        asked.append(args)
        raise StoreUnavailableError(f"cannot read {args}")

    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(store._backend.keys, "find", down)
    text = mint_key().text
    response = await request(KeyAuthMiddleware(Witness(), keys=store.keys), "GET /", headers=[(b"x-api-key", text.encode())])
    assert 503 == response.status
    assert 1 == len(asked)
    assert "cannot read" not in response.text + caplog.text
    assert text not in response.text + caplog.text


NAMES = [
    "Robert'); DROP TABLE keys;--",
    '"',
    "{{7*7}}",
    "%s%n",
    "a/../b",
    "<script>alert(1)</script>",
    "*",
    "%",
    "_",
    "ключ",
]


@pytest.mark.parametrize("name", NAMES)
async def test_a_name_that_means_something_elsewhere_is_kept_and_published_as_it_is(store: Store, name: str) -> None:
    await store.keys.create(name="other", team="blue")
    made = await store.keys.create(name=name, user=name, team=name, org=name, roles=[name], scopes=[name], tags=[name])
    app = Witness()
    response = await request(KeyAuthMiddleware(app, keys=store.keys), "GET /", headers=[(b"x-api-key", str(made.key).encode())])
    caller = app.scopes[0]["user"]
    assert {name} == {response.json()["subject"], caller.user, caller.team, caller.org, *caller.roles, *caller.scopes, *caller.tags}
    assert [made.id] == [record.id for record in (await store.keys.list(team=name, user=name, tag=name)).keys]
    await store.accounts.create("team", name, status="blocked")
    assert 401 == (await request(KeyAuthMiddleware(app, keys=store.keys), "GET /", headers=[(b"x-api-key", str(made.key).encode())])).status


@pytest.mark.parametrize(
    "name", ["a\nb", "a\r\nrequest x denied", "a\x00b", "\x1b[2J", "a\u2028b", "\u202egnp", "\ud800", " a", "a ", "", "x" * 513]
)
@pytest.mark.parametrize("field", ["name", "user", "team", "org", "tenant"])
async def test_a_name_that_would_forge_a_line_of_a_log_is_refused(store: Store, field: str, name: str) -> None:
    fields: dict[str, Any] = {field: name}
    with pytest.raises(AuthmwError):
        await store.keys.create(**fields)


async def test_a_user_cannot_be_named_like_a_key_or_a_client(store: Store) -> None:
    for name in ("key:master", "key:x", "client:x"):
        with pytest.raises(InvalidValueError):
            await store.keys.create(user=name)


async def test_two_identities_never_give_one_text(store: Store) -> None:
    app = Witness()
    layer = KeyAuthMiddleware(app, keys=store.keys)
    for tenant, realm, user in (("a/b", "c", "d"), ("a", "b/c", "d"), ("a", "b", "c/d"), ("a%2Fb", "c", "d"), ("a", "b", "c%2Fd")):
        made = await store.keys.create(tenant=tenant, realm=realm, user=user)
        await request(layer, "GET /", headers=[(b"x-api-key", str(made.key).encode())])
    assert 5 == len({scope["user"].identity for scope in app.scopes})


async def test_what_the_client_sent_never_comes_back_in_an_answer(store: Store) -> None:
    marker = "zzmarkerzz"
    for headers in (
        [(b"x-api-key", marker.encode())],
        [(b"authorization", f"Bearer {marker}".encode())],
        [(b"authorization", f"{marker} {marker}".encode())],
        [(b"x-api-key", marker.encode()), (b"api-key", marker.encode())],
        [(b"x-request-id", marker.encode()), (b"host", marker.encode()), (b"accept", marker.encode())],
    ):
        response = await request(KeyAuthMiddleware(Witness(), keys=store.keys), f"GET /{marker}?{marker}", headers=headers)
        assert response.status in (400, 401)
        assert marker not in response.text + repr(response.headers)
