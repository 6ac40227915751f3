import re
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Policy, PolicyRouter, RBACMiddleware, Role, Stack, StaticKeys
from llm_authmw.testing import fake_principal, matrix
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

keys = Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}))
PEOPLE = {"admin": fake_principal(user="eve", roles=["admin"]), "member": fake_principal(user="ada", roles=["member"]), "nobody": None}
ROUTES = ["POST /v1/chat/completions", "POST /model/{model}/invoke", "GET /v1/models", "DELETE /v1/files/f-1"]
MODELS = ["gpt-4o-mini", "o3"]


def guard(**changes: Any) -> Stack:
    member: dict[str, Any] = {"routes": ["POST /v1/chat/completions", "GET /v1/models"], "models": ["gpt-4o-mini"], **changes}
    roles = {"admin": Role(routes=["*"], models=["*"]), "member": Role(**member)}
    return Stack(keys, Middleware(RBACMiddleware, roles=roles))


async def test_a_matrix_is_a_table_of_who_may_do_what() -> None:
    table = await matrix(guard(), principals=PEOPLE, routes=ROUTES, models=MODELS)
    assert [
        ["principal", "route", "gpt-4o-mini", "o3", "(no model)"],
        ["admin", "POST /v1/chat/completions", "✓", "✓", "·"],
        ["admin", "POST /model/{model}/invoke", "✓", "✓", "·"],
        ["admin", "GET /v1/models", "·", "·", "✓"],
        ["admin", "DELETE /v1/files/f-1", "·", "·", "✓"],
        ["member", "POST /v1/chat/completions", "✓", "403 model_not_allowed", "·"],
        ["member", "POST /model/{model}/invoke", "403 route_not_allowed", "403 route_not_allowed", "·"],
        ["member", "GET /v1/models", "·", "·", "✓"],
        ["member", "DELETE /v1/files/f-1", "·", "·", "403 route_not_allowed"],
        ["nobody", "POST /v1/chat/completions", "401 missing_credential", "401 missing_credential", "·"],
        ["nobody", "POST /model/{model}/invoke", "401 missing_credential", "401 missing_credential", "·"],
        ["nobody", "GET /v1/models", "·", "·", "401 missing_credential"],
        ["nobody", "DELETE /v1/files/f-1", "·", "·", "401 missing_credential"],
    ] == [re.split(" {2,}", line) for line in str(table).splitlines()]


async def test_the_columns_stand_below_each_other_whatever_the_cells_say() -> None:
    lines = str(await matrix(guard(), principals=PEOPLE, routes=ROUTES, models=MODELS)).splitlines()
    places = [lines[0].index(name) for name in ("route", "gpt-4o-mini", "o3", "(no model)")]
    assert all(line[place - 2 : place] == "  " and line[place] != " " for line in lines for place in places if place < len(line))
    assert all(line == line.rstrip() for line in lines)


async def test_each_cell_keeps_its_whole_answer() -> None:
    table = await matrix(guard(), principals=PEOPLE, routes=ROUTES, models=MODELS)
    denied = table.cells["member", "POST /v1/chat/completions", "o3"]
    assert (403, "model_not_allowed", "member") == (denied.status, denied.reason, denied.rule)
    assert len(PEOPLE) * (2 * len(MODELS) + 2) == len(table.cells)
    allowed = sum(answer.allowed for answer in table.cells.values())
    assert f"<Matrix of 18 answers, {allowed} of them allowed>" == repr(table)


async def test_without_models_every_route_is_asked_once() -> None:
    table = await matrix(guard(), principals={"admin": PEOPLE["admin"]}, routes=["GET /v1/models", "POST /v1/chat/completions"])
    assert [None, None] == [model for _, _, model in table.cells]
    assert all(answer.allowed for answer in table.cells.values())


async def test_a_change_shows_as_its_own_lines_and_no_others() -> None:
    kept = str(await matrix(guard(), principals=PEOPLE, routes=ROUTES, models=MODELS))
    same = await matrix(guard(), principals=PEOPLE, routes=ROUTES, models=MODELS)
    assert "" == same.diff(kept) == same.diff(f"\n{kept}\n\n")
    wider = await matrix(guard(models=["gpt-4o-mini", "o3"]), principals=PEOPLE, routes=ROUTES, models=MODELS)
    assert [
        "--- kept",
        "+++ now",
        "@@ -6 +6 @@",
        "-member  POST /v1/chat/completions  ✓  403 model_not_allowed  ·",
        "+member  POST /v1/chat/completions  ✓  ✓  ·",
    ] == wider.diff(kept).splitlines()
    assert 1 == sum(one != other for one, other in zip(kept.splitlines(), str(wider).splitlines(), strict=True))


async def test_a_cell_that_becomes_shorter_moves_no_other() -> None:
    asked: dict[str, Any] = {"principals": {"member": PEOPLE["member"]}, "routes": [ROUTES[0], ROUTES[2]], "models": MODELS}
    kept, now = [str(await matrix(guard(models=models), **asked)).splitlines() for models in (MODELS[:1], MODELS)]
    assert [False, True, False] == [one != other for one, other in zip(kept, now, strict=True)]


async def test_a_longer_name_is_a_new_line_and_changes_no_other() -> None:
    kept = str(await matrix(guard(), principals={"member": PEOPLE["member"]}, routes=["GET /v1/models"]))
    more = await matrix(guard(), principals={"member": PEOPLE["member"], "a caller of another name": None}, routes=["GET /v1/models"])
    assert ["+a caller of another name  GET /v1/models  401 missing_credential"] == more.diff(kept).splitlines()[3:]


async def test_what_is_on_trial_shows_in_the_table() -> None:
    table = await matrix(guard(shadow=True), principals={"member": PEOPLE["member"]}, routes=ROUTES[:1], models=MODELS)
    assert ["✓", "✓ (on trial: model_not_allowed)"] == [answer.verdict for answer in table.cells.values()]


async def test_a_router_is_asked_like_a_stack() -> None:
    router = PolicyRouter(Witness(), policies=[Policy("GET /health", public=True), Policy("/v1/**", guard())])
    table = await matrix(router, principals=PEOPLE, routes=["GET /health", "GET /v1/models", "GET /metrics"])
    assert [
        *["✓", "✓", "403 policy_missing"],
        *["✓", "✓", "403 policy_missing"],
        *["✓", "401 missing_credential", "403 policy_missing"],
    ] == [answer.verdict for answer in table.cells.values()]


WRONG: dict[str, tuple[str, Mapping[str, Any]]] = {
    "nobody": ("principals", {"principals": {}}),
    "no route": ("routes", {"routes": []}),
    "one route as a text": ("routes", {"routes": "GET /v1/models"}),
    "one model as a text": ("models", {"models": "o3"}),
    "a name that breaks the table": ("principals", {"principals": {"a\nb": None}}),
    "a model that no route names": ("models", {"routes": ["GET /v1/models"], "models": ["o3"]}),
    "a place for a model, and none": ("model", {"routes": ["POST /model/{model}/invoke"]}),
}


@pytest.mark.parametrize(("option", "changes"), WRONG.values(), ids=WRONG)
async def test_a_matrix_that_asks_nothing_or_nonsense_is_refused(option: str, changes: Mapping[str, Any]) -> None:
    asked: dict[str, Any] = {"principals": PEOPLE, "routes": ["GET /v1/models"], **changes}
    with pytest.raises(ConfigurationError) as refused:
        await matrix(guard(), **asked)
    assert option == refused.value.option
