from typing import Any

import anyio
import pytest

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError, TokenInvalid
from llm_authmw.testing import ManualClock, TestIssuer
from llm_authmw.testing.scripted import Reply
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.tokens import ClaimMap
from llm_authmw.tokens import userinfo as userinfo_room
from llm_authmw.tokens.userinfo import Userinfo

pytestmark = pytest.mark.anyio

ENDPOINT = "https://sso.example.com/userinfo"
TOKEN = b"thin.token.signature"
THIN = {"iss": "https://sso.example.com", "sub": "ada", "exp": 1_800_000_300}
FULL = {"sub": "ada", "groups": ["ml"], "name": "Ada", "email": "ada@example.com", "email_verified": True}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider() -> TokenProvider:
    provider = TokenProvider()
    provider.otherwise = FULL
    return provider


@pytest.fixture
def userinfo(provider: TokenProvider, clock: ManualClock) -> Userinfo:
    return Userinfo(ENDPOINT, http=provider, clock=clock)


async def refusal(userinfo: Userinfo, claims: dict[str, Any] = THIN, token: bytes = TOKEN) -> str:
    with pytest.raises(TokenInvalid) as caught:
        await userinfo.complete(token, claims)
    return caught.value.reason


async def unavailable(userinfo: Userinfo, token: bytes = TOKEN) -> IssuerUnavailableError:
    with pytest.raises(IssuerUnavailableError) as caught:
        await userinfo.complete(token, THIN)
    return caught.value


@pytest.mark.parametrize("sub", [None, "eve", "Ada", "ada ", 7, ["ada"], ""])
async def test_an_answer_about_somebody_else_completes_nothing(provider: TokenProvider, userinfo: Userinfo, sub: Any) -> None:
    provider.otherwise = FULL | {"sub": sub}
    assert "token_claim_invalid" == await refusal(userinfo)


@pytest.mark.parametrize("sub", [None, 7, ""])
async def test_a_token_of_nobody_is_not_completed(provider: TokenProvider, userinfo: Userinfo, sub: Any) -> None:
    provider.otherwise = FULL | {"sub": sub}
    assert "token_claim_missing" == await refusal(userinfo, THIN | {"sub": sub})
    assert [] == provider.asked


async def test_an_answer_without_a_subject_completes_nothing(provider: TokenProvider, userinfo: Userinfo) -> None:
    provider.otherwise = {"groups": ["admins"]}
    assert "token_claim_invalid" == await refusal(userinfo)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_the_provider_does_not_accept_any_more_is_refused_and_that_is_remembered_briefly(
    provider: TokenProvider, clock: ManualClock, userinfo: Userinfo, status: int
) -> None:
    provider.otherwise = Reply(status)
    for _ in range(3):
        assert "token_inactive" == await refusal(userinfo)
    assert 1 == len(provider.asked)
    clock.advance(5)
    provider.otherwise = FULL
    await userinfo.complete(TOKEN, THIN)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(404),
        Reply(429),
        Reply(body=b"<html>"),
        Reply(body=[FULL]),
        Reply(body=b'{"sub":"ada","sub":"eve"}'),
        Reply(body=b"eyJ.e30.c2ln", headers={"content-type": "application/jwt"}),
        Reply(body=FULL, headers={"content-type": "application/jwt"}),
        Reply(body=FULL | {"name": "x" * 65_536}),
        ConnectionResetError(),
    ],
)
async def test_an_answer_that_says_nothing_is_an_outage(provider: TokenProvider, userinfo: Userinfo, reply: Any) -> None:
    provider.outage = reply
    error = await unavailable(userinfo)
    assert TOKEN.decode() not in str(error)
    provider.outage = None
    await userinfo.complete(TOKEN, THIN)


async def test_a_provider_that_is_down_is_left_alone_and_what_is_known_stays_good(provider: TokenProvider, userinfo: Userinfo) -> None:
    await userinfo.complete(TOKEN, THIN)
    provider.outage = Reply(503)
    for number in range(20):
        await unavailable(userinfo, f"other-{number}".encode())
    await userinfo.complete(TOKEN, THIN)
    assert 1 + 5 == len(provider.asked)


async def test_userinfo_adds_what_the_token_does_not_say(provider: TokenProvider, userinfo: Userinfo) -> None:
    assert THIN | FULL == await userinfo.complete(TOKEN, THIN)
    (call,) = provider.asked
    assert ("GET", ENDPOINT, f"Bearer {TOKEN.decode()}", {}) == (call.method, call.url, call.headers["authorization"], call.fields)


async def test_what_the_token_says_counts(userinfo: Userinfo) -> None:
    claims: dict[str, Any] = {**THIN, "groups": [], "name": None}
    completed = await userinfo.complete(TOKEN, claims)
    assert ([], None) == (completed["groups"], completed["name"])


async def test_what_is_about_the_token_comes_from_the_token_alone(provider: TokenProvider, userinfo: Userinfo) -> None:
    about = {
        "iss": "x",
        "aud": "x",
        "exp": 9e9,
        "nbf": 0,
        "iat": 0,
        "jti": "x",
        "cnf": {},
        "act": {"sub": "x"},
        "scope": "admin",
        "azp": "x",
        "acr": "x",
    }
    provider.otherwise = FULL | about
    assert THIN | FULL == await userinfo.complete(TOKEN, THIN)


@pytest.mark.parametrize("own", [{"email": "eve@example.com"}, {"email_verified": False}])
async def test_nobody_vouches_for_one_address_by_another(userinfo: Userinfo, own: dict[str, Any]) -> None:
    completed = await userinfo.complete(TOKEN, THIN | own)
    assert own == {name: completed[name] for name in ("email", "email_verified") if name in completed}


async def test_an_answer_is_used_again_for_a_minute(provider: TokenProvider, clock: ManualClock, userinfo: Userinfo) -> None:
    await userinfo.complete(TOKEN, THIN)
    clock.advance(59.9)
    await userinfo.complete(TOKEN, THIN)
    assert 1 == len(provider.asked)
    clock.advance(0.1)
    await userinfo.complete(TOKEN, THIN)
    assert 2 == len(provider.asked)


async def test_an_answer_that_is_used_again_is_still_held_against_the_token(userinfo: Userinfo) -> None:
    await userinfo.complete(TOKEN, THIN)
    assert "token_claim_invalid" == await refusal(userinfo, THIN | {"sub": "eve"})


async def test_what_a_caller_does_with_the_claims_does_not_reach_the_next_one(userinfo: Userinfo) -> None:
    (await userinfo.complete(TOKEN, THIN)).clear()
    assert THIN | FULL == await userinfo.complete(TOKEN, THIN)


async def test_any_number_of_callers_with_one_token_make_one_call(provider: TokenProvider, userinfo: Userinfo) -> None:
    provider.may_answer = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(userinfo.complete, TOKEN, THIN)
            await anyio.wait_all_tasks_blocked()
            provider.may_answer.set()
    assert 1 == len(provider.asked)


async def test_tokens_are_asked_about_one_by_one(provider: TokenProvider, userinfo: Userinfo) -> None:
    provider.answers["one"], provider.answers["two"] = FULL, FULL | {"sub": "bob"}
    await userinfo.complete(b"one", THIN)
    await userinfo.complete(b"two", THIN | {"sub": "bob"})
    assert ["one", "two"] == provider.tokens


async def test_the_endpoint_is_found_in_the_metadata_of_the_issuer(clock: ManualClock) -> None:
    issuer = TestIssuer(clock=clock)
    issuer.know("ada", groups=["ml"])
    trusted = issuer.trusted(userinfo=True, claims=ClaimMap(groups="groups"))
    verified = await trusted.verify(issuer.token().encode())
    assert ("ada", ("ml",)) == (verified.principal.user, verified.principal.groups)
    assert 1 == issuer.hits["/userinfo"]


async def test_the_endpoint_of_an_option_is_asked(clock: ManualClock) -> None:
    issuer = TestIssuer(clock=clock)
    issuer.know("ada", groups=["ml"])
    userinfo = Userinfo.of(f"{issuer.issuer}/userinfo", issuer=issuer.issuer, http=issuer.http, clock=clock)
    await userinfo.complete(issuer.token().encode(), THIN)
    assert {"/userinfo": 1} == issuer.hits


@pytest.mark.parametrize("given", [False, None, 1, "", "http://sso.example.com/userinfo", "https://u:p@sso.example.com/"])
async def test_an_option_that_names_no_endpoint_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Userinfo.of(given, issuer="https://sso.example.com")
    assert "userinfo" == caught.value.option


async def test_without_an_issuer_there_is_nobody_to_ask_for_the_endpoint() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Userinfo()
    assert "userinfo" == caught.value.option


async def test_it_works_again_after_it_was_closed(provider: TokenProvider, clock: ManualClock, userinfo: Userinfo) -> None:
    await userinfo.complete(TOKEN, THIN)
    await userinfo.aclose()
    clock.advance(60)
    await userinfo.complete(TOKEN, THIN)
    assert 2 == len(provider.asked)


def test_what_is_known_of_a_person_is_not_printed() -> None:
    assert "ada" not in repr(userinfo_room._Answer(dict(FULL)))
