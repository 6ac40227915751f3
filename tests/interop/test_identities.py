"""The program of `docs/examples/identities`, as a server process, with a real provider and a real proxy: each way in is the same ada."""

from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_authmw import Assurance, CreatedKey
from llm_authmw.testing.servers import RunningServer
from tests.peers.issuers import OidcProvider
from tests.peers.nginx import LOGIN_HEADERS, FrontProxy

PROGRAM = Path(__file__).parents[2] / "docs" / "examples" / "identities"
PROOF = "uL4-wS9_bN2vXe7RkQ5hZy8TgMd1Jc6P"
CLIENT = "asks:basic"

# What the provider says of ada in her tokens, as her key and the proxy have it.
FACTS: dict[str, Any] = {"user": "ada", "team": "research", "scopes": ["llm:chat"]}
ADA = {"tenant": "default", "realm": "corp", **FACTS, "email": "ada@example.com", "groups": ["ml-platform", "research"]}
OF_THE_CREDENTIAL = ("method", "issuer", "credential_id", "assurance", "expires_at", "authenticated_at")
NOT_ON_KEYS = ("email", "groups")

Lines = list[tuple[str, str]]


@pytest.fixture(scope="module")
def server(start_server: Callable[..., RunningServer], the_oidc_provider: OidcProvider, store_url: str) -> Iterator[RunningServer]:
    environment = {
        "SSO_URL": the_oidc_provider.url,
        "LLM_AUDIENCE": f"{OidcProvider.JWT} {OidcProvider.JWT_ES256} {OidcProvider.OPAQUE}",
        "INTROSPECTION_CLIENT": CLIENT,
        "INTROSPECTION_SECRET": the_oidc_provider.secrets[CLIENT],
        "PROXY_PROOF": PROOF,
        "AUTHMW_STORE": store_url,
    }
    running = start_server("identities:guarded", directory=PROGRAM, env=environment)
    yield running
    assert "Traceback" not in running.output


@pytest.fixture(scope="module")
def proxy(start_nginx: Callable[..., FrontProxy], server: RunningServer, login_service: RunningServer) -> FrontProxy:
    sets = {**LOGIN_HEADERS, "X-Forwarded-Team": "research", "X-Forwarded-Scopes": "llm:chat", "X-Proxy-Proof": PROOF}
    return start_nginx(server.url, login=login_service.url, sets=sets)


@pytest.fixture(scope="module")
def key(store_url: str, new_key: Callable[..., CreatedKey], server: RunningServer) -> str:
    return str(new_key(store_url, realm="corp", **FACTS).key)


@pytest.fixture
def client(server: RunningServer, make_client: Callable[..., httpx.Client]) -> Iterator[httpx.Client]:
    with make_client(base_url=server.url) as client:
        yield client


def bearer(token: str) -> Lines:
    return [("authorization", f"Bearer {token}")]


def forged(proof: str) -> Lines:
    return [("x-forwarded-user", "ada"), ("x-forwarded-email", "ada@example.com"), ("x-proxy-proof", proof)]


def caller(client: httpx.Client, headers: Lines) -> dict[str, Any]:
    answer = client.get("/v1/me", headers=headers)
    assert 200 == answer.status_code, answer.text
    told: dict[str, Any] = answer.json()
    return told


def who(principal: dict[str, Any], *apart_from: str) -> dict[str, Any]:
    """Return what is known of a caller, without what depends on the way in."""
    return {name: value for name, value in principal.items() if name not in (*OF_THE_CREDENTIAL, *apart_from)}


def test_whoever_comes_in_no_way_does_not_come_in(client: httpx.Client, oidc_provider: OidcProvider, key: str) -> None:
    token = oidc_provider.user_token("ada", resource=OidcProvider.JWT)
    revoked = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    oidc_provider.revoke(revoked)
    refusals: list[tuple[Lines, int, str]] = [
        ([], 401, "missing_credential"),
        (bearer(key[:-1] + ("a" if key[-1] != "a" else "b")), 401, "invalid_api_key"),
        (bearer(token[:-8] + token[-8:].swapcase()), 401, "invalid_token"),
        (bearer(revoked), 401, "invalid_token"),
        (bearer(oidc_provider.user_token("ada")), 401, "audience_mismatch"),
        (forged("guess"), 401, "credential_not_accepted"),
        (forged("")[:-1], 401, "missing_credential"),
        ([*bearer(token), ("x-api-key", key)], 400, "ambiguous_credential"),
        ([*bearer(token), *bearer(key)], 400, "repeated_credential"),
    ]
    for headers, status, reason in refusals:
        answer = client.get("/v1/me", headers=headers)
        assert (status, reason) == (answer.status_code, answer.headers.get("x-authmw-reason")), headers


def test_every_way_in_ends_in_one_principal(
    client: httpx.Client, oidc_provider: OidcProvider, proxy: FrontProxy, make_client: Callable[..., httpx.Client], key: str
) -> None:
    opaque = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    keys = [caller(client, bearer(key)), caller(client, [("x-api-key", key)])]
    others = [
        caller(client, bearer(oidc_provider.user_token("ada", resource=OidcProvider.JWT))),
        caller(client, bearer(oidc_provider.user_token("ada", resource=OidcProvider.JWT_ES256))),
        caller(client, bearer(opaque)),
    ]
    with make_client(base_url=proxy.url) as browser:
        others.append(caller(browser, [("cookie", "session=ada"), ("x-forwarded-user", "root"), ("x-forwarded-team", "admins")]))

    assert ["key", "key", "jwt", "jwt", "introspection", "header"] == [way["method"] for way in keys + others]
    assert [Assurance.SHARED_SECRET, Assurance.SIGNED, Assurance.INTROSPECTED, Assurance.PEER_TRUSTED] == [
        way["assurance"] for way in (keys[0], others[0], others[2], others[3])
    ]
    assert ADA == {name: others[0][name] for name in ADA}
    for one, other in combinations(others, 2):
        assert who(one) == who(other)
    # A key has no field for these two; all else that it says is what the others say.
    for one, other in combinations(keys + others, 2):
        assert who(one, *NOT_ON_KEYS) == who(other, *NOT_ON_KEYS)
    assert all(secret not in str(keys + others) for secret in (key, opaque, PROOF))


def test_the_credential_that_a_caller_presents_counts_and_not_the_proxy_it_comes_through(
    proxy: FrontProxy, oidc_provider: OidcProvider, make_client: Callable[..., httpx.Client]
) -> None:
    token = oidc_provider.user_token("bob", resource=OidcProvider.JWT)
    with make_client(base_url=proxy.url, headers={"cookie": "session=ada"}) as browser:
        assert ("bob", "jwt") == tuple(caller(browser, bearer(token))[name] for name in ("user", "method"))
        answer = browser.get("/v1/me", headers=bearer(token[:-8] + token[-8:].swapcase()))
    # And a bad one is not made good by the login.
    assert (401, "invalid_token") == (answer.status_code, answer.headers["x-authmw-reason"])


def test_one_name_in_two_realms_is_two_people(
    client: httpx.Client, store_url: str, new_key: Callable[..., CreatedKey], oidc_provider: OidcProvider
) -> None:
    local = caller(client, bearer(str(new_key(store_url, **FACTS).key)))
    corp = caller(client, bearer(oidc_provider.user_token("ada", resource=OidcProvider.JWT)))
    assert ("ada", "ada") == (local["user"], corp["user"])
    assert ("keys", "corp") == (local["realm"], corp["realm"])


def test_an_outage_of_the_provider_leaves_the_other_ways_open(
    client: httpx.Client, oidc_provider: OidcProvider, proxy: FrontProxy, make_client: Callable[..., httpx.Client], key: str
) -> None:
    known, cold = (oidc_provider.user_token("ada", resource=OidcProvider.JWT) for _ in range(2))
    opaque = oidc_provider.user_token("ada", resource=OidcProvider.OPAQUE)
    caller(client, bearer(known))
    oidc_provider.trouble("503")
    for credential in (key, known, cold):
        assert "ada" == caller(client, bearer(credential))["user"]
    answer = client.get("/v1/me", headers=bearer(opaque))
    assert (503, "issuer_unavailable") == (answer.status_code, answer.headers["x-authmw-reason"])
    assert int(answer.headers["retry-after"]) >= 1
    with make_client(base_url=proxy.url) as browser:
        assert "header" == caller(browser, [("cookie", "session=ada")])["method"]
