import copy
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Mount

from llm_authmw import ConfigurationError, GuardedApp, KeyAuthMiddleware, Stack, StaticKeys, TrustedProxies, open_store
from llm_authmw.testing import request, websocket
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
MASTER = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
KEYS = StaticKeys({"ci": KEY})
HEADERS = [(b"x-api-key", KEY.encode())]
PROXIES = TrustedProxies(["10.0.0.0/8"])


def keys(**options: Any) -> Middleware:
    return Middleware(KeyAuthMiddleware, keys=KEYS, **options)


class Foreign:
    """A layer of somebody else's, with options by position and by name."""

    def __init__(self, app: Any, first: str, /, *, second: str = "") -> None:
        self.app, self.first, self.second = app, first, second

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


class Broken:
    def __init__(self, app: Any) -> None:
        len(None)  # type: ignore[arg-type]


def test_a_stack_without_layers_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="nothing would be guarded") as caught:
        Stack()
    assert "layers" == caught.value.option


@pytest.mark.parametrize(
    "entry", [KeyAuthMiddleware, [keys()], "keys", None, (KeyAuthMiddleware, {"keys": KEYS}), Stack(keys())(Witness())]
)
def test_an_entry_that_is_no_middleware_is_refused_and_told_how_to_write_one(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"write Middleware\(Layer, option=…\)") as caught:
        Stack(keys(), entry)
    assert "layers" == caught.value.option


@pytest.mark.parametrize("proxies", ["10.0.0.0/8", ["10.0.0.0/8"], True, PROXIES.client_address])
def test_trusted_proxies_of_another_type_are_refused(proxies: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Stack(keys(), trusted_proxies=proxies)
    assert "trusted_proxies" == caught.value.option


def layer(cls: Any, *args: Any, **options: Any) -> Middleware:
    """Return an entry that a type checker would not let pass."""
    return Middleware(cls, *args, **options)


WRONG_LAYERS: list[tuple[Middleware, str]] = [
    (keys(required="yes"), "required"),
    (keys(disclosure="full"), "disclosure"),
    (keys(header="X-Own-Key"), "header"),
    (keys(query_parameter=""), "query_parameter"),
    (keys(master_key="changeme"), "master_key"),
    (keys(optional=True), "KeyAuthMiddleware"),
    (layer(KeyAuthMiddleware), "KeyAuthMiddleware"),
    (layer(Foreign), "Foreign"),
    (layer(Foreign, "a", third="b"), "Foreign"),
    (layer(Broken), "Broken"),
]


@pytest.mark.parametrize(("entry", "option"), WRONG_LAYERS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_wrong_option_of_any_layer_is_refused_when_the_stack_is_made(entry: Middleware, option: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Stack(entry)
    assert option == caught.value.option


def test_what_a_layer_says_about_its_options_is_kept() -> None:
    with pytest.raises(ConfigurationError, match="optional") as caught:
        Stack(keys(optional=True))
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize(
    "layers",
    [
        [keys(trusted_proxies=PROXIES)],
        [Middleware(Foreign, "a"), keys(trusted_proxies=PROXIES)],
        [Stack(keys(), trusted_proxies=PROXIES)],
        [Stack(keys(trusted_proxies=PROXIES))],
        [Stack(Stack(keys(trusted_proxies=PROXIES)))],
    ],
)
def test_trusted_proxies_are_one_setting(layers: list[Any]) -> None:
    Stack(*layers)
    with pytest.raises(ConfigurationError, match="give it to the Stack") as caught:
        Stack(*layers, trusted_proxies=TrustedProxies(["192.0.2.0/24"]))
    assert "trusted_proxies" == caught.value.option


def test_cors_inside_authentication_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="put it outside of authentication"):
        Stack(keys(), Middleware(CORSMiddleware, allow_origins=["*"]))


def test_a_layer_is_built_once_over_nothing_and_once_for_each_app() -> None:
    built: list[Any] = []

    class Counted(Foreign):
        def __init__(self, app: Any) -> None:
            super().__init__(app, "")
            built.append(app)

    stack = Stack(Middleware(Counted))
    assert 1 == len(built)
    apps = [Witness(), Witness()]
    for app in apps:
        stack(app)
    assert apps == built[1:]


@pytest.mark.anyio
async def test_the_nothing_that_a_stack_is_built_over_answers_nobody() -> None:
    with pytest.raises(RuntimeError, match="not put around an app"):
        await request(Stack(keys())._over_nothing, "GET /", headers=HEADERS)


def test_layers_stand_in_the_order_in_which_they_are_given() -> None:
    app = Witness()
    guarded = Stack(Middleware(Foreign, "outer"), keys(), Middleware(Foreign, "inner", second="x"))(app)
    outer, key_layer, inner = guarded.layers
    assert isinstance(outer, Foreign)
    assert isinstance(key_layer, KeyAuthMiddleware)
    assert isinstance(inner, Foreign)
    assert (outer, key_layer, inner, app) == (guarded.entry, outer.app, key_layer.app, inner.app)
    assert ("outer", "inner", "x") == (outer.first, inner.first, inner.second)


def test_an_app_may_be_given_by_name_as_litestar_does() -> None:
    assert isinstance(Stack(keys())(app=Witness()), GuardedApp)


def test_a_stack_prints_itself_in_the_order_of_a_request_and_without_secrets() -> None:
    stack = Stack(Middleware(GZipMiddleware), keys(master_key=MASTER, required=False), trusted_proxies=PROXIES)
    shown = str(stack)
    lines = shown.splitlines()
    assert "Stack, the outermost first:" == lines[0]
    assert lines[1].startswith("  1  <starlette.middleware.gzip.GZipMiddleware")
    assert "  2  KeyAuthMiddleware(keys=StaticKeys(['ci']), required=False)" == lines[2]
    assert "     the app" == lines[3]
    assert "Stack(KeyAuthMiddleware(keys=StaticKeys(['ci']), required=True))" == repr(Stack(keys(master_key=MASTER)))
    assert "GuardedApp(KeyAuthMiddleware(keys=StaticKeys(['ci']), required=True))" == repr(Stack(keys(master_key=MASTER))(Witness()))
    nested = Stack(Stack(keys(master_key=MASTER)))
    for text in (shown, repr(stack), repr(nested), str(nested)):
        assert MASTER not in text
        assert KEY not in text


def test_a_stack_over_a_store_prints_where_the_store_is() -> None:
    stack = Stack(Middleware(KeyAuthMiddleware, keys=open_store("memory://", pepper="p" * 16 + "0123456789abcdef").keys))
    assert "0123456789abcdef" not in f"{stack} {stack!r}"


@pytest.mark.anyio
async def test_one_stack_guards_several_apps() -> None:
    stack = Stack(keys())
    apps = [Witness(), Witness()]
    first, second = (stack(app) for app in apps)
    assert 200 == (await request(first, "GET /", headers=HEADERS)).status
    assert 401 == (await request(second, "GET /")).status
    assert [1, 0] == [len(app.scopes) for app in apps]


@pytest.mark.anyio
async def test_a_stack_inside_a_starlette_list_inside_a_stack_guards_each_app_behind_it() -> None:
    app = Witness()
    inner = Starlette(routes=[Mount("/", app)], middleware=[Middleware(Stack(keys()))])
    outer = Stack(keys(required=False))(Starlette(routes=[Mount("/in", inner), Mount("/out", app)]))
    assert [401, 200] == [(await request(outer, f"GET {path}")).status for path in ("/in/x", "/out/x")]
    assert [200, 200] == [(await request(outer, f"GET {path}", headers=HEADERS)).status for path in ("/in/x", "/out/x")]
    assert ["anonymous", "key:ci", "key:ci"] == app.subjects


@pytest.mark.anyio
async def test_what_is_neither_http_nor_a_websocket_nor_a_lifespan_is_passed_on_without_a_context() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(copy.copy(scope))

    async def receive() -> Any: ...
    async def send(message: Any) -> None: ...

    await Stack(keys())(app)({"type": "something.else"}, receive, send)
    assert [{"type": "something.else"}] == seen


@pytest.mark.anyio
async def test_a_socket_passes_through_a_stack() -> None:
    app = Witness()
    async with websocket(Stack(Middleware(GZipMiddleware), keys())(app), "/v1/realtime", headers=HEADERS) as socket:
        await socket.send_text("who")
        assert "key:ci" == await socket.receive()


@pytest.mark.anyio
async def test_a_plain_list_is_refused_only_when_it_is_built_and_lets_nobody_in() -> None:
    """Starlette builds its list with the first event. What a stack says at import comes out of the first request here."""
    app = Witness()
    layers = [keys(required=False), Middleware(GZipMiddleware), Middleware(TicketLayer, required=False)]
    with pytest.raises(ConfigurationError, match="something foreign stands between it and TicketLayer"):
        await request(Starlette(routes=[Mount("/", app)], middleware=layers), "GET /x", headers=HEADERS)
    with pytest.raises(ConfigurationError, match="something foreign stands between it and TicketLayer"):
        Stack(*layers)
    assert [] == app.scopes
