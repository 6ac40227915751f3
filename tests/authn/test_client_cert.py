"""Client certificates at the door: from the connection, and from the headers of a proxy."""

from typing import Any

import pytest

from llm_authmw import (
    Assurance,
    ConfigurationError,
    Decision,
    KeyAuthMiddleware,
    RequestContext,
    StaticKey,
    StaticKeys,
    TrustedProxies,
)
from llm_authmw.authn.client_cert import CertSource, ClientCertMiddleware
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.authn.proof import SharedSecret, UnixSocket
from llm_authmw.authn.run import Run
from llm_authmw.certificates.headers import HeaderForm
from llm_authmw.certificates.rules import CertRule
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.errors import Denial
from llm_authmw.principal import Principal
from llm_authmw.testing import ManualClock, Response, stream, websocket
from llm_authmw.testing.certificates import CertificateAuthority, IssuedCertificate
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

LAYER = "ClientCertMiddleware"
SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
PROVEN = (b"x-proxy-proof", SECRET.encode())
CLOCK = ManualClock()

AUTHORITY = CertificateAuthority()
ALICE = AUTHORITY.issue(dns=["alice.example"], email=["alice@corp.example"])
MALLORY = AUTHORITY.issue(dns=["mallory.example"])
EXPIRED = AUTHORITY.issue(dns=["alice.example"], not_after=CLOCK.now() - 5)
EARLY = AUTHORITY.issue(dns=["alice.example"], not_before=CLOCK.now() + 5)
RULES = [CertRule(dns="alice.example", user="alice", realm="corp", roles=["member"])]


NAMES: dict[HeaderForm, bytes] = {
    "client-cert": b"client-cert",
    "xfcc": b"x-forwarded-client-cert",
    "nginx": b"x-ssl-client-cert",
}
HEADERS = list(NAMES)


class Door:
    """A layer with an app behind it, and what came of the last request."""

    def __init__(self, source: CertSource = "tls", *, app: Any = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.app = Witness()
        self.source: CertSource = source
        defaults: dict[str, Any] = {"rules": RULES, "clock": self.clock}
        if source != "tls":
            defaults["proof"] = SharedSecret(header="x-proxy-proof", secret=SECRET)
        if source == "nginx":
            defaults["header"] = "x-ssl-client-cert"
        self.layer = ClientCertMiddleware(app or self.app, source=source, **(defaults | options))

    def presenting(self, issued: IssuedCertificate | None) -> dict[str, Any]:
        """Return the arguments of a request that presents a certificate in the way that the layer looks for it."""
        if self.source == "tls":
            return {"scope": {"extensions": {"tls": {"client_cert_chain": [] if issued is None else [issued.pem]}}}}
        return {"headers": [PROVEN] if issued is None else [PROVEN, (NAMES[self.source], issued.in_header(self.source))]}

    async def ask(self, **arguments: Any) -> Response:
        async with stream(self.layer, "GET /v1/models", **arguments) as exchange:
            async for _ in exchange:
                pass
        self.context: RequestContext = exchange.scope[CONTEXT_KEY]
        return exchange.response

    async def refused(self, status: int, reason: str, **arguments: Any) -> Response:
        response = await self.ask(**arguments)
        assert (status, reason) == (response.status, response.header("x-authmw-reason"))
        assert reason == self.context.decisions[-1].reason
        assert "ClientCertificate" in response.header_lines("www-authenticate")
        assert [] == self.app.scopes
        return response


SOURCES = pytest.mark.parametrize("source", ["tls", *HEADERS])


@SOURCES
async def test_without_a_certificate_a_request_is_refused(source: CertSource) -> None:
    door = Door(source)
    response = await door.refused(401, "missing_credential", **door.presenting(None))
    assert "ClientCertificate" == response.header("www-authenticate")


@SOURCES
@pytest.mark.parametrize(
    ("issued", "reason"),
    [
        (MALLORY, "certificate_not_accepted"),
        (EXPIRED, "certificate_expired"),
        (EARLY, "certificate_not_yet_valid"),
    ],
)
async def test_a_certificate_that_is_nobodys_or_not_in_its_time_is_refused_and_recorded(
    source: CertSource, issued: IssuedCertificate, reason: str
) -> None:
    door = Door(source)
    await door.refused(401, reason, **door.presenting(issued))
    assert [Decision(LAYER, "denied", reason, issued.parsed.credential_id)] == door.context.decisions


@SOURCES
async def test_a_certificate_that_a_rule_accepts_says_who_is_calling(source: CertSource) -> None:
    door = Door(source)
    for _ in range(2):
        response = await door.ask(**door.presenting(ALICE))
        assert (200, {"subject": "alice", "method": "client_cert"}) == (response.status, response.json())
    principal = door.app.scopes[0]["user"]
    assert "default/corp/alice" == principal.identity
    assert (("member",), (("x5t#S256", ALICE.parsed.thumbprint),)) == (principal.roles, principal.confirmation)
    assert (Assurance.BOUND if source == "tls" else Assurance.PEER_TRUSTED) == principal.assurance
    assert [Decision(LAYER, "allowed", None, ALICE.parsed.credential_id)] == door.context.decisions


@pytest.mark.parametrize("chain", [ALICE.pem, ALICE.pem.encode(), ALICE.der, (ALICE.pem, AUTHORITY.pem), [ALICE.der]])
async def test_the_chain_is_read_in_whatever_form_the_server_gives_it(chain: Any) -> None:
    door = Door()
    assert 200 == (await door.ask(scope={"extensions": {"tls": {"client_cert_chain": chain}}})).status


@pytest.mark.parametrize(
    "extensions", [..., None, {}, {"tls": None}, {"tls": {}}, {"tls": {"client_cert_chain": None}}, {"tls": {"client_cert_chain": ()}}]
)
async def test_a_connection_that_shows_no_certificate_has_none(extensions: Any) -> None:
    door = Door()
    await door.refused(401, "missing_credential", scope={"extensions": extensions})


async def test_a_certificate_that_the_server_could_not_verify_is_refused() -> None:
    door = Door()
    tls = {"client_cert_chain": [ALICE.pem], "client_cert_error": "self-signed certificate"}
    await door.refused(401, "certificate_not_accepted", scope={"extensions": {"tls": tls}})


@pytest.mark.parametrize("chain", [["garbage"], [b"\x30\x82"], [None], 5])
async def test_a_certificate_that_cannot_be_read_is_refused(chain: Any) -> None:
    door = Door()
    await door.refused(400, "certificate_malformed", scope={"extensions": {"tls": {"client_cert_chain": chain}}})


async def test_a_header_means_nothing_where_the_connection_is_asked() -> None:
    door = Door()
    await door.refused(401, "missing_credential", headers=[(b"client-cert", ALICE.in_header("client-cert")), PROVEN])


@pytest.mark.parametrize("source", HEADERS)
async def test_a_strangers_header_is_removed_and_makes_nobody_known(source: HeaderForm) -> None:
    name, value = NAMES[source], ALICE.in_header(source)
    door = Door(source, required=False)
    written = [(name, value), (name.title(), value), (b"client-cert-chain", b"x"), (b"accept", b"*/*")]
    response = await door.ask(headers=written)
    assert (200, "anonymous") == (response.status, response.json()["subject"])
    expected = [(b"accept", b"*/*")] if source == "client-cert" else [(b"client-cert-chain", b"x"), (b"accept", b"*/*")]
    assert expected == door.app.scopes[0]["headers"]
    await Door(source).refused(401, "missing_credential", headers=written)


@pytest.mark.parametrize("source", HEADERS)
async def test_a_wrong_proof_is_refused_whatever_else_is_sent(source: HeaderForm) -> None:
    door = Door(source)
    for issued in (None, ALICE):
        sent = door.presenting(issued)["headers"][1:]
        response = await door.ask(headers=[(b"x-proxy-proof", SECRET[::-1].encode()), *sent])
        assert (401, "credential_not_accepted") == (response.status, response.header("x-authmw-reason"))
        assert "proxy_proof_invalid" == door.context.decisions[-1].reason
    assert [] == door.app.scopes


async def test_the_proof_does_not_reach_the_app_and_the_certificate_does() -> None:
    door = Door("client-cert")
    await door.ask(**door.presenting(ALICE))
    assert [(b"client-cert", ALICE.in_header("client-cert"))] == door.app.scopes[0]["headers"]


@pytest.mark.parametrize("source", HEADERS)
async def test_a_header_that_comes_twice_is_refused_even_from_the_proxy(source: HeaderForm) -> None:
    door = Door(source)
    line = door.presenting(ALICE)["headers"][1]
    await door.refused(400, "identity_header_repeated", headers=[PROVEN, line, line])


@pytest.mark.parametrize("source", HEADERS)
async def test_another_spelling_of_the_header_is_refused_whoever_sends_it(source: HeaderForm) -> None:
    for sent in ([], [PROVEN]):
        await Door(source).refused(
            400, "identity_header_alias", headers=[*sent, (NAMES[source].replace(b"-", b"_"), ALICE.in_header(source))]
        )


async def test_another_spelling_of_the_proofs_header_is_refused_too() -> None:
    await Door("xfcc").refused(400, "identity_header_alias", headers=[(b"x_proxy_proof", SECRET.encode())])


@pytest.mark.parametrize("source", HEADERS)
@pytest.mark.parametrize("value", [b"garbage", b":AAAA:", b'Cert="x"', b"\xff\x00", b"%2D"])
async def test_a_header_that_cannot_be_read_is_refused(source: HeaderForm, value: bytes) -> None:
    await Door(source).refused(400, "certificate_malformed", headers=[PROVEN, (NAMES[source], value)])


@pytest.mark.parametrize("source", HEADERS)
async def test_a_header_with_nothing_in_it_says_that_there_is_no_certificate(source: HeaderForm) -> None:
    await Door(source).refused(401, "missing_credential", headers=[PROVEN, (NAMES[source], b" ")])


async def test_elements_of_several_proxies_are_refused_unless_the_nearest_counts() -> None:
    both = MALLORY.in_header("xfcc") + b"," + ALICE.in_header("xfcc")
    await Door("xfcc").refused(400, "identity_header_repeated", headers=[PROVEN, (b"x-forwarded-client-cert", both)])
    await Door("xfcc", hops="single").refused(400, "identity_header_repeated", headers=[PROVEN, (b"x-forwarded-client-cert", both)])
    door = Door("xfcc", hops="nearest")
    assert "alice" == (await door.ask(headers=[PROVEN, (b"x-forwarded-client-cert", both)])).json()["subject"]


async def test_a_certificate_is_held_to_the_networks_and_routes_of_its_rule() -> None:
    rules = [CertRule(dns="alice.example", user="alice", networks=["10.0.0.0/8"], routes=["POST /v1/models"])]
    door = Door(rules=rules)
    arguments = door.presenting(ALICE)
    response = await door.ask(**arguments)
    assert (403, "network_not_allowed") == (response.status, response.header("x-authmw-reason"))
    arguments["scope"]["client"] = ("10.1.2.3", 1)
    response = await door.ask(**arguments)
    assert (403, "route_not_allowed") == (response.status, response.header("x-authmw-reason"))
    assert [] == door.app.scopes


class Seen(AuthenticationLayer):
    """Stands behind, and notes what the run knows."""

    challenge = "Seen"

    async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
        self.run = run
        return None


@SOURCES
async def test_a_layer_behind_learns_the_thumbprint_that_tokens_are_bound_to(source: CertSource) -> None:
    seen = Seen(Witness())
    door = Door(source, app=seen)
    assert 200 == (await door.ask(**door.presenting(ALICE))).status
    assert ALICE.parsed.fingerprint == seen.run.certificate
    await door.ask(**door.presenting(None))
    assert seen.run.certificate is None


KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"


def beside_keys() -> Door:
    app = Witness()
    door = Door(app=KeyAuthMiddleware(app, keys=StaticKeys({"ci": StaticKey(KEY, user="ci")})))
    door.app = app
    return door


async def test_a_credential_of_the_callers_own_is_who_is_calling() -> None:
    door = beside_keys()
    certificate = door.presenting(ALICE)
    assert "ci" == (await door.ask(headers=[(b"x-api-key", KEY.encode())], **certificate)).json()["subject"]
    assert "ci" == (await door.ask(headers=[(b"x-api-key", KEY.encode())])).json()["subject"]
    assert "alice" == (await door.ask(**certificate)).json()["subject"]


async def test_a_good_certificate_makes_a_bad_key_no_better_and_a_good_key_no_bad_certificate() -> None:
    door = beside_keys()
    bad_key = await door.ask(headers=[(b"x-api-key", b"sk-bad")], **door.presenting(ALICE))
    assert (401, "invalid_api_key") == (bad_key.status, bad_key.header("x-authmw-reason"))
    bad_certificate = await door.ask(headers=[(b"x-api-key", KEY.encode())], **door.presenting(MALLORY))
    assert (401, "certificate_not_accepted") == (bad_certificate.status, bad_certificate.header("x-authmw-reason"))
    assert [] == door.app.scopes


async def test_a_stream_ends_with_its_certificate() -> None:
    door = Door()
    sent: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        for number in range(3):
            sent.append(number)
            await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
            door.clock.advance(60)

    ends = door.clock.now() + 90
    issued = AUTHORITY.issue(dns=["alice.example"], not_after=ends - 1)
    layer = ClientCertMiddleware(app, rules=RULES, clock=door.clock)
    async with stream(layer, "GET /v1/models", **door.presenting(issued)) as exchange:
        chunks = [chunk async for chunk in exchange]
    assert [b"data: 0\n\n", b"data: 1\n\n"] == chunks[:2]
    assert b"certificate_expired" in chunks[-1]
    assert [0, 1, 2] == sent
    assert Decision(LAYER, "denied", "certificate_expired", issued.parsed.credential_id) == exchange.scope[CONTEXT_KEY].decisions[-1]


class OtherEdge(AuthenticationLayer):
    """An edge that says who is calling, without an end."""

    challenge = "Other"
    edge = True

    async def authenticate(self, scope: Any, context: RequestContext, run: Run) -> Principal | Denial | None:
        return Principal(user="other", method="other")


async def test_a_stream_of_somebody_whom_another_edge_made_known_does_not_end_with_the_certificate() -> None:
    clock = ManualClock()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        clock.advance(60)
        for more in (True, False):
            await send({"type": "http.response.body", "body": scope["user"].subject.encode(), "more_body": more})

    issued = AUTHORITY.issue(dns=["alice.example"], not_after=clock.now() + 5)
    layer = OtherEdge(ClientCertMiddleware(app, rules=RULES, clock=clock))
    async with stream(layer, "GET /v1/models", **Door().presenting(issued)) as exchange:
        assert [b"other", b"other"] == [chunk async for chunk in exchange]


@SOURCES
async def test_a_websocket_is_judged_as_a_request_is(source: CertSource) -> None:
    door = Door(source)
    async with websocket(door.layer, "/v1/realtime", **door.presenting(ALICE)) as socket:
        assert socket.accepted
        await socket.send_text("who?")
        assert "alice" == await socket.receive()
    async with websocket(door.layer, "/v1/realtime", **door.presenting(MALLORY)) as socket:
        assert not socket.accepted
    assert 1 == len(door.app.scopes)


PROOF = UnixSocket()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rules": []}, "rules"),
        ({"rules": RULES[0]}, "rules"),
        ({"rules": ["spiffe://corp.example/x"]}, "rules"),
        ({"source": "header"}, "source"),
        ({"source": "tls", "proof": PROOF}, "proof"),
        ({"source": "tls", "header": "x-cert"}, "header"),
        ({"source": "tls", "hops": "nearest"}, "hops"),
        ({"source": "client-cert"}, "proof"),
        ({"source": "xfcc", "proof": "a secret"}, "proof"),
        ({"source": "client-cert", "proof": PROOF, "header": "x-cert"}, "header"),
        ({"source": "client-cert", "proof": PROOF, "hops": "single"}, "hops"),
        ({"source": "xfcc", "proof": PROOF, "hops": "first"}, "hops"),
        ({"source": "nginx", "proof": PROOF}, "header"),
        ({"source": "nginx", "proof": PROOF, "header": "X-Cert"}, "header"),
        ({"source": "nginx", "proof": PROOF, "header": "authorization"}, "header"),
        ({"source": "nginx", "proof": PROOF, "header": "cookie"}, "header"),
        ({"source": "nginx", "proof": SharedSecret(header="x-cert", secret=SECRET), "header": "x-cert"}, "header"),
        ({"required": 1}, "required"),
    ],
)
def test_a_wrong_or_ignored_option_is_refused(options: dict[str, Any], named: str) -> None:
    defaults: dict[str, Any] = {"rules": RULES}
    with pytest.raises(ConfigurationError) as refused:
        ClientCertMiddleware(Witness(), **(defaults | options))
    assert named == refused.value.option


def test_two_of_these_layers_do_not_stand_side_by_side() -> None:
    with pytest.raises(ConfigurationError, match="side by side"):
        ClientCertMiddleware(ClientCertMiddleware(Witness(), rules=RULES), rules=RULES)


def test_the_layer_prints_its_rules_and_no_secret() -> None:
    layer = Door("nginx", trusted_proxies=TrustedProxies(["10.0.0.0/8"])).layer
    assert "ClientCertMiddleware(source='nginx', rules=[CertRule(dns='alice.example')], required=True)" == repr(layer)
