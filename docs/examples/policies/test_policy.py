"""Who may do what, and why not. No provider is reached, and nothing listens."""

import os
from pathlib import Path

import pytest
from gateway import guard

from llm_authmw import PolicyRouter, open_store
from llm_authmw.testing import TestIssuer, call, fake_principal, matrix

pytestmark = pytest.mark.anyio

KEPT = Path(__file__).with_name("policy.txt")
CHAT = "POST /v1/chat/completions"


@pytest.fixture
def sso() -> TestIssuer:
    return TestIssuer(audience="api://llm")


@pytest.fixture
def router(sso: TestIssuer) -> PolicyRouter:
    return guard(sso=sso.trusted(), store=open_store("memory://"))


async def test_whoever_is_known_may_chat_with_the_small_model(router: PolicyRouter) -> None:
    allowed = await call(router, CHAT, as_=fake_principal(user="ada"), model="gpt-4o-mini")
    assert allowed.allowed, allowed


async def test_a_fallback_is_a_model_too(router: PolicyRouter) -> None:
    denied = await call(router, CHAT, as_=fake_principal(user="ada"), model="gpt-4o-mini", json={"fallbacks": ["o3"]})
    assert (denied.status, denied.reason, denied.rule) == (403, "model_not_allowed", "member"), denied


async def test_a_researcher_has_the_scope_from_our_own_issuer(router: PolicyRouter, sso: TestIssuer) -> None:
    allowed = await call(router, CHAT, bearer=sso.token(sub="eve", scope="llm:research"), model="o3")
    assert allowed.allowed, allowed
    denied = await call(router, CHAT, bearer=sso.token(sub="eve", scope="llm:research"), model="o3-pro")
    assert (denied.status, denied.reason, denied.rule) == (403, "model_not_allowed", "researcher"), denied


async def test_a_key_is_no_way_into_the_administration(router: PolicyRouter, sso: TestIssuer) -> None:
    admin = await call(router, "GET /admin/usage", as_=fake_principal(method="jwt", issuer=sso.issuer, scopes=["llm:admin"]))
    assert admin.allowed, admin
    key = await call(router, "GET /admin/usage", as_=fake_principal(method="key", scopes=["llm:admin"]))
    assert (key.status, key.reason) == (401, "credential_not_accepted"), key


async def test_a_token_for_another_audience_is_refused(router: PolicyRouter, sso: TestIssuer) -> None:
    denied = await call(router, "GET /v1/models", bearer=sso.token(sub="ada", aud="api://other"))
    assert (denied.status, denied.reason) == (401, "audience_mismatch"), denied


async def test_the_policy_is_the_one_that_was_reviewed(router: PolicyRouter, sso: TestIssuer) -> None:
    token = {"method": "jwt", "issuer": sso.issuer}
    table = await matrix(
        router,
        principals={
            "a key": fake_principal(method="key", credential_id="k-1"),
            "a researcher": fake_principal(scopes=["llm:research"], **token),
            "an admin": fake_principal(scopes=["llm:admin"], **token),
            "nobody": None,
        },
        routes=["GET /health", CHAT, "POST /v1/embeddings", "GET /v1/models", "POST /v1/responses", "GET /admin/usage", "GET /metrics"],
        models=["gpt-4o-mini", "text-embedding-3-small", "o3", "o3-pro"],
    )
    if "WRITE_POLICY" in os.environ:
        KEPT.write_text(f"{table}\n", encoding="utf-8")
    assert not (changed := table.diff(KEPT.read_text(encoding="utf-8"))), f"to accept it, run this with WRITE_POLICY=1:\n{changed}"
