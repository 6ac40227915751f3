"""However many layers count a request, it is read once, and what it can use is found out once; what somebody changes is read anew."""

from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, RBACMiddleware, Role, Stack, StaticKeys
from llm_authmw import lens as module
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing import request
from llm_authmw.testing.books import Books
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
GOOD = [(b"x-api-key", KEY.encode())]
CHAT: dict[str, object] = {"model": "gpt-4o-mini", "max_tokens": 100, "messages": []}
MANY = 90_000
DEAR = b'{"model":"gpt-4o","max_tokens":%d,"messages":[]}' % MANY
NANO_EACH = 1_000
"""Of a token, where a million of them are one dollar."""


class Rewrites:
    """A middleware of somebody else's, which sends another body on."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def receives() -> Any:
            message = await receive()
            return {**message, "body": DEAR} if message["type"] == "http.request" else message

        await self.app(scope, receives, send)


def layers(books: Books, *between: Middleware) -> list[Middleware]:
    return [
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"ci": KEY})),
        Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-4o*"])}, default_role="member"),
        Middleware(RateLimitMiddleware, ledger=books.service, limits={"key": ["1_000_000 tokens/day"]}),
        *between,
        Middleware(BudgetMiddleware, ledger=books.service, prices={"*": Price(input="1", output="1")}, limits={"key": ["1 usd/day"]}),
    ]


async def test_a_request_is_read_once_and_bounded_once_for_all_layers_that_count_it(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str) -> None:
        function = getattr(module, name)

        def counting(*given: Any, **named: Any) -> Any:
            calls.append(name)
            return function(*given, **named)

        monkeypatch.setattr(module, name, counting)

    counted("read_request")
    counted("extent_of")
    books, witness = Books(), Witness()
    answer = await request(Stack(*layers(books))(witness), "POST /v1/chat/completions", headers=GOOD, json=CHAT)
    assert (200, ["read_request", "extent_of"]) == (answer.status, calls)
    assert 2 == len(books.estimates)


async def test_a_body_that_somebody_has_changed_in_between_is_read_anew() -> None:
    books = Books()
    plain, changed = (Stack(*layers(books, *between))(Witness()) for between in ([], [Middleware(Rewrites)]))
    for app in (plain, changed):
        assert 200 == (await request(app, "POST /v1/chat/completions", headers=GOOD, json=CHAT)).status
    tokens, cheap, as_many, dear = (next(iter(each.values())) for each in books.estimates)
    assert tokens == as_many
    assert cheap < MANY * NANO_EACH < dear
