import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from llm_authmw.errors import IssuerUnavailableError, TokenInvalid
from llm_authmw.principal import Assurance
from llm_authmw.testing import ManualClock, TestIssuer
from llm_authmw.testing.scripted import Reply
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.tokens import ClaimMap
from llm_authmw.tokens.base64url import decode, encode
from llm_authmw.tokens.introspection import Introspector

pytestmark = pytest.mark.anyio

ENDPOINT = "https://sso.example.com/introspect"
ISSUER = "https://sso.example.com"
CERTIFICATE = hashlib.sha256(b"certificate").digest()
HTML = Reply(body=b"<html>Please log in to the Wi-Fi.</html>", headers={"content-type": "text/html"})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def provider() -> TokenProvider:
    return TokenProvider()


@pytest.fixture
def make(provider: TokenProvider, clock: ManualClock) -> Callable[..., Introspector]:
    def build(**options: Any) -> Introspector:
        usual: dict[str, Any] = {
            "endpoint": ENDPOINT,
            "client_id": "llm-proxy",
            "client_secret": "s3cret",
            "http": provider,
            "clock": clock,
        }
        return Introspector(**{name: value for name, value in {**usual, **options}.items() if value is not ...})

    return build


@pytest.fixture
def introspector(make: Callable[..., Introspector]) -> Introspector:
    return make()


def claims(clock: ManualClock, **changes: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "active": True,
        "sub": "ada",
        "scope": "llm:read llm:write",
        "client_id": "ide",
        "token_type": "Bearer",
        "exp": clock.now() + 300,
    }
    return {name: value for name, value in {**usual, **changes}.items() if value is not ...}


async def refusal(introspector: Introspector, token: bytes = b"t0ken") -> str:
    with pytest.raises(TokenInvalid) as caught:
        await introspector.introspect(token)
    return caught.value.reason


async def unavailable(introspector: Introspector, token: bytes = b"t0ken") -> IssuerUnavailableError:
    with pytest.raises(IssuerUnavailableError) as caught:
        await introspector.introspect(token)
    return caught.value


async def test_an_active_token_gives_a_principal(provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]) -> None:
    provider.answers["t0ken"] = claims(clock, jti="token-7", groups=["ml"])
    known = await make(realm="corp", claims=ClaimMap(client="client_id", groups="groups")).introspect(b"t0ken")
    principal = known.principal
    assert principal is not None
    assert ("corp", "ada", "ide", ("llm:read", "llm:write"), ("ml",)) == (
        principal.realm,
        principal.user,
        principal.client,
        principal.scopes,
        principal.groups,
    )
    assert ("introspection", Assurance.INTROSPECTED, ENDPOINT, "token-7", clock.now() + 300) == (
        principal.method,
        principal.assurance,
        principal.issuer,
        principal.credential_id,
        principal.expires_at,
    )


async def test_the_token_goes_into_the_body_of_a_post_with_our_credentials(provider: TokenProvider, introspector: Introspector) -> None:
    await refusal(introspector)
    (call,) = provider.asked
    assert ("POST", ENDPOINT, {"token": "t0ken", "token_type_hint": "access_token"}) == (call.method, call.url, call.fields)
    assert ("application/json", "application/x-www-form-urlencoded") == (call.headers["accept"], call.headers["content-type"])
    assert call.headers["authorization"].startswith("Basic ")


async def test_a_signed_assertion_is_for_the_issuer_where_it_is_known(provider: TokenProvider, make: Callable[..., Introspector]) -> None:
    key = TestIssuer(algorithm="ES256").keys[0].private.as_pem(private=True).decode()
    for issuer in (ISSUER, None):
        await refusal(make(client_secret=None, client_key=key, issuer=issuer))
    payloads = [json.loads(decode(call.fields["client_assertion"].split(".")[1].encode())) for call in provider.asked]
    assert [ISSUER, ENDPOINT] == [payload["aud"] for payload in payloads]


@pytest.mark.parametrize(
    "token",
    [
        b"",
        b"two words",
        b"caf\xc3\xa9",
        b"nul\x00",
        b"line\r\nbreak",
        b"q&token=other",
        b"semi;colon",
        b'quo"te',
        b"=padding-first",
        b"pad=ding",
        b"%2e%2e",
        b"a" * 8193,
    ],
)
async def test_what_does_not_look_like_a_token_is_shown_to_nobody(
    provider: TokenProvider, introspector: Introspector, token: bytes
) -> None:
    provider.otherwise = {"active": True, "sub": "ada"}
    assert "token_malformed" == await refusal(introspector, token)
    assert [] == provider.asked


@pytest.mark.parametrize("token", [b"a", b"a" * 8192, b"A-z0.9_~+/==", b"eyJhbGciOiJSUzI1NiJ9.e30.c2ln"])
async def test_whatever_looks_like_a_token_is_asked_about(provider: TokenProvider, introspector: Introspector, token: bytes) -> None:
    provider.otherwise = {"active": True, "sub": "ada"}
    await introspector.introspect(token)
    assert [token.decode()] == provider.tokens


@pytest.mark.parametrize("active", [..., None, "true", "True", 1, 1.0, [True], {"value": True}, False, "false", 0])
async def test_active_is_true_or_it_is_not(provider: TokenProvider, clock: ManualClock, introspector: Introspector, active: Any) -> None:
    provider.otherwise = claims(clock, active=active)
    assert "token_inactive" == await refusal(introspector)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": -1.0}, "token_expired"),
        ({"exp": -5.0}, "token_expired"),
        ({"nbf": 6.0}, "token_not_yet_valid"),
        ({"iat": 6.0}, "token_not_yet_valid"),
    ],
)
async def test_a_token_is_good_from_its_beginning_to_its_end(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector], changes: dict[str, float], reason: str
) -> None:
    provider.otherwise = claims(clock, **{name: clock.now() + offset for name, offset in changes.items()})
    assert reason == await refusal(make(leeway=0.5))


async def test_clocks_may_differ_by_the_leeway(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    provider.otherwise = claims(clock, exp=clock.now() - 4.9, nbf=clock.now() + 4.9, iat=clock.now() + 4.9)
    await introspector.introspect(b"t0ken")


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", [True, "1900000000", [], {}, 1e300, -(10**13), 10**400])
async def test_a_date_that_is_no_number_in_range_is_refused(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, name: str, value: Any
) -> None:
    provider.otherwise = Reply(body=json.dumps(claims(clock) | {name: value}).encode())
    assert "token_claim_invalid" == await refusal(introspector)


@pytest.mark.parametrize(
    "aud", [..., None, "", "api://llm2", "api://ll", [], ["api://other"], [["api://llm"]], ["api://llm", 7], {"api://llm": 1}]
)
async def test_an_audience_that_is_demanded_must_be_named(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector], aud: Any
) -> None:
    provider.otherwise = claims(clock, aud=aud)
    assert "audience_mismatch" == await refusal(make(audience="api://llm"))


@pytest.mark.parametrize("aud", ["api://llm", ["api://other", "api://llm"], ["api://llm-eu"]])
async def test_one_audience_of_several_is_enough(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector], aud: Any
) -> None:
    provider.otherwise = claims(clock, aud=aud)
    await make(audience=["api://llm", "api://llm-eu"]).introspect(b"t0ken")


@pytest.mark.parametrize("iss", ["https://other.example", ISSUER + "/", "", None, 7, [ISSUER]])
async def test_an_issuer_that_is_named_must_be_the_one(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector], iss: Any
) -> None:
    provider.otherwise = claims(clock, iss=iss)
    assert "issuer_mismatch" == await refusal(make(issuer=ISSUER))


async def test_an_answer_without_an_issuer_is_from_the_one_that_was_asked(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]
) -> None:
    provider.otherwise = claims(clock)
    known = await make(issuer=ISSUER).introspect(b"t0ken")
    assert known.principal is not None
    assert (ISSUER, ISSUER) == (known.principal.issuer, known.principal.realm)


@pytest.mark.parametrize("named", ["https://other.example", ISSUER])
async def test_an_issuer_that_nobody_configured_is_not_believed(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, named: str
) -> None:
    provider.otherwise = claims(clock, iss=named)
    known = await introspector.introspect(b"t0ken")
    assert known.principal is not None
    assert (ENDPOINT, ENDPOINT) == (known.principal.issuer, known.principal.realm)


@pytest.mark.parametrize(
    "changes",
    [
        {"token_type": "DPoP"},
        {"token_type": "refresh_token"},
        {"token_type": "N_A"},
        {"token_type": ["Bearer"]},
        {"token_type": ""},
        {"typ": "Refresh"},
        {"typ": "Offline"},
        {"typ": "ID"},
        {"token_use": "refresh_token"},
        {"token_use": "id"},
    ],
)
async def test_another_kind_of_token_is_refused(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, changes: dict[str, Any]
) -> None:
    provider.otherwise = claims(clock, **changes)
    assert "token_type_mismatch" == await refusal(introspector)


@pytest.mark.parametrize(
    "changes",
    [{}, {"token_type": ...}, {"token_type": "bearer"}, {"token_type": "access_token"}, {"typ": "Bearer"}, {"token_use": "access_token"}],
)
async def test_an_access_token_is_accepted_whatever_its_provider_calls_it(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, changes: dict[str, Any]
) -> None:
    provider.otherwise = claims(clock, **changes)
    await introspector.introspect(b"t0ken")


async def test_a_claim_that_is_demanded_must_be_there(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]
) -> None:
    introspector = make(required_claims=["token_type", "exp"], negative_ttl=0.0)
    for missing in ("token_type", "exp"):
        provider.otherwise = claims(clock, **{missing: ...})
        assert "token_claim_missing" == await refusal(introspector)
    provider.otherwise = claims(clock)
    await introspector.introspect(b"t0ken")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sub": ...}, "token_claim_missing"),
        ({"sub": 7}, "token_claim_invalid"),
        ({"sub": "a\nb"}, "token_claim_invalid"),
        ({"sub": ""}, "token_claim_invalid"),
        ({"sub": "client:ide"}, "token_claim_invalid"),
        ({"scope": {"llm": True}}, "token_claim_invalid"),
    ],
)
async def test_an_answer_that_names_nobody_well_is_refused(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, changes: dict[str, Any], reason: str
) -> None:
    provider.otherwise = claims(clock, **changes)
    assert reason == await refusal(introspector)


async def test_a_role_that_no_mapping_names_grants_nothing(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    provider.otherwise = claims(clock, role="proxy_admin", roles=["proxy_admin"], groups=["admins"], team="blue")
    known = await introspector.introspect(b"t0ken")
    assert known.principal is not None
    assert ((), (), None, ()) == (known.principal.roles, known.principal.groups, known.principal.team, known.principal.claims)


async def test_a_token_that_is_bound_to_a_certificate_says_to_which(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.otherwise = claims(clock, cnf={"x5t#S256": encode(CERTIFICATE).decode()})
    assert CERTIFICATE == (await introspector.introspect(b"t0ken")).certificate


@pytest.mark.parametrize(
    "cnf",
    [
        {},
        [],
        "x5t#S256",
        {"jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
        {"x5t#S256": encode(CERTIFICATE).decode(), "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"},
        {"x5t#S256": "short"},
        {"x5t#S256": None},
        {"x5t#S256": "é"},
        {"kid": "7"},
    ],
)
async def test_a_token_that_is_bound_to_what_cannot_be_proven_here_is_refused(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, cnf: Any
) -> None:
    provider.otherwise = claims(clock, cnf=cnf)
    assert "token_binding_mismatch" == await refusal(introspector)


@pytest.mark.parametrize("jti", [..., None, 7, "", "a\nb", "t0ken", "0ke"])
async def test_a_token_without_an_id_that_may_be_shown_is_named_by_a_part_of_its_hash(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector, jti: Any
) -> None:
    provider.otherwise = claims(clock, jti=jti)
    known = await introspector.introspect(b"t0ken")
    assert known.principal is not None
    assert "sha256:" + hashlib.sha256(b"t0ken").hexdigest()[:16] == known.principal.credential_id


async def test_a_good_answer_is_used_until_its_ttl(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    provider.otherwise = claims(clock)
    first = await introspector.introspect(b"t0ken")
    clock.advance(59.9)
    assert first is await introspector.introspect(b"t0ken")
    assert 1 == len(provider.asked)
    clock.advance(0.1)
    provider.otherwise = {"active": False}
    assert "token_inactive" == await refusal(introspector)
    assert 2 == len(provider.asked)


async def test_a_refusal_is_remembered_briefly(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    await refusal(introspector)
    provider.otherwise = claims(clock)
    clock.advance(4.9)
    await refusal(introspector)
    assert 1 == len(provider.asked)
    clock.advance(0.1)
    await introspector.introspect(b"t0ken")


async def test_an_answer_is_never_used_past_the_end_of_its_token(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.otherwise = claims(clock, exp=clock.now() + 30)
    await introspector.introspect(b"t0ken")
    clock.advance(29.9)
    await introspector.introspect(b"t0ken")
    assert 1 == len(provider.asked)
    clock.advance(0.1)
    await introspector.introspect(b"t0ken")
    assert 2 == len(provider.asked), "within the leeway, only the provider can say that the token has not ended"
    clock.advance(5.0)
    assert "token_expired" == await refusal(introspector)


async def test_a_clock_that_is_set_past_the_end_ends_what_is_remembered(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.otherwise = claims(clock)
    await introspector.introspect(b"t0ken")
    clock.set(clock.now() + 3600)
    assert "token_expired" == await refusal(introspector)


async def test_a_token_whose_life_was_prolonged_goes_on(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    provider.otherwise = claims(clock, exp=clock.now() + 10)
    await introspector.introspect(b"t0ken")
    clock.advance(10)
    provider.otherwise = claims(clock, exp=clock.now() + 10)
    assert clock.now() + 10 == (await introspector.introspect(b"t0ken")).ends


async def test_without_a_ttl_every_request_asks(provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]) -> None:
    introspector = make(cache_ttl=0)
    provider.otherwise = claims(clock)
    for _ in range(3):
        await introspector.introspect(b"t0ken")
    assert 3 == len(provider.asked)


async def test_a_token_without_an_end_is_good_for_the_ttl(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    provider.otherwise = claims(clock, exp=...)
    known = await introspector.introspect(b"t0ken")
    assert known.principal is not None
    assert (math.inf, None, 60.0) == (known.ends, known.principal.expires_at, introspector.due(known))


async def test_what_is_remembered_is_bounded(provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]) -> None:
    introspector = make(max_tokens=2)
    provider.otherwise = claims(clock)
    for token in (b"one", b"two", b"three", b"three", b"two", b"one"):
        await introspector.introspect(token)
    assert ["one", "two", "three", "one"] == provider.tokens


async def test_any_number_of_callers_with_one_token_make_one_call(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.otherwise = claims(clock)
    provider.may_answer = anyio.Event()
    found: list[Any] = []

    async def ask() -> None:
        found.append(await introspector.introspect(b"t0ken"))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            provider.may_answer.set()
    assert (1, 50, 1) == (len(provider.asked), len(found), len({id(known) for known in found}))


async def test_tokens_that_begin_alike_are_two(provider: TokenProvider, clock: ManualClock, introspector: Introspector) -> None:
    provider.answers["a" * 100 + "1"] = claims(clock)
    await introspector.introspect(b"a" * 100 + b"1")
    assert "token_inactive" == await refusal(introspector, b"a" * 100 + b"2")


async def test_two_handles_never_share_an_answer(provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]) -> None:
    provider.otherwise = claims(clock)
    known = [await make(realm=realm).introspect(b"t0ken") for realm in ("corp", "partners")]
    assert ["corp", "partners"] == [entry.principal.realm for entry in known if entry.principal is not None]
    assert 2 == len(provider.asked)


async def test_a_provider_that_is_down_is_left_alone_and_what_is_known_stays_good(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.answers["known"] = claims(clock)
    known = await introspector.introspect(b"known")
    provider.outage = Reply(503)
    waits = [(await unavailable(introspector, f"unknown-{number}".encode())).retry_after for number in range(20)]
    assert 1 + 5 == len(provider.asked)
    assert all(wait > 0 for wait in waits)
    assert known is await introspector.introspect(b"known")
    assert 1 + 5 == len(provider.asked)
    clock.advance(60)
    await unavailable(introspector, b"known")


async def test_slowness_opens_the_breaker_too(provider: TokenProvider, make: Callable[..., Introspector]) -> None:
    introspector = make(deadline=0.01)
    provider.may_answer = anyio.Event()
    with anyio.fail_after(5):
        for number in range(8):
            await unavailable(introspector, f"token-{number}".encode())
    assert 5 == len(provider.asked)


async def test_tokens_that_the_provider_chokes_on_do_not_stop_the_others(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.answers["good"] = claims(clock)
    provider.otherwise = Reply(400, body={"error": "invalid_request"})
    for number in range(20):
        await unavailable(introspector, f"odd-{number}".encode())
    await introspector.introspect(b"good")


async def test_when_the_provider_is_back_one_probe_finds_out(
    provider: TokenProvider, clock: ManualClock, introspector: Introspector
) -> None:
    provider.outage = HTML
    for number in range(6):
        await unavailable(introspector, f"token-{number}".encode())
    provider.outage, provider.otherwise = None, claims(clock)
    await unavailable(introspector, b"too-early")
    clock.advance(1.0)
    await introspector.introspect(b"t0ken")
    await introspector.introspect(b"other")
