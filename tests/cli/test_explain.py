import json
from collections.abc import Callable

import pytest
from click.testing import Result

Run = Callable[..., Result]
Module = Callable[..., str]
MakeKey = Callable[..., tuple[str, str]]
CHAT = "POST /v1/chat/completions"

APP = """
from starlette.middleware import Middleware

from llm_authmw import (
    Assurance, BudgetMiddleware, Grant, KeyAuthMiddleware, Policy, PolicyRouter, Price, RateLimitMiddleware, RBACMiddleware, Role, Stack,
    open_store
)

async def app(scope, receive, send): ...

keys = Middleware(KeyAuthMiddleware, keys=open_store("memory://").keys)
rules = Middleware(
    RBACMiddleware,
    roles={
        "member": Role(routes=["/v1/**"], models=["gpt-4o-mini"], tools=["web_search"]),
        "scoped": Role(routes=["/scoped"], scopes=["llm:admin"]),
        "signed": Role(routes=["/signed"], assurance=Assurance.SIGNED),
        "fresh": Role(routes=["/fresh"], max_age=600),
        "near": Role(routes=["/near"], networks=["10.0.0.0/8"]),
        "wide": Role(routes=["*"], models=["*"]),
    },
    grants=[
        Grant(role="wide", team="blue"),
        Grant(role="wide", claims={"department": "research", "level": 3, "staff": True}),
        Grant(role="wide", email_domain="example.com"),
        Grant(role="wide", group="llm"),
        Grant(role="member", token_role="llm-member"),
    ],
)
guard = Stack(rules)  # who is calling, somebody else says further out
twice = Stack(rules, Middleware(RBACMiddleware, roles={"member": Role(routes=["*"])}))
trial = Stack(keys, Middleware(RBACMiddleware, roles={"member": Role(routes=["/none"])}, shadow=True))
own = Stack(keys, Middleware(RBACMiddleware, authorizer=lambda request: True))
ledger = open_store("memory://").ledger
counting = Stack(
    keys,
    Middleware(RateLimitMiddleware, ledger=ledger, limits={"model": ["9 requests/minute"]}),
    Middleware(BudgetMiddleware, ledger=ledger, prices={"gpt-4o": Price(input=1)}),
)
router = PolicyRouter(app, policies=[Policy("GET /health", public=True), Policy("/v1/**", guard), Policy("/bare", Stack(keys))])
"""
ADA = ("--user", "ada")


@pytest.fixture(autouse=True)
def app(module: Module) -> None:
    module(APP)


def verdict(result: Result) -> str:
    return result.stdout.splitlines()[0].split(maxsplit=1)[1]


def test_a_denial_ends_with_1_and_says_what_missed_and_what_is_needed(run: Run) -> None:
    result = run("explain", "myapp:guard", CHAT, "--model", "o3", *ADA, "--role", "member", exit_code=1)

    fields = dict(line.split(maxsplit=1) for line in result.stdout.split("\n\n")[0].splitlines())
    assert "denied with 403, nearest role member" == fields["verdict"]
    assert fields["because"].startswith("model_not_allowed: A model that the request names is not allowed")
    assert "o3" in fields["needed"]
    assert ("ada", CHAT, "chat", "o3") == tuple(fields[name] for name in ("caller", "request", "operation", "models"))
    grants, roles = (block.splitlines() for block in result.stdout.split("\n\n")[1:])
    assert ["GRANTS", "ROLE", "CONDITION", "WANTED", "FOUND", "MET"] == grants[0].split()
    assert ["grant", "0", "wide", "team", "blue", "-", "no"] == grants[1].split()
    assert ["ROLES", "OBTAINED", "CHECK", "WANTED", "FOUND", "MET", "BY"] == roles[0].split()
    assert ["member", "own", "route", "/v1/**", *CHAT.split(), "yes", "/v1/**"] == roles[2].split()
    assert ["model", "gpt-4o-mini", "o3", "no", "-"] == roles[3].split()


def test_an_allowed_request_ends_with_0(run: Run) -> None:
    result = run("explain", "myapp:guard", CHAT, "--model", "gpt-4o-mini", "--tool", "web_search", *ADA, "--role", "member")

    assert "allowed by member" == verdict(result)
    assert "because" not in result.stdout


@pytest.mark.parametrize(
    ("request_", "allowed", "denied"),
    [
        (CHAT, ("--team", "blue"), ("--team", "red")),
        (CHAT, ("--email", "ada@example.com"), ("--email", "ada@example.org")),
        (CHAT, ("--group", "llm"), ("--group", "other")),
        (
            CHAT,
            ("--claim", "department=research", "--claim", "level=3", "--claim", "staff=true"),
            ("--claim", "department=research", "--claim", "level=three", "--claim", "staff=true"),
        ),
        ("GET /scoped", ("--role", "scoped", "--scope", "llm:admin"), ("--role", "scoped", "--scope", "llm:read")),
        ("GET /signed", ("--group", "x", "--role", "signed", "--assurance", "signed"), ("--role", "signed")),
        ("GET /fresh", ("--role", "fresh", "--logged-in", "5m"), ("--role", "fresh", "--logged-in", "1h")),
        ("GET /near", ("--role", "near", "--address", "10.1.2.3"), ("--role", "near", "--address", "192.0.2.1")),
        (
            "GET /v1/models",
            ("--issuer", "https://id.example.com", "--role", "llm-member"),
            ("--issuer", "https://id.example.com", "--role", "member"),
        ),
        ("GET /v1/models", ("--method", "custom", "--role", "member"), ("--method", "header", "--role", "member")),
    ],
)
def test_each_option_says_something_of_the_caller(run: Run, request_: str, allowed: tuple[str, ...], denied: tuple[str, ...]) -> None:
    model = ("--model", "o3") if request_ == CHAT else ()

    assert verdict(run("explain", "myapp:guard", request_, *model, *ADA, *allowed)).startswith("allowed by ")
    assert verdict(run("explain", "myapp:guard", request_, *model, *ADA, *denied, exit_code=1)).startswith("denied with ")


def test_nobody_is_anonymous(run: Run) -> None:
    result = run("explain", "myapp:guard", CHAT, exit_code=1)

    assert "denied with 401" == verdict(result)
    assert "anonymous" in result.stdout


def test_a_key_of_the_store_is_the_caller_as_its_layer_would_make_him(run: Run, make_key: MakeKey) -> None:
    key_id, text = make_key("--user", "ada", "--role", "wide", "--model", "gpt-4o*", "--quiet")

    allowed = run("explain", "myapp:guard", CHAT, "--model", "gpt-4o-mini", "--key", key_id)
    denied = json.loads(run("explain", "myapp:guard", CHAT, "--model", "o3", "--key", key_id, "--json", exit_code=1).stdout)

    assert "allowed by wide" == verdict(allowed)
    assert (403, "model_not_allowed", None) == (denied["status"], denied["reason"], denied["key_state"])
    assert text not in allowed.output


def test_a_key_that_is_revoked_is_refused_before_any_role(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--user", "ada", "--role", "wide", "--quiet")
    run("keys", "revoke", key_id)

    result = run("explain", "myapp:guard", CHAT, "--model", "o3", "--key", key_id, exit_code=1)

    assert "The key is revoked: it is refused before any of this." in result.stderr
    as_json = run("explain", "myapp:guard", CHAT, "--model", "o3", "--key", key_id, "--json", exit_code=1)
    assert "revoked" == json.loads(as_json.stdout)["key_state"]


def test_a_key_that_there_is_none_of_is_said_to_be_missing(run: Run, make_key: MakeKey) -> None:
    make_key("--quiet")

    assert "see: llm-authmw keys list" in run("explain", "myapp:guard", CHAT, "--key", "nobody", exit_code=1).stderr


def test_the_text_of_a_key_is_not_taken_and_not_printed(run: Run, make_key: MakeKey) -> None:
    key_id, text = make_key("--quiet")

    result = run("explain", "myapp:guard", CHAT, "--key", text, exit_code=1)

    assert f"give the key's id, {key_id}" in result.stderr
    assert text not in result.output


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--role", "member"), "name who is calling: --user, --client or --key"),
        (("--tenant", "acme"), "name who is calling: --user, --client or --key"),
        (("--key", "9f2c41d07ab3e865", "--user", "ada"), "--key says who is calling, and so does --user: give one of them"),
        (("--key", "9f2c41d07ab3e865", "--logged-in", "5m"), "and so does --logged-in: give one of them"),
        ((*ADA, "--method", "guess"), "Invalid value for '--method'"),
    ],
)
def test_a_caller_who_contradicts_himself_is_a_wrong_command_line(run: Run, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in " ".join(run("explain", "myapp:guard", CHAT, *arguments, exit_code=2).stderr.split())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((*ADA, "--claim", "department"), "--claim takes NAME=VALUE"),
        ((*ADA, "--logged-in", "yesterday"), "'yesterday' is not a duration"),
        ((*ADA, "--address", "here"), "address: 'here' is not an IP address"),
        ((*ADA, "--scope", ""), "--scope: has an entry that is empty"),
        (("--user", "key:1"), "a user name must not begin with"),
    ],
)
def test_a_value_outside_its_grammar_is_one_line(run: Run, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in run("explain", "myapp:guard", CHAT, *arguments, exit_code=1).stderr


def test_a_request_that_is_none_is_one_line(run: Run) -> None:
    assert "is not a method and a path" in run("explain", "myapp:guard", "/v1/chat/completions", *ADA, exit_code=1).stderr


def test_policies_are_named_and_what_no_role_looks_at_is_said(run: Run) -> None:
    public = run("explain", "myapp:router", "GET /health")
    bare = run("explain", "myapp:router", "GET /bare", *ADA)
    nowhere = run("explain", "myapp:router", "GET /other", *ADA, exit_code=1)

    assert "allowed, public" == verdict(public)
    assert "RBACMiddleware" not in public.stderr
    assert "No RBACMiddleware is on the way, so nothing was held against roles." in bare.stderr
    assert "denied with 403" == verdict(nowhere)
    assert "policy_missing" in nowhere.stdout


def test_several_layers_are_told_apart(run: Run) -> None:
    result = run("explain", "myapp:twice", "GET /v1/models", *ADA, "--role", "member")

    assert "ROLES OF LAYER 1" in result.stdout
    assert "ROLES OF LAYER 2" in result.stdout


def test_what_is_on_trial_and_what_was_not_asked_is_said(run: Run) -> None:
    trial = run("explain", "myapp:trial", "GET /v1/models", *ADA, "--role", "member")
    own = run("explain", "myapp:own", "GET /v1/models", *ADA)

    assert "allowed, since what would deny it is on trial" == verdict(trial)
    assert "Not asked, and has a word in it too: " in own.stderr


def test_a_claim_that_is_given_twice_is_a_list(run: Run) -> None:
    result = run(
        "explain", "myapp:guard", CHAT, "--model", "o3", *ADA, "--claim", "department=law", "--claim", "department=tax", exit_code=1
    )

    assert "law, tax" in result.stdout


def test_a_key_is_completed_by_its_id(run: Run, make_key: MakeKey) -> None:
    key_id, _ = make_key("--quiet")

    asked = {"_LLM_AUTHMW_COMPLETE": "bash_complete", "COMP_WORDS": f"llm-authmw explain --key {key_id[:4]}", "COMP_CWORD": "3"}
    assert f"plain,{key_id}" in run(env=asked).stdout


def test_a_role_with_many_patterns_shows_the_first_and_the_one_that_decided(run: Run, module: Module) -> None:
    module(APP + 'many = Stack(Middleware(RBACMiddleware, roles={"many": Role(routes=[f"POST /r/{n}" for n in range(90)])}))\n')
    result = run("explain", "myapp:many", "POST /r/77", *ADA, "--role", "many")
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("many "))
    assert "POST /r/0, POST /r/1, POST /r/2, and 87 more" in line
    assert line.rstrip().endswith("POST /r/77")
    assert "POST /r/50" in run("explain", "myapp:many", "POST /r/77", *ADA, "--role", "many", "--json").stdout


def test_limits_and_budgets_of_a_key_and_its_accounts_are_told(run: Run, make_key: MakeKey) -> None:
    run("accounts", "create", "team", "blue", "--budget", "500 usd/month")
    key_id, _ = make_key("--team", "blue", "--limit", "4 concurrent")

    result = run("explain", "myapp:counting", CHAT, "--model", "gpt-4o", "--key", key_id)

    heading, *rows = result.stdout.split("\n\n")[1].splitlines()
    assert ["LIMIT", "COUNTED", "BY", "OF", "LAYER"] == heading.split()
    assert {
        ("4 concurrent", "key", f"key:{key_id}", "RateLimitMiddleware"),
        ("9 requests/minute", "model", "model:gpt-4o", "RateLimitMiddleware"),
        ("500 usd/month", "team", "team:blue", "BudgetMiddleware"),
    } == {(" ".join(row.split()[:-3]), *row.split()[-3:]) for row in rows}
    limits = json.loads(run("explain", "myapp:counting", CHAT, "--model", "gpt-4o", "--key", key_id, "--json").stdout)["limits"]
    assert "team:blue / nano_usd / month" in {limit["bucket"] for limit in limits}


def test_a_model_without_a_price_is_denied(run: Run) -> None:
    assert "model_unpriced" in run("explain", "myapp:counting", CHAT, "--model", "o3", *ADA, exit_code=1).stdout
