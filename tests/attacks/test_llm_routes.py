"""Routes of LLM APIs that are written so that the table of operations, a rule and the app's router read them differently."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.routing import Match, Route

from llm_authmw import Denial, KeyAuthMiddleware, Stack, StaticKey, StaticKeys
from llm_authmw.authz.rbac import RBACMiddleware
from llm_authmw.authz.roles import Role
from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.endings import Ending
from llm_authmw.llm.operations import Operations
from llm_authmw.testing import request
from llm_authmw.testing.recorder import Recorder

pytestmark = pytest.mark.anyio

OPERATIONS = Operations()


def outcome(method: str, path: str) -> tuple[str, tuple[str, ...]] | str | None:
    """The operation and the models, the reason of a denial, or None."""
    try:
        found = OPERATIONS.find(method, path)
    except Denial as denial:
        return denial.reason
    return None if found is None else (found.operation.name, found.models)


async def endpoint(_: Any) -> None:
    """Never called: only the router is asked."""


# In the order in which LiteLLM has them, which is the order in which its router looks.
ROUTES = [
    Route(path, endpoint, methods=["POST"], name=name)
    for name, path in [
        ("chat", "/v1/chat/completions"),
        ("chat", "/chat/completions"),
        ("chat", "/engines/{model:path}/chat/completions"),
        ("chat", "/openai/deployments/{model:path}/chat/completions"),
        ("completions", "/v1/completions"),
        ("completions", "/completions"),
        ("completions", "/engines/{model:path}/completions"),
        ("completions", "/openai/deployments/{model:path}/completions"),
        ("embeddings", "/v1/embeddings"),
        ("embeddings", "/embeddings"),
        ("embeddings", "/engines/{model:path}/embeddings"),
        ("embeddings", "/openai/deployments/{model:path}/embeddings"),
        ("images", "/openai/deployments/{model:path}/images/generations"),
        ("generate_content", "/v1beta/models/{model:path}:generateContent"),
        ("generate_content", "/models/{model:path}:generateContent"),
        ("generate_content", "/v1beta/models/{model:path}:streamGenerateContent"),
        ("generate_content", "/models/{model:path}:streamGenerateContent"),
        ("count_tokens", "/v1beta/models/{model:path}:countTokens"),
        ("invoke", "/bedrock/model/{model:path}/invoke"),
        ("converse", "/bedrock/model/{model:path}/converse"),
    ]
]
WORDS = [
    *("v1", "v1beta", "openai", "engines", "deployments", "models", "model", "bedrock", "chat", "completions", "embeddings"),
    *("images", "generations", "invoke", "converse", "gpt-4o", "a:generateContent", "b:streamGenerateContent", "c:countTokens"),
    *("generateContent", "a:generateContent:x", "a:b", "responses", "cancel", "mcp", "messages", "files", "threads", "*"),
]


def routed(path: str) -> tuple[str, tuple[str, ...]] | None:
    """What the app runs: the name of the route and the model that its parameter holds."""
    for route in ROUTES:
        match, scope = route.matches({"type": "http", "method": "POST", "path": path, "root_path": ""})
        if match is Match.FULL:
            return route.name, tuple(scope["path_params"].values())
    return None


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(lambda words: "/" + "/".join(words)))
@example("/engines/chat/completions")
@example("/openai/deployments/chat/completions/chat/completions")
@example("/engines/engines/gpt-4o/chat/completions")
@example("/models/a:generateContent/models/b:generateContent")
@example("/v1beta/models/responses/x/cancel:generateContent")
def test_what_the_router_would_run_is_what_is_found_or_the_path_is_refused(path: str) -> None:
    runs = routed(path)
    if runs is not None:
        assert outcome("POST", path) in {runs, "ambiguous_path", "model_malformed"}


SMALL, LARGE = "gpt-4o-mini", "o3-pro"
KEY = "sk-member-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1"


class Site:
    """An app that serves whatever it is sent, behind a role that allows every route and one model."""

    def __init__(self) -> None:
        self.app = Recorder()
        member = Role(routes=["*"], models=[SMALL])
        self.guard: Any = Stack(
            Middleware(KeyAuthMiddleware, keys=StaticKeys({"member": StaticKey(KEY, roles=["member"])})),
            Middleware(RBACMiddleware, roles={"member": member}),
        )(self.app)

    async def ask(self, target: str | bytes, body: Any = None, *headers: tuple[bytes, bytes]) -> tuple[int, str | None, int]:
        """Send JSON; return the status, the reason, and how many requests have reached the app."""
        sent = (b"authorization", b"Bearer " + KEY.encode()), (b"content-type", b"application/json"), *headers
        answer = await request(self.guard, target, headers=sent, body=b"" if body is None else msgspec.json.encode(body))
        return answer.status, answer.header("x-authmw-reason"), len(self.app.scopes)


ALLOWED = (200, None, 1)
RUNNING = sorted(
    {
        "/".join("x1" if segment is None else segment for segment in ending.segments)
        for operation in BUILT_IN
        if operation.needs_model
        for ending in map(Ending.parse, operation.routes)
        if "POST" in ending.methods and ending.model is None
    }
)
BELOW = sorted(
    {
        "/".join("x1" if segment is None else segment for segment in ending.segments[ending.model + 1 :])
        for operation in BUILT_IN
        for ending in map(Ending.parse, operation.routes)
        if "POST" in ending.methods and ending.model is not None and not ending.action and ending.segments[0] == "deployments"
    }
)


@pytest.mark.parametrize("route", RUNNING)
async def test_no_route_that_runs_a_model_escapes_the_guard_whatever_stands_before_it(route: str) -> None:
    for prefix in ("", "/v1", "/v2", "/proxy/openai/v1", "/tenants/acme/llm"):
        site = Site()
        assert (403, "model_not_allowed", 0) == await site.ask(f"POST {prefix}/{route}", {"model": LARGE})
        assert (403, "model_not_allowed", 0) == await site.ask(f"POST {prefix}/{route}/", {"model": LARGE})
        assert (403, "model_not_allowed", 0) == await site.ask(f"POST {prefix}/{route}?model={LARGE}", {"model": SMALL})
        assert (403, "model_not_allowed", 0) == await site.ask(
            f"POST {prefix}/{route}", {"model": SMALL}, (b"X_LiteLLM_Model", LARGE.encode())
        )
        assert (400, "model_missing", 0) == await site.ask(f"POST {prefix}/{route}", {})
        assert ALLOWED == await site.ask(f"POST {prefix}/{route}", {"model": SMALL})


@pytest.mark.parametrize("route", BELOW)
@pytest.mark.parametrize("below", ["deployments", "engines"])
async def test_a_model_of_the_path_counts_beside_the_one_of_the_body(below: str, route: str) -> None:
    site = Site()
    assert (403, "model_not_allowed", 0) == await site.ask(f"POST /openai/{below}/{LARGE}/{route}", {"model": SMALL})
    assert (403, "model_not_allowed", 0) == await site.ask(f"POST /openai/{below}/{SMALL}/{route}", {"model": LARGE})
    assert (403, "model_not_allowed", 0) == await site.ask(f"POST /openai/{below}/azure/{SMALL}/{route}", {})
    assert (400, "ambiguous_path", 0) == await site.ask(f"POST /openai/{below}/{LARGE}/{below}/{SMALL}/{route}", {})
    assert ALLOWED == await site.ask(f"POST /openai/{below}/{SMALL}/{route}", {})


async def test_a_deployment_that_is_called_like_a_route_is_a_deployment() -> None:
    site = Site()
    for path in (
        "/openai/deployments/chat/completions",
        "/openai/deployments/chat/completions/chat/completions",
        "/engines/chat/completions",
        "/engines/images/generations/embeddings",
    ):
        assert (403, "model_not_allowed", 0) == await site.ask(f"POST {path}", {"model": SMALL})


@pytest.mark.parametrize(
    "target",
    [
        b"POST /v1/chat/completions/..",
        b"POST /v1/chat/completions/../embeddings",
        b"POST /v1/files/../chat/completions",
        b"POST /v1/chat/completions/%2e%2e",
        b"POST /v1/chat/completions/.",
        b"POST /v1/chat/./completions",
        b"POST /v1/chat/completions;v=1",
        b"POST /v1/chat;/completions",
        b"POST /v1/chat%2fcompletions",
        b"POST /v1/chat%2Fcompletions",
        b"POST /v1/chat%5ccompletions",
        b"POST /v1/chat/completions%00",
        b"POST /v1/chat/completions%23",
        b"POST /v1/chat/completions%3f",
        b"POST /v1/chat/completions%0a",
        b"POST /v1/chat/completions%252f",
        b"POST /v1/chat//completions",
        b"POST /v1/chat/completions//",
        b"POST //v1/chat/completions",
        b"POST v1/chat/completions",
        b"POST /v1/models/%ff:generateContent",
    ],
)
async def test_a_path_that_another_reader_would_end_elsewhere_is_refused(target: bytes) -> None:
    site = Site()
    for model in (LARGE, SMALL):
        assert (400, "ambiguous_path", 0) == await site.ask(target, {"model": model})


@pytest.mark.parametrize(
    "path",
    [
        "/V1/Chat/Completions",
        "/v1/chat/Completions",
        "/v1/chat/completions.json",
        "/v1/chat/completions/x",
        "/v1/chat/completions~",
        "/v1/chat/completions:run",
        "/v1/chat/completi%C3%B6ns",
        "/v1/%EF%BD%83hat/completi%EF%BD%8Fns",
        f"/v1beta/models/{SMALL}:generateContent:x",
        f"/v1beta/models/{SMALL}:generatecontent",
        f"/v1beta/models/{SMALL}:generateContents",
        f"/v1beta/models/{SMALL}:",
        f"/v1beta/models/{SMALL}",
        "/v1beta/models/:generateContent",
        f"/v1beta/tunedModels/{SMALL}:generateContent",
        "/v1beta/vector_stores/x:generateContent",
        "/v1/vector_stores/x:generateContent",
        "/mcp/x:generateContent",
    ],
)
async def test_a_route_that_looks_like_one_and_is_none_passes_for_nothing_harmless(path: str) -> None:
    site = Site()
    for body in ({"model": SMALL}, {}):
        assert (403, "operation_unknown", 0) == await site.ask(f"POST {path}", body)


async def test_an_action_is_what_follows_the_last_colon() -> None:
    site = Site()
    assert (403, "model_not_allowed", 0) == await site.ask(f"POST /v1beta/models/{SMALL}:generateContent:generateContent", {})
    assert (403, "model_not_allowed", 0) == await site.ask(f"POST /v1beta/models/{SMALL}:countTokens:streamGenerateContent", {})
    assert (400, "ambiguous_path", 0) == await site.ask(f"POST /models/{LARGE}:generateContent/models/{SMALL}:generateContent", {})
    assert ALLOWED == await site.ask(f"POST /v1beta/models/{SMALL}:generateContent", {})


@pytest.mark.parametrize("sign", ["%20", ",", "%5B", "*", "%7B", "%22", "!", "%C3%A9", "%EF%BC%8F"])
async def test_what_is_no_name_of_a_model_is_refused_in_a_path_though_it_begins_like_an_allowed_one(sign: str) -> None:
    site = Site()
    for path in (f"/openai/deployments/{SMALL}{sign}/embeddings", f"/v1beta/models/{SMALL}{sign}:generateContent"):
        assert (400, "model_malformed", 0) == await site.ask(f"POST {path}", {})


@pytest.mark.parametrize("segment", ["x" * 10_000, ":" * 10_000, "x/" * 5_000 + "x", "models/" * 2_000 + "x", "deployments/" * 1_000 + "x"])
@pytest.mark.parametrize("ending", ["", ":generateContent", "/chat/completions", "/invoke"])
async def test_a_long_path_reaches_nobody(segment: str, ending: str) -> None:
    site = Site()
    status, _, reached = await site.ask(f"POST /openai/deployments/{segment}{ending}", {"model": LARGE})

    assert (True, 0) == (400 <= status < 500, reached)


async def test_a_model_that_is_not_allowed_is_not_described_either() -> None:
    site = Site()
    for method in ("GET", "HEAD", "DELETE"):
        for model in (LARGE, f"openai/{SMALL}", f"{SMALL}/x"):
            assert (403, "model_not_allowed", 0) == await site.ask(f"{method} /v1/models/{model}")
    assert ALLOWED == await site.ask(f"GET /v1/models/{SMALL}")
