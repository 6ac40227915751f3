from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.testing.scripted import Reply, ScriptedClient
from llm_authmw.tokens.discovery import Metadata, check_issuer, discover, metadata_urls
from llm_authmw.tokens.http import Fetcher

pytestmark = pytest.mark.anyio

ISSUER = "https://sso.example.com/realms/corp"
OPENID = "https://sso.example.com/realms/corp/.well-known/openid-configuration"
OAUTH = "https://sso.example.com/.well-known/oauth-authorization-server/realms/corp"
KEYS = "https://sso.example.com/realms/corp/keys"


def metadata(**changes: Any) -> dict[str, Any]:
    members = {"issuer": ISSUER, "jwks_uri": KEYS, **changes}
    return {name: value for name, value in members.items() if value is not None}


async def discovered(client: ScriptedClient, issuer: str = ISSUER) -> Metadata:
    return await discover(Fetcher(client), issuer)


@pytest.mark.parametrize(
    "url", ["http://sso.example.com", "https://sso.example.com#x", "sso.example.com", "https://sso.example.com/?tenant=1"]
)
def test_an_issuer_whose_metadata_nobody_can_find_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^issuer: "):
        check_issuer("issuer", url)


# OIDC Discovery §4, RFC 8414 §3.1.
@pytest.mark.parametrize(
    ("issuer", "openid", "oauth"),
    [
        (ISSUER, OPENID, OAUTH),
        (f"{ISSUER}/", OPENID, OAUTH),
        (
            "https://sso.example.com",
            "https://sso.example.com/.well-known/openid-configuration",
            "https://sso.example.com/.well-known/oauth-authorization-server",
        ),
        (
            "http://127.0.0.1:8080/",
            "http://127.0.0.1:8080/.well-known/openid-configuration",
            "http://127.0.0.1:8080/.well-known/oauth-authorization-server",
        ),
    ],
)
def test_metadata_are_where_the_two_documents_say(issuer: str, openid: str, oauth: str) -> None:
    assert issuer == check_issuer("issuer", issuer)
    assert (openid, oauth) == metadata_urls(issuer)


@pytest.mark.parametrize(
    "named",
    [None, "", f"{ISSUER}/", ISSUER.upper(), ISSUER.replace("https", "http"), "https://evil.example", f"{ISSUER}\u200b", [ISSUER], 1],
)
async def test_metadata_of_another_issuer_are_refused(named: Any) -> None:
    client = ScriptedClient({OPENID: Reply(body=metadata(issuer=named)), OAUTH: Reply(body=metadata())})
    with pytest.raises(IssuerUnavailableError, match=r"^its metadata are of another issuer: both must be equal to the letter$"):
        await discovered(client)
    assert [OPENID] == client.asked


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<!DOCTYPE html><title>Sign in</title>", id="a page"),
        pytest.param(b"[]", id="an array"),
        pytest.param(b'{"issuer":"%b","issuer":"%b"}' % (ISSUER.encode(), ISSUER.encode()), id="a member twice"),
        pytest.param(
            b'{"issuer":"%b","jwks_uri":"https://evil.example/","jwks_uri":"%b"}' % (ISSUER.encode(), KEYS.encode()), id="two key sets"
        ),
        pytest.param(b"\xef\xbb\xbf{}", id="a byte order mark"),
        pytest.param('{"issuer":"x"}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'{"issuer":' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested deeply"),
        pytest.param(b'{"issuer":"x"} {}', id="two documents"),
    ],
)
async def test_metadata_that_can_be_read_in_two_ways_or_in_none_are_refused(body: bytes) -> None:
    with pytest.raises(IssuerUnavailableError, match=r"^its metadata are not a JSON object$"):
        await discovered(ScriptedClient({OPENID: Reply(body=body)}))


@pytest.mark.parametrize("status", [201, 204, 400, 401, 403, 429, 500, 503])
async def test_an_issuer_that_does_not_answer_well_is_unavailable_and_not_asked_elsewhere(status: int) -> None:
    client = ScriptedClient({OPENID: Reply(status, metadata()), OAUTH: Reply(body=metadata())})
    with pytest.raises(IssuerUnavailableError, match=f"^its metadata were asked for, and it answered {status}$"):
        await discovered(client)
    assert [OPENID] == client.asked


async def test_an_issuer_that_has_metadata_nowhere_is_unavailable() -> None:
    client = ScriptedClient()
    with pytest.raises(IssuerUnavailableError, match=r"^it has no metadata: set the address of its keys$"):
        await discovered(client)
    assert [OPENID, OAUTH] == client.asked


async def test_an_authorization_server_that_is_no_openid_provider_is_found() -> None:
    client = ScriptedClient({OAUTH: Reply(body=metadata())})
    assert KEYS == (await discovered(client)).jwks_uri
    assert [OPENID, OAUTH] == client.asked


async def test_an_openid_provider_is_asked_once() -> None:
    client = ScriptedClient({OPENID: Reply(body=metadata()), OAUTH: Reply(body=metadata(jwks_uri="https://elsewhere.example/"))})
    assert KEYS == (await discovered(client)).jwks_uri
    assert [OPENID] == client.asked


@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "data:application/json,{}",
        "http://sso.example.com/keys",
        "http://127.0.0.1/keys",
        "https://localhost/keys",
        "https://[::1]/keys",
        "https://user:password@sso.example.com/keys",
        "//sso.example.com/keys",
        "/keys",
        "",
        7,
        ["https://sso.example.com/keys"],
        {"url": KEYS},
        True,
    ],
)
async def test_an_address_that_may_not_be_asked_counts_as_not_given(address: Any) -> None:
    found = await discovered(ScriptedClient({OPENID: Reply(body=metadata(jwks_uri=address, userinfo_endpoint=f"{ISSUER}/userinfo"))}))
    assert Metadata(issuer=ISSUER, userinfo_endpoint=f"{ISSUER}/userinfo") == found


async def test_an_issuer_on_this_machine_may_name_addresses_on_it() -> None:
    issuer = "http://127.0.0.1:8080"
    client = ScriptedClient({metadata_urls(issuer)[0]: Reply(body=metadata(issuer=issuer, jwks_uri="http://localhost:8080/keys"))})
    assert "http://localhost:8080/keys" == (await discovered(client, issuer)).jwks_uri


async def test_keys_may_be_on_another_host_as_those_of_google_are() -> None:
    client = ScriptedClient({OPENID: Reply(body=metadata(jwks_uri="https://keys.example.net/oauth2/v3/certs"))})
    assert "https://keys.example.net/oauth2/v3/certs" == (await discovered(client)).jwks_uri


async def test_all_that_later_steps_need_is_read_and_nothing_else() -> None:
    endpoints = {
        name: f"{ISSUER}/{name}"
        for name in (
            *("authorization_endpoint", "token_endpoint", "userinfo_endpoint", "introspection_endpoint"),
            *("revocation_endpoint", "end_session_endpoint", "device_authorization_endpoint"),
        )
    }
    body = metadata(**endpoints, id_token_signing_alg_values_supported=["RS256", 7, "ES256"], registration_endpoint=f"{ISSUER}/register")
    expected = Metadata(issuer=ISSUER, jwks_uri=KEYS, signing_algorithms=("RS256", "ES256"), **endpoints)
    assert expected == await discovered(ScriptedClient({OPENID: Reply(body=body)}))


@pytest.mark.parametrize("algorithms", [None, "RS256", {"RS256": 1}, 7])
async def test_algorithms_that_are_no_list_count_as_not_given(algorithms: Any) -> None:
    body = metadata(id_token_signing_alg_values_supported=algorithms)
    assert () == (await discovered(ScriptedClient({OPENID: Reply(body=body)}))).signing_algorithms
