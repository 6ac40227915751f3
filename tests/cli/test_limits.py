import json
from collections.abc import Callable
from typing import Any

import anyio
from click.testing import Result
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, RateLimitMiddleware, Stack, open_store
from llm_authmw.testing import request
from llm_authmw.testing.witness import Witness

Run = Callable[..., Result]
MakeKey = Callable[..., tuple[str, str]]


def ask(key: str) -> None:
    """Have a key let through by a proxy on the store of this directory."""

    async def asked() -> None:
        async with open_store("sqlite:///authmw.db", deadline=10) as store:
            app = Stack(Middleware(KeyAuthMiddleware, keys=store.keys), Middleware(RateLimitMiddleware, ledger=store.ledger))(Witness())
            assert 200 == (await request(app, "GET /v1/models", headers=[(b"x-api-key", key.encode())])).status

    anyio.run(asked)


def test_show_says_what_a_key_and_its_accounts_have_left(run: Run, make_key: MakeKey) -> None:
    run("accounts", "create", "team", "blue", "--limit", "4 concurrent")
    key_id, key = make_key("--team", "blue", "--limit", "100 requests/week, calendar", "--limit", "1000 tokens/day")
    ask(key)

    result = json.loads(run("limits", "show", "key", key_id, "--json").stdout)
    found: dict[str, dict[str, Any]] = {limit.pop("bucket"): limit for limit in result["limits"]}
    assert result["counters"].endswith("authmw.db")
    assert {f"key:{key_id} / requests / week", f"key:{key_id} / tokens / day rolling", "team:blue / concurrent"} == set(found)
    requests = found[f"key:{key_id} / requests / week"]
    assert requests.pop("ends_at") > 0
    assert {
        "limit": "100 requests/week, calendar",
        "of": f"key:{key_id}",
        "tenant": "default",
        "unit": "requests",
        "used": 1,
        "left": 99,
    } == requests
    tokens, places = found[f"key:{key_id} / tokens / day rolling"], found["team:blue / concurrent"]
    assert (0, 100, None) == (tokens["used"], tokens["left"], tokens["ends_at"])
    assert (0, 4, None) == (places["used"], places["left"], places["ends_at"])

    heading, *rows = run("limits", "show", "key", key_id).stdout.splitlines()
    assert ["LIMIT", "OF", "USED", "LEFT", "ALL", "BACK"] == heading.split()
    assert rows[1].endswith("now")
    assert rows[2].endswith("with their ends")


def test_who_has_no_limit_is_told_so(run: Run) -> None:
    run("accounts", "create", "org", "acme")

    assert "org acme has no limit of its own.\n" == run("limits", "show", "org", "acme").stderr
    assert [] == json.loads(run("limits", "show", "org", "acme", "--json").stdout)["limits"]


def test_who_is_not_there_is_an_error_that_says_where_to_look(run: Run) -> None:
    run("accounts", "create", "org", "acme")

    assert "see: llm-authmw accounts list --kind team\n" in run("limits", "show", "team", "acme", exit_code=1).stderr
