"""Each row of the failure table of the key layer is made to happen, and the client and the record say what the row says."""

import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, NamedTuple

import pytest
from fastapi import FastAPI, Security
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Principal, RequestContext, Stack, Store, open_store
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.errors import StoreUnavailableError
from llm_authmw.fastapi import current_caller
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, Response, request

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs" / "layers" / "keys.md"
EXACT_FROM, EXACT_TO = "before its not-before", "its user, team or organisation is blocked"


class Row(NamedTuple):
    what: str
    status: int
    told: str
    recorded: str
    header: str


def _rows() -> list[Row]:
    table = PAGE.read_text(encoding="utf-8").partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return [
        Row(what, int(status), told.strip("`"), recorded.strip("`"), header.strip("`| ")) for what, status, told, recorded, header in cells
    ]


ROWS: Final = {row.what: row for row in _rows()}


class Scene:
    """A guarded app, a store and a clock; what is changed in them makes one thing go wrong."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.store: Store = open_store("memory://", clock=self.clock, pepper="p" * 16 + "q" * 16)
        self.options: dict[str, Any] = {}
        self.calls = 0

    async def key(self, **fields: Any) -> str:
        created = await self.store.keys.create(team="blue", **fields)
        self.id = created.id
        assert created.key is not None
        return created.key

    async def ask(self, *lines: tuple[bytes, bytes], target: str = "GET /v1/models", **options: Any) -> tuple[Response, RequestContext]:
        app = FastAPI(docs_url=None, redoc_url=None)

        @app.get("/v1/models")
        def models() -> list[str]:
            self.calls += 1
            return []

        @app.get("/v1/scoped")
        def scoped(caller: Annotated[Principal, Security(current_caller, scopes=["llm:write"])]) -> str:
            self.calls += 1
            return caller.subject

        context = RequestContext()
        guarded = Stack(Middleware(KeyAuthMiddleware, keys=self.store.keys, **self.options, **options))(app)
        return await request(guarded, target, headers=lines, scope={"llm_authmw.context": context}), context


Outcome = tuple[Response, RequestContext]
Cause = Callable[[Scene], Awaitable[Outcome]]
CAUSES: Final[dict[str, Cause]] = {}


def happens(what: str) -> Callable[[Cause], Cause]:
    return lambda cause: CAUSES.setdefault(what, cause)


def bearer(key: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + key.encode()


@happens("no credential")
async def _(scene: Scene) -> Outcome:
    return await scene.ask()


@happens("another scheme in `Authorization` (Basic)")
async def _(scene: Scene) -> Outcome:
    return await scene.ask((b"authorization", b"Basic YWRhOmJ5cm9u"))


@happens("a bearer token that is no key")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer("eyJhbGciOiJub25lIn0.e30."))


@happens("two channels at once")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    return await scene.ask(bearer(key), (b"x-api-key", key.encode()))


@happens("one header twice")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    return await scene.ask((b"x-api-key", key.encode()), (b"X-API-Key", key.encode()))


@happens("not ASCII, NUL, a blank inside, over 16 KiB")
async def _(scene: Scene) -> Outcome:
    key = (await scene.key()).encode()
    for value in (key + "é".encode(), key + b"\0", key[:20] + b" " + key[20:]):
        answer, _ = await scene.ask((b"api-key", value))
        assert (answer.status, answer.header("x-authmw-reason")) == (400, "malformed_credential")
    return await scene.ask((b"api-key", b"k" * 16_385))


@happens("mistyped: the checksum is wrong; no store call")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    scene.store = open_store("sqlite:////nowhere/that/exists/authmw.db")  # a call would be a 503
    return await scene.ask(bearer(key[:-1] + ("a" if key[-1] != "a" else "b")))


@happens("an id that does not exist")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer(mint_key().text))


@happens("an id that exists, another secret")
async def _(scene: Scene) -> Outcome:
    await scene.key()
    return await scene.ask(bearer(mint_key(key_id=scene.id).text))


@happens("before its not-before")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer(await scene.key(not_before=scene.clock.now() + 1)))


@happens("expired")
async def _(scene: Scene) -> Outcome:
    key = await scene.key(expires_at=scene.clock.now() + 60)
    scene.clock.advance(60)
    return await scene.ask(bearer(key))


@happens("rotated, and the time of grace is over")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    await scene.store.keys.rotate(scene.id, grace=60)
    answer, context = await scene.ask(bearer(key))
    assert (answer.status, context.decisions[0].mark) == (200, "retiring_secret")
    scene.calls = 0
    scene.clock.advance(60)
    return await scene.ask(bearer(key))


@happens("blocked")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    await scene.store.keys.block(scene.id)
    return await scene.ask(bearer(key))


@happens("revoked")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    await scene.store.keys.revoke(scene.id)
    return await scene.ask(bearer(key))


@happens("its user, team or organisation is blocked")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    await scene.store.accounts.create("team", "blue", status="blocked")
    return await scene.ask(bearer(key))


@happens("from a network that it may not be used from")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer(await scene.key(networks=["10.0.0.0/8"])))


@happens("for a route that it may not be used for")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer(await scene.key(routes=["POST /v1/chat/completions"])))


@happens("a path that can be read in two ways, with a key that has routes")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer(await scene.key(routes=["/v1/**"])), target="GET /v1//models")


@happens("a scope is missing that the route asks for")
async def _(scene: Scene) -> Outcome:
    return await scene.ask(bearer(await scene.key(scopes=["llm:read"])), target="GET /v1/scoped")


@happens("the store is down, locked or too slow")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    scene.store = open_store("sqlite:////nowhere/that/exists/authmw.db")
    with pytest.raises(StoreUnavailableError):
        await scene.store.keys.list()
    return await scene.ask(bearer(key))


@happens("the pepper that would verify the key is not there")
async def _(scene: Scene) -> Outcome:
    key = await scene.key()
    scene.store.keys.verifier._peppers._by_version.clear()
    return await scene.ask(bearer(key))


@happens("a check fails to run, whatever the cause")
async def _(scene: Scene) -> Outcome:
    class Broken(AuthenticationLayer):
        challenge = "Bearer"

        async def authenticate(self, scope: Any, context: RequestContext, run: Any) -> None:
            raise ZeroDivisionError

    context = RequestContext()
    answer = await request(Stack(Middleware(Broken))(FastAPI()), "GET /v1/models", scope={"llm_authmw.context": context})
    return answer, context


def test_something_makes_each_row_of_the_table_happen() -> None:
    assert list(ROWS) == list(CAUSES)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in ROWS.values()])
async def test_a_failure_looks_as_its_row_says(row: Row, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "llm_authmw")
    scene = Scene()
    answer, context = await CAUSES[row.what](scene)
    assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason"))
    assert row.told in answer.text
    assert answer.header("cache-control") == "no-store"
    name, _, value = row.header.partition(": ")
    for header in ("WWW-Authenticate", "Retry-After"):
        assert answer.header(header) == (value if header == name else None)
    assert [row.recorded] == [decision.reason for decision in context.decisions if decision.outcome == "denied"]
    assert re.search(rf"denied by \w+: {row.recorded}\b", caplog.text)
    assert scene.calls == 0


def _told_exactly() -> list[str]:
    return list(ROWS)[list(ROWS).index(EXACT_FROM) : list(ROWS).index(EXACT_TO) + 1]


@pytest.mark.parametrize("what", list(ROWS))
async def test_the_exact_reason_is_told_on_request_and_only_where_the_secret_was_right(what: str) -> None:
    scene = Scene()
    scene.options["disclosure"] = "exact"
    answer, _ = await CAUSES[what](scene)
    expected = ROWS[what].recorded if what in _told_exactly() else ROWS[what].told
    assert expected == answer.header("x-authmw-reason")


async def test_an_imported_key_is_unknown_until_the_layer_is_told_to_look() -> None:
    scene = Scene()
    theirs = "sk-yzG4v0Lw9tPq2Xn8Rb6Kd1"
    await scene.store.keys.import_key(sha256_hex=hashlib.sha256(theirs.encode()).hexdigest())
    refused, _ = await scene.ask(bearer(theirs))
    assert (refused.status, refused.header("x-authmw-reason")) == (401, "invalid_api_key")
    answer, context = await scene.ask(bearer(theirs), imported=True)
    assert (answer.status, context.decisions[0].mark) == (200, "imported_secret")
