import json
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from llm_authmw.errors import IssuerUnavailableError, TokenInvalid
from llm_authmw.testing import ManualClock, TestIssuer
from llm_authmw.testing.scripted import Reply
from llm_authmw.testing.token_provider import TokenProvider
from llm_authmw.tokens import ClaimMap, Issuer
from llm_authmw.tokens.endpoints import SIGNED_MEDIA_TYPE
from llm_authmw.tokens.introspection import Introspector

pytestmark = pytest.mark.anyio

ENDPOINT = "https://sso.example.com/introspect"
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


def claims(clock: ManualClock) -> dict[str, Any]:
    return {
        "active": True,
        "sub": "ada",
        "scope": "llm:read llm:write",
        "client_id": "ide",
        "token_type": "Bearer",
        "exp": clock.now() + 300,
    }


async def refusal(introspector: Introspector, token: bytes = b"t0ken") -> str:
    with pytest.raises(TokenInvalid) as caught:
        await introspector.introspect(token)
    return caught.value.reason


async def unavailable(introspector: Introspector, token: bytes = b"t0ken") -> IssuerUnavailableError:
    with pytest.raises(IssuerUnavailableError) as caught:
        await introspector.introspect(token)
    return caught.value


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(500), id="500"),
        pytest.param(Reply(502, body=b"<html>"), id="502"),
        pytest.param(Reply(503), id="503"),
        pytest.param(Reply(429), id="429"),
        pytest.param(Reply(404), id="404"),
        pytest.param(Reply(201, body={"active": True, "sub": "ada"}), id="201"),
        pytest.param(Reply(302, headers={"location": ENDPOINT}), id="redirect"),
        pytest.param(Reply(400, body={"error": "invalid_request"}), id="400"),
        pytest.param(Reply(400, body=b"?"), id="400 that is no JSON"),
        pytest.param(Reply(413), id="413"),
        pytest.param(HTML, id="HTML"),
        pytest.param(Reply(body=b""), id="nothing"),
        pytest.param(Reply(body=b"true"), id="no object"),
        pytest.param(Reply(body=b'[{"active":true}]'), id="a list"),
        pytest.param(Reply(body=b'{"active":true,"sub":"ada","sub":"eve"}'), id="a member twice"),
        pytest.param(Reply(body=b'{"active":true,"sub":"ada"} {}'), id="two documents"),
        pytest.param(Reply(body=b'\xef\xbb\xbf{"active":true,"sub":"ada"}'), id="a byte order mark"),
        pytest.param(Reply(body='{"active":true,"sub":"ada"}'.encode("utf-16")), id="UTF-16"),
        pytest.param(Reply(body=b'{"active":true,"sub":"ada","exp":NaN}'), id="NaN"),
        pytest.param(Reply(body=b'{"active":true,"sub":"ada","x":' + b"[" * 5000 + b"]" * 5000 + b"}"), id="deep"),
        pytest.param(Reply(body=b'{"active":true,"sub":"ada","x":"' + b"x" * 65_536 + b'"}'), id="huge"),
        pytest.param(ConnectionRefusedError(), id="no connection"),
        pytest.param(RuntimeError("a client of the user's own"), id="anything"),
    ],
)
async def test_an_answer_that_says_nothing_is_an_outage_and_never_a_verdict(
    provider: TokenProvider, introspector: Introspector, reply: Any
) -> None:
    provider.outage = reply
    error = await unavailable(introspector)
    assert error.retry_after > 0
    assert "t0ken" not in str(error)
    provider.outage = None
    assert "token_inactive" == await refusal(introspector), "an outage is not remembered"


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401),
        Reply(403),
        Reply(400, body={"error": "invalid_client"}),
        Reply(401, body={"error": "invalid_token"}),
        Reply(400, body={"error": "unauthorized_client"}),
    ],
)
async def test_credentials_of_ours_that_are_wrong_are_our_fault_and_logged(
    provider: TokenProvider, introspector: Introspector, caplog: pytest.LogCaptureFixture, reply: Reply
) -> None:
    provider.outage = reply
    await unavailable(introspector)
    (record,) = caplog.records
    assert ("ERROR", "llm_authmw") == (record.levelname, record.name)
    assert "does not accept our client" in record.getMessage()
    assert "t0ken" not in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("error", ["unsupported_token_type", "invalid_token"])
async def test_a_token_that_the_endpoint_will_not_look_at_is_not_active(
    provider: TokenProvider, introspector: Introspector, error: str
) -> None:
    provider.otherwise = Reply(400, body={"error": error})
    assert "token_inactive" == await refusal(introspector)


async def test_a_provider_that_does_not_answer_in_time_is_not_waited_for(
    provider: TokenProvider, make: Callable[..., Introspector]
) -> None:
    provider.may_answer = anyio.Event()
    with anyio.fail_after(5):
        assert "in time" in str(await unavailable(make(deadline=0.02)))


async def test_the_endpoint_is_found_in_the_metadata_of_the_issuer(clock: ManualClock) -> None:
    issuer = TestIssuer(clock=clock)
    introspector = Introspector(issuer=issuer.issuer, client_id="x", client_secret="s", http=issuer.http, clock=clock)
    tokens = [issuer.opaque(sub=name) for name in ("ada", "bob")]
    known = [await introspector.introspect(token.encode()) for token in tokens]
    assert ["ada", "bob"] == [entry.principal.user for entry in known if entry.principal is not None]
    assert {"/.well-known/openid-configuration": 1, "/introspect": 2} == issuer.hits


async def test_metadata_that_are_away_later_stop_nothing(clock: ManualClock) -> None:
    issuer = TestIssuer(clock=clock)
    introspector = Introspector(issuer=issuer.issuer, client_id="x", client_secret="s", http=issuer.http, clock=clock)
    await introspector.introspect(issuer.opaque().encode())
    issuer.metadata["issuer"] = "https://somebody-else.example"
    clock.advance(3601)
    await introspector.introspect(issuer.opaque().encode())


async def test_an_issuer_without_an_introspection_endpoint_cannot_be_asked(clock: ManualClock) -> None:
    issuer = TestIssuer(clock=clock)
    issuer.metadata["introspection_endpoint"] = "http://internal.example/introspect"
    introspector = Introspector(issuer=issuer.issuer, client_id="x", client_secret="s", http=issuer.http, clock=clock)
    assert "introspection_endpoint" in str(await unavailable(introspector))


class Signing:
    """A provider whose answers are signed; what differs from a good one makes it a bad one."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.issuer = TestIssuer(clock=clock, algorithm="ES256")
        self.provider = TokenProvider()
        self.introspector = Introspector(
            endpoint=ENDPOINT, client_id="llm-proxy", client_secret="s", signed_by=self.issuer.trusted(), http=self.provider, clock=clock
        )

    def answer(self, *, header: dict[str, Any] | None = None, media_type: str = SIGNED_MEDIA_TYPE, key: Any = None, **changes: Any) -> None:
        usual = {
            "iss": self.issuer.issuer,
            "aud": "llm-proxy",
            "iat": self.clock.now(),
            "token_introspection": claims(self.clock),
        }
        payload = {name: value for name, value in {**usual, **changes}.items() if value is not ...}
        token = self.issuer.signed(json.dumps(payload).encode(), header={"typ": "token-introspection+jwt", **(header or {})}, key=key)
        self.provider.otherwise = Reply(body=token.encode(), headers={"content-type": f"{media_type}; charset=utf-8"})


@pytest.fixture
def signing(clock: ManualClock) -> Signing:
    return Signing(clock)


async def test_a_signed_answer_is_asked_for_and_read(signing: Signing) -> None:
    signing.answer()
    known = await signing.introspector.introspect(b"t0ken")
    assert known.principal is not None
    assert ("ada", SIGNED_MEDIA_TYPE) == (known.principal.user, signing.provider.asked[0].headers["accept"])


async def test_a_signed_answer_may_be_for_several(signing: Signing) -> None:
    signing.answer(aud=["llm-proxy", "api://llm"])
    await signing.introspector.introspect(b"t0ken")


@pytest.mark.parametrize("said", [{"active": False}, {"sub": "ada"}, {"active": "true", "sub": "ada"}])
async def test_a_signed_answer_may_say_that_a_token_is_not_active(signing: Signing, said: dict[str, Any]) -> None:
    signing.answer(token_introspection=said)
    assert "token_inactive" == await refusal(signing.introspector)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"header": {"typ": "at+jwt"}}, id="an access token"),
        pytest.param({"header": {"typ": None}}, id="no type"),
        pytest.param({"header": {"alg": "none"}}, id="no algorithm"),
        pytest.param({"iss": "https://other.example"}, id="another issuer"),
        pytest.param({"iss": ...}, id="no issuer"),
        pytest.param({"aud": "another-client"}, id="for somebody else"),
        pytest.param({"aud": ...}, id="for nobody"),
        pytest.param({"iat": ...}, id="no date"),
        pytest.param({"iat": 1_800_000_000.0 - 121}, id="an old one"),
        pytest.param({"iat": 1_800_000_000.0 + 61}, id="one of the future"),
        pytest.param({"token_introspection": ...}, id="nothing said"),
        pytest.param({"token_introspection": "{}"}, id="a text"),
        pytest.param({"token_introspection": ..., "active": True, "sub": "ada"}, id="said in the wrong place"),
        pytest.param({"media_type": "application/json"}, id="another media type"),
        pytest.param({"media_type": "application/jwt"}, id="a JWT of another kind"),
    ],
)
async def test_a_signed_answer_that_is_not_one_to_us_says_nothing(signing: Signing, changes: dict[str, Any]) -> None:
    signing.answer(**changes)
    await unavailable(signing.introspector)


async def test_a_signature_of_somebody_else_says_nothing(signing: Signing) -> None:
    signing.answer(key=TestIssuer(algorithm="ES256").keys[0])
    await unavailable(signing.introspector)


async def test_the_issuer_of_signed_answers_is_closed_with_the_handle(signing: Signing, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[Issuer] = []

    async def aclose(issuer: Issuer) -> None:
        closed.append(issuer)

    monkeypatch.setattr(Issuer, "aclose", aclose)
    await signing.introspector.aclose()
    assert [signing.issuer.issuer] == [issuer.issuer for issuer in closed]


async def test_where_answers_must_be_signed_a_plain_one_says_nothing(signing: Signing, clock: ManualClock) -> None:
    signing.provider.otherwise = Reply(body=claims(clock), headers={"content-type": "application/json"})
    assert "not signed" in str(await unavailable(signing.introspector))


async def test_a_token_info_endpoint_is_asked_with_the_token_itself(
    provider: TokenProvider, clock: ManualClock, make: Callable[..., Introspector]
) -> None:
    provider.otherwise = {"sub": "ada"}
    known = await make(mode="token_info", client_id=None, client_secret=None).introspect(b"t0ken")
    assert known.principal is not None
    (call,) = provider.asked
    assert ("ada", "GET", "Bearer t0ken", {}) == (known.principal.user, call.method, call.headers["authorization"], call.fields)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(401),
        Reply(403),
        Reply(404),
        Reply(400, body={"error": "invalid_token"}),
        Reply(body={"active": False, "sub": "ada"}),
        Reply(body={"active": "true", "sub": "ada"}),
    ],
)
async def test_a_token_info_endpoint_refuses_a_token_by_its_status(
    provider: TokenProvider, make: Callable[..., Introspector], reply: Reply
) -> None:
    provider.otherwise = reply
    assert "token_inactive" == await refusal(make(mode="token_info", client_id=None, client_secret=None))


@pytest.mark.parametrize("reply", [Reply(500), Reply(429), Reply(204), HTML, Reply(400)])
async def test_a_token_info_endpoint_may_be_down_as_any_other(
    provider: TokenProvider, make: Callable[..., Introspector], reply: Reply
) -> None:
    provider.otherwise = reply
    await unavailable(make(mode="token_info", client_id=None, client_secret=None))


USER = "https://api.github.com/user"
FIRST, SECOND = (f"{USER}/orgs?per_page=100&page={page}" for page in (1, 2))


@pytest.fixture
def github(provider: TokenProvider, make: Callable[..., Introspector]) -> Introspector:
    provider.answers[USER] = {"id": 1, "login": "octocat", "email": None, "name": "The Octocat", "type": "User"}
    provider.answers[FIRST] = [{"id": 2, "login": "acme"}, {"id": 3, "login": "ml-platform"}]
    return make(mode="github", endpoint=None, client_id=None, client_secret=None)


async def test_a_github_user_is_known_by_id_with_the_organisations_as_groups(provider: TokenProvider, github: Introspector) -> None:
    known = await github.introspect(b"ghp_token")
    assert known.principal is not None
    assert ("1", ("acme", "ml-platform"), USER) == (known.principal.user, known.principal.groups, known.principal.realm)
    assert {"Bearer ghp_token"} == {call.headers["authorization"] for call in provider.asked}
    assert [USER, FIRST] == [call.url for call in provider.asked]


async def test_a_login_is_a_user_name_only_where_the_map_says_so(
    provider: TokenProvider, make: Callable[..., Introspector], github: Introspector
) -> None:
    options: dict[str, Any] = {"mode": "github", "endpoint": None, "client_id": None, "client_secret": None}
    known = await make(**options, realm="github", claims=ClaimMap(user="login", scopes=None)).introspect(b"ghp_token")
    assert known.principal is not None
    assert ("octocat", (), "github") == (known.principal.user, known.principal.groups, known.principal.realm)


async def test_further_pages_of_organisations_are_read_up_to_a_bound(provider: TokenProvider, github: Introspector) -> None:
    provider.answers[FIRST] = [{"login": f"org-{number}"} for number in range(100)]
    provider.answers[SECOND] = [{"login": f"org-{number}"} for number in range(100, 200)]
    known = await github.introspect(b"ghp_token")
    assert known.principal is not None
    assert 200 == len(known.principal.groups)
    assert [USER, FIRST, SECOND] == [call.url for call in provider.asked]


@pytest.mark.parametrize("status", [403, 404])
async def test_a_token_that_may_see_no_organisations_has_none(provider: TokenProvider, github: Introspector, status: int) -> None:
    provider.answers[FIRST] = Reply(status, body={"message": "Requires read:org."})
    known = await github.introspect(b"ghp_token")
    assert known.principal is not None
    assert () == known.principal.groups


@pytest.mark.parametrize("status", [401, 403])
async def test_a_token_that_github_refuses_is_not_active(provider: TokenProvider, github: Introspector, status: int) -> None:
    provider.answers[USER] = Reply(status, body={"message": "Bad credentials"})
    assert "token_inactive" == await refusal(github, b"ghp_token")


LIMITED = {"message": "API rate limit exceeded for user ID 1."}


@pytest.mark.parametrize("url", [USER, FIRST])
@pytest.mark.parametrize(
    "reply",
    [
        Reply(403, body=LIMITED),
        Reply(429),
        Reply(500),
        Reply(400),
        HTML,
        Reply(body={}),
        Reply(body=[7]),
        Reply(body={"id": "1", "login": "x"}),
    ],
)
async def test_what_github_leaves_open_is_an_outage(provider: TokenProvider, github: Introspector, url: str, reply: Reply) -> None:
    provider.answers[url] = reply
    await unavailable(github, b"ghp_token")


async def test_one_user_who_has_asked_too_much_of_github_stops_nobody_else(provider: TokenProvider, github: Introspector) -> None:
    good = provider.answers.pop(USER)
    provider.answers["good"] = good
    provider.otherwise = Reply(403, body=LIMITED)
    for number in range(9):
        await unavailable(github, f"limited-{number}".encode())
    await github.introspect(b"good")
