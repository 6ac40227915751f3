"""Attacks on introspection: answers that only look like a yes, answers for somebody else, a provider in trouble."""

import functools
import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.authn.introspection import IntrospectionMiddleware
from llm_authmw.testing import ManualClock, Response, request
from llm_authmw.testing.scripted import Reply
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.testing.witness import Witness
from llm_authmw.tokens import ClaimMap

pytestmark = pytest.mark.anyio

ENDPOINT = "https://sso.example.com/introspect"
NOW = 1_800_000_000.0
GOOD: dict[str, Any] = {"active": True, "sub": "ada", "aud": "api://llm", "iss": "https://sso.example.com", "exp": NOW + 300}
SECRET = "s3cret-of-our-client"
TOKEN = "t0ken-of-ada"


class Scene:
    """A guarded app, and the provider that is asked about its callers."""

    def __init__(self, **options: Any) -> None:
        self.provider = TokenProvider()
        self.clock = ManualClock(now=NOW)
        self.app = Witness()
        usual: dict[str, Any] = {
            "endpoint": ENDPOINT,
            "issuer": "https://sso.example.com",
            "audience": "api://llm",
            "client_id": "llm-proxy",
            "client_secret": SECRET,
            "http": self.provider,
            "clock": self.clock,
        }
        self.layer = IntrospectionMiddleware(self.app, **(usual | options))

    async def ask(self, token: bytes = TOKEN.encode()) -> Response:
        return await request(self.layer, "GET /v1/models", headers=[(b"authorization", b"Bearer " + token)])

    async def status(self, token: bytes = TOKEN.encode()) -> int:
        return (await self.ask(token)).status

    async def denied(self, token: bytes = TOKEN.encode()) -> int:
        """Return the status of a denial, after which the app was not called and nothing secret was told."""
        response = await self.ask(token)
        assert [] == self.app.scopes
        shown = response.text + str(response.headers)
        assert SECRET not in shown
        assert TOKEN not in shown
        return response.status


@pytest.fixture
def scene() -> Scene:
    return Scene()


@pytest.mark.parametrize("active", ["true", "True", "yes", 1, 1.0, [True], [], {"a": True}, None, False, 0, ""])
async def test_whatever_is_not_true_is_not_active(scene: Scene, active: Any) -> None:
    scene.provider.otherwise = GOOD | {"active": active}
    assert 401 == await scene.denied()


async def test_an_answer_that_does_not_say_active_is_no_yes(scene: Scene) -> None:
    scene.provider.otherwise = {name: value for name, value in GOOD.items() if name != "active"}
    assert 401 == await scene.denied()


async def test_active_said_twice_is_said_by_nobody(scene: Scene) -> None:
    scene.provider.otherwise = Reply(body=b'{"active":false,' + json.dumps(GOOD).encode()[1:])
    assert 503 == await scene.denied()


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": NOW - 10},
        {"exp": "never"},
        {"nbf": NOW + 10},
        {"aud": "api://other"},
        {"aud": None},
        {"aud": []},
        {"aud": "api://llm.evil.example"},
        {"iss": "https://evil.example"},
        {"iss": "https://sso.example.com/"},
        {"token_type": "refresh_token"},
        {"typ": "Refresh"},
        {"cnf": {"jkt": "key"}},
        {"sub": None},
        {"sub": {"$ne": None}},
        {"sub": "key:admin"},
        {"sub": "ada\u202egnp.exe"},
    ],
)
async def test_an_active_token_that_is_not_for_now_or_not_for_us_is_refused(scene: Scene, changes: dict[str, Any]) -> None:
    scene.provider.otherwise = GOOD | changes
    assert 401 == await scene.denied()


async def test_a_role_in_the_answer_grants_nothing(scene: Scene) -> None:
    scene.provider.otherwise = GOOD | {"role": "proxy_admin", "roles": ["proxy_admin"], "user_role": "proxy_admin", "groups": ["admins"]}
    assert 200 == await scene.status()
    user = scene.app.scopes[0]["user"]
    assert ((), (), ()) == (user.roles, user.groups, user.claims)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(body=b" " * 70_000 + json.dumps(GOOD).encode()), id="huge"),
        pytest.param(Reply(body=GOOD, headers={"content-length": str(10**12)}), id="huge by its own word"),
        pytest.param(Reply(body=b"[" * 60_000), id="deep"),
        pytest.param(Reply(body=b"<html>Please log in to the Wi-Fi.</html>", headers={"content-type": "text/html"}), id="HTML"),
        pytest.param(Reply(302, body=GOOD, headers={"location": "https://evil.example"}), id="redirect"),
        pytest.param(Reply(body=GOOD, headers={"content-encoding": "gzip"}), id="compressed"),
        pytest.param(Reply(500, body=GOOD), id="a good answer with 500"),
        pytest.param(Reply(401, body=GOOD), id="a good answer with 401"),
        pytest.param(Reply(body=b'{"active":true,"sub":"\xff\xfe"}'), id="not UTF-8"),
        pytest.param(Reply(body=b'{"active":true,"sub":"\\ud800"}'), id="a lone surrogate"),
        pytest.param(RuntimeError(f"{SECRET} {TOKEN}"), id="an error that quotes everything"),
    ],
)
async def test_an_answer_that_says_nothing_lets_nobody_in(scene: Scene, reply: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    scene.provider.outage = reply
    assert 503 == await scene.denied()
    assert SECRET not in caplog.text
    assert TOKEN not in caplog.text


async def test_an_answer_that_never_comes_lets_nobody_in() -> None:
    scene = Scene(deadline=0.02)
    scene.provider.may_answer = anyio.Event()
    with anyio.fail_after(5):
        assert 503 == await scene.denied()


@pytest.mark.parametrize(
    "token",
    [b"a&token=good", b"good%0d%0a", b"good;", b"{good}", b"good,good", b"<good>", b"a" * 8193, b"good=good", b"$(good)", b"'good'"],
)
async def test_what_is_no_token_is_shown_to_nobody(scene: Scene, token: bytes) -> None:
    scene.provider.otherwise = GOOD
    assert 401 == await scene.denied(token)
    assert [] == scene.provider.asked


@pytest.mark.parametrize(
    "difference",
    [
        pytest.param({"endpoint": "https://sso.example.com/introspect2"}, id="endpoint"),
        pytest.param({"client_id": "other"}, id="client"),
        pytest.param({"client_secret": "other"}, id="secret"),
        pytest.param({"issuer": "https://other.example"}, id="issuer"),
        pytest.param({"audience": "api://other"}, id="audience"),
        pytest.param({"realm": "partners"}, id="realm"),
        pytest.param({"claims": ClaimMap(user="email")}, id="claims"),
    ],
)
async def test_an_answer_is_good_for_no_other_configuration(scene: Scene, difference: dict[str, Any]) -> None:
    scene.provider.otherwise = GOOD
    assert 200 == await scene.status()
    other = Scene(**{"http": scene.provider, "clock": scene.clock, **difference})
    scene.provider.otherwise = {"active": False}
    assert 401 == await other.denied()


async def test_tokens_with_one_beginning_are_not_one(scene: Scene) -> None:
    scene.provider.answers["a" * 64 + "-good"] = GOOD
    assert 200 == await scene.status(b"a" * 64 + b"-good")
    assert 401 == await scene.status(b"a" * 64 + b"-evil")
    assert 401 == await scene.status(b"a" * 64)


async def test_equal_tokens_at_the_same_time_cost_one_call(scene: Scene) -> None:
    scene.provider.otherwise = GOOD
    scene.provider.may_answer = anyio.Event()
    statuses: list[int] = []

    async def ask() -> None:
        statuses.append(await scene.status())

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            scene.provider.may_answer.set()
    assert ([200] * 50, 1) == (statuses, len(scene.provider.asked))


async def test_a_bad_token_that_is_sent_again_and_again_costs_one_call_in_a_while(scene: Scene) -> None:
    for _ in range(100):
        assert 401 == await scene.denied()
        scene.clock.advance(0.04)
    assert 1 == len(scene.provider.asked)


async def test_an_outage_is_503_for_strangers_and_nothing_for_those_who_are_known(scene: Scene) -> None:
    scene.provider.answers[TOKEN] = GOOD
    assert 200 == await scene.status()
    scene.provider.outage = ConnectionRefusedError()
    statuses = [(await scene.status(), await scene.status(f"stranger-{number}".encode())) for number in range(50)]
    assert {(200, 503)} == set(statuses)
    assert len(scene.provider.asked) <= 1 + 5
    scene.clock.advance(60)
    assert 503 == await scene.status()


async def test_an_outage_does_not_prolong_the_life_of_a_token(scene: Scene) -> None:
    scene.provider.otherwise = GOOD | {"exp": NOW + 10}
    assert 200 == await scene.status()
    scene.provider.outage = Reply(503)
    scene.clock.advance(10)
    assert 503 == await scene.status()


async def test_tokens_that_the_provider_refuses_to_look_at_do_not_shut_others_out(scene: Scene) -> None:
    scene.provider.answers[TOKEN] = GOOD
    scene.provider.otherwise = Reply(400)
    for number in range(20):
        assert 503 == await scene.status(f"poison-{number}".encode())
    assert 200 == await scene.status()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)
NAMES = st.sampled_from([*GOOD, "nbf", "iat", "jti", "scope", "token_type", "typ", "cnf", "act", "amr", "acr", "auth_time", "client_id"])


def run(main: Callable[[], Any]) -> Any:
    return anyio.run(main)


@given(changes=st.dictionaries(NAMES, JSON, min_size=1))
def test_any_answer_is_a_principal_or_a_denial_and_never_an_error(changes: dict[str, Any]) -> None:
    scene = Scene(leeway=0.0)
    scene.provider.otherwise = Reply(body=json.dumps(GOOD | changes).encode())
    status = run(scene.status)
    assert status in (200, 401, 503)
    if status == 200:
        said = GOOD | changes
        assert said["active"] is True
        assert said["exp"] is None or said["exp"] > NOW
        assert said["iss"] == GOOD["iss"]
        assert "api://llm" in said["aud"]
        assert scene.app.scopes[0]["user"].is_authenticated


@given(body=st.binary())
def test_any_bytes_for_an_answer_let_nobody_in(body: bytes) -> None:
    scene = Scene()
    scene.provider.otherwise = Reply(body=body)
    assert run(scene.denied) in (401, 503)


@given(token=st.binary(max_size=200))
def test_any_bytes_for_a_token_are_denied_and_only_tokens_are_shown(token: bytes) -> None:
    scene = Scene()
    assert run(functools.partial(scene.denied, token)) in (400, 401)
    allowed = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")
    assert all(allowed.issuperset(shown) for shown in scene.provider.tokens)
