from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from litestar import Litestar, get
from litestar.middleware import DefineMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount

from llm_authmw import (
    Assurance,
    ClaimMap,
    ConfigurationError,
    JWTMiddleware,
    KeyAuthMiddleware,
    ProtectedResource,
    ProtectedResourceMiddleware,
    Stack,
    StaticKeys,
    UpstreamCredentialMiddleware,
)
from llm_authmw.authz.grants import Grant
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.keys.static import StaticKey
from llm_authmw.testing import TestIssuer, request
from llm_authmw.testing.recorder import Recorder
from llm_authmw.testing.tickets import TicketLayer

pytestmark = pytest.mark.anyio

MEMBER = "sk-member-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1"
STRANGER = "sk-norole-1sJ6cFm3DpY5tRn8BvX4wLz9QkG2h7"
ROLES: Mapping[str, Role] = {
    "member": Role(routes=["GET /v1/models"], models=["gpt-4o-mini"]),
    "operator": Role(routes=["*"], models=["*"], tools=["*"]),
}


def rbac(roles: Mapping[str, Role] = ROLES) -> Middleware:
    return Middleware(RBACMiddleware, roles=roles)


def key_layer() -> Middleware:
    keys = {"member": StaticKey(MEMBER, roles=["member"]), "stranger": StaticKey(STRANGER)}
    return Middleware(KeyAuthMiddleware, keys=StaticKeys(keys))


# Places.


@get("/v1/models")
async def litestar_models() -> dict[str, str]:
    return {}


def fastapi(*middleware: Middleware) -> FastAPI:
    app = FastAPI(middleware=middleware)
    app.mount("/v1", Recorder())
    return app


PLACES: dict[str, Any] = {
    "a stack": lambda: Stack(key_layer(), rbac())(Recorder()),
    "a stack in a stack": lambda: Stack(key_layer(), Stack(rbac()))(Recorder()),
    "a stack around a stack": lambda: Stack(key_layer())(Stack(rbac())(Recorder())),
    "listed in Starlette": lambda: Starlette(routes=[Mount("/v1", Recorder())], middleware=[key_layer(), rbac()]),
    "listed in FastAPI": lambda: fastapi(key_layer(), rbac()),
    "a stack listed in FastAPI": lambda: fastapi(Middleware(Stack(key_layer(), rbac()))),
    "listed in Litestar": lambda: Litestar(
        [litestar_models],
        middleware=[DefineMiddleware(layer.cls, *layer.args, **layer.kwargs) for layer in (key_layer(), rbac())],
        openapi_config=None,
    ),
    "in a mount, with authentication around the app": lambda: Stack(key_layer())(
        Starlette(routes=[Mount("/v1", Recorder(), middleware=[rbac({"member": Role(routes=["GET /models"])})])])
    ),
}


@pytest.mark.parametrize("place", PLACES)
async def test_wherever_it_stands_it_asks_for_a_role(place: str) -> None:
    app = PLACES[place]()
    callers: list[list[tuple[bytes, bytes]]] = [[], [(b"x-api-key", STRANGER.encode())], [(b"x-api-key", MEMBER.encode())]]
    assert [401, 403, 200] == [(await request(app, "GET /v1/models", headers=headers)).status for headers in callers]


# Options.


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "neither roles nor an authorizer": ({"roles": None}, "roles"),
    "no role": ({"roles": {}}, "roles"),
    "something else than roles": ({"roles": {"member": {"routes": ["*"]}}}, "roles"),
    "a default role that is not defined": ({"roles": ROLES, "default_role": "guest"}, "default_role"),
    "a grant of a role that is not defined": ({"roles": ROLES, "grants": [Grant(role="guest", scope="x")]}, "grants"),
    "a group that nothing uses": ({"roles": ROLES, "route_groups": {"llm": ["*"]}}, "route_groups"),
    "an operation that no table has": ({"roles": {"member": Role(routes=["*"], models=["*"], operations=["chatting"])}}, "operations"),
    "a deadline for nothing": ({"roles": ROLES, "authorizer_deadline": 1.0}, "authorizer_deadline"),
    "a filter on trial": ({"roles": ROLES, "filter_models": True, "shadow": True}, "filter_models"),
    "a word for a switch": ({"roles": ROLES, "shadow": "yes"}, "shadow"),
    "another lens": ({"roles": ROLES, "lens": object()}, "lens"),
}


@pytest.mark.parametrize(("options", "named"), [pytest.param(*case, id=what) for what, case in BROKEN.items()])
def test_an_option_that_is_wrong_or_would_be_ignored_is_an_error_that_names_it(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        RBACMiddleware(Recorder(), **options)
    assert named == raised.value.option


@pytest.mark.parametrize("option", ["grants", "default_role", "route_groups", "model_groups", "filter_models"])
def test_an_engine_that_decides_alone_takes_no_option_of_roles(option: str) -> None:
    given: dict[str, Any] = {
        "grants": [Grant(role="member", scope="x")],
        "default_role": "member",
        "route_groups": {"llm": ["*"]},
        "model_groups": {"small": ["gpt-4o-mini"]},
        "filter_models": True,
    }
    with pytest.raises(ConfigurationError) as raised:
        RBACMiddleware(Recorder(), authorizer=lambda request: True, **{option: given[option]})
    assert option == raised.value.option


RESOURCE = ProtectedResource("https://llm.example", authorization_servers=["https://issuer.example"])


@pytest.mark.parametrize(
    ("layers", "problem"),
    [
        pytest.param([rbac(), key_layer()], "further in, behind it", id="authentication inside"),
        pytest.param([key_layer(), rbac(), key_layer()], "further in, behind it", id="authentication on both sides"),
        pytest.param([key_layer(), rbac(), Middleware(CORSMiddleware)], "put it further out", id="CORS inside"),
        pytest.param([rbac(), Middleware(ProtectedResourceMiddleware, resource=RESOURCE)], "put it further out", id="metadata inside"),
        pytest.param(
            [key_layer(), Middleware(UpstreamCredentialMiddleware, bearer="x" * 32), rbac()], "stands inside", id="behind upstream"
        ),
    ],
)
def test_a_place_where_it_could_not_work_is_an_error(layers: Sequence[Middleware], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Stack(*layers)


def test_it_shows_its_roles_and_nothing_of_theirs() -> None:
    assert "RBACMiddleware(roles=['member', 'operator'])" == repr(RBACMiddleware(Recorder(), roles=ROLES))
    assert "RBACMiddleware(roles=['member', 'operator'], shadow=True)" == repr(RBACMiddleware(Recorder(), roles=ROLES, shadow=True))


# Grants and the sources of callers.


def token_layer(*issuers: TestIssuer, **options: Any) -> Middleware:
    return Middleware(JWTMiddleware, issuers=[issuer.trusted(**options) for issuer in issuers])


A, B = TestIssuer("https://a.example"), TestIssuer("https://b.example")


@pytest.mark.parametrize(
    ("outside", "grant", "problem"),
    [
        pytest.param([token_layer(A, B)], Grant(role="member", scope="x"), "name the issuer=", id="two issuers"),
        pytest.param(
            [token_layer(A, B)], Grant(role="member", scope="x", method="jwt"), "name the issuer=", id="two issuers of one method"
        ),
        pytest.param(
            [token_layer(A), Middleware(TicketLayer)], Grant(role="member", issuer="https://c.example"), None, id="a function of one's own"
        ),
        pytest.param(
            [token_layer(A)], Grant(role="member", issuer="https://b.example"), "whom no authentication layer", id="nobody's issuer"
        ),
        pytest.param([key_layer()], Grant(role="member", method="jwt"), "whom no authentication layer", id="nobody's method"),
        pytest.param([token_layer(A)], Grant(role="member", claims={"dept": "x"}), "nobody keeps", id="a claim that nobody keeps"),
        pytest.param(
            [token_layer(A, claims=ClaimMap(keep=["dept"]))], Grant(role="member", claims={"dept": "x"}), None, id="a claim that is kept"
        ),
        pytest.param([key_layer(), token_layer(A)], Grant(role="member", scope="x"), None, id="keys are our own records"),
        pytest.param([token_layer(A, B)], Grant(role="member", scope="x", issuer="https://a.example"), None, id="the issuer is named"),
        pytest.param([token_layer(A, B)], Grant(role="member", scope="x", realm="corp"), None, id="the realm is named"),
        pytest.param([token_layer(A, B)], Grant(role="member", assurance=Assurance.SIGNED), None, id="no fact that a token states"),
        # Found out once it is known that no other layer stands further out.
        pytest.param([token_layer(A), key_layer()], Grant(role="member", issuer="https://a.example"), None, id="the issuer is further out"),
    ],
)
def test_a_grant_has_to_go_with_the_sources_of_the_callers(outside: list[Middleware], grant: Grant, problem: str | None) -> None:
    layers = [*outside, Middleware(RBACMiddleware, roles=ROLES, grants=[grant])]
    if problem is None:
        Stack(*layers)
        return
    with pytest.raises(ConfigurationError, match=problem) as raised:
        Stack(*layers)
    assert "grants" == raised.value.option


def test_in_a_plain_list_what_more_layers_cannot_set_right_is_an_error_too() -> None:
    inner = RBACMiddleware(Recorder(), roles=ROLES, grants=[Grant(role="member", scope="x")])
    KeyAuthMiddleware(inner, keys=StaticKeys({"m": MEMBER}))
    with pytest.raises(ConfigurationError, match="name the issuer="):
        JWTMiddleware(inner, issuers=[A.trusted(), B.trusted()])
