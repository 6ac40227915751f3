"""Certificates that say more than their authority meant, and headers in which a client puts one on.

The attacks of HAProxy's unescaped subject, of CVE-2025-66220 (Envoy, a NUL in an alternative name), CVE-2023-27487 (Envoy, a
trusted header from a stranger) and CVE-2026-26308 (Envoy, several values).
"""

import base64
import logging
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_authmw.authn.client_cert import CertSource, ClientCertMiddleware
from llm_authmw.authn.proof import SharedSecret
from llm_authmw.certificates.headers import HEADER_FORMS, HeaderForm
from llm_authmw.certificates.rules import CertRule
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.testing import ManualClock, Response, stream, websocket
from llm_authmw.testing.certificates import CertificateAuthority, IssuedCertificate
from llm_authmw.testing.witness import Witness

SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
PROVEN = (b"x-proxy-proof", SECRET.encode())
NAMES: dict[HeaderForm, bytes] = {
    "client-cert": b"client-cert",
    "xfcc": b"x-forwarded-client-cert",
    "nginx": b"x-ssl-client-cert",
}
SOURCES: list[CertSource] = ["tls", *HEADER_FORMS]
FORMS = pytest.mark.parametrize("form", HEADER_FORMS)

AUTHORITY = CertificateAuthority("Corp CA")
ROOT = AUTHORITY.issue(dns=["root.example"], uri=["spiffe://corp.example/root"], email=["root@corp.example"], common_name="root")
RULES = [
    CertRule(spiffe="spiffe://corp.example/root", client="root", roles=["admin"]),
    CertRule(dns="root.example", client="root", roles=["admin"]),
    CertRule(email="root@corp.example", client="root", roles=["admin"]),
    CertRule(issuer=AUTHORITY.pem, user_from="dns"),
]


def guarded(app: Any, source: CertSource = "tls", **options: Any) -> ClientCertMiddleware:
    if source != "tls":
        options["proof"] = SharedSecret(header="x-proxy-proof", secret=SECRET)
    if source == "nginx":
        options["header"] = "x-ssl-client-cert"
    defaults: dict[str, Any] = {"rules": RULES, "clock": ManualClock()}
    return ClientCertMiddleware(app, source=source, **(defaults | options))


def shown(chain: Any, **members: Any) -> dict[str, Any]:
    return {"extensions": {"tls": {"client_cert_chain": chain, **members}}}


def presenting(issued: IssuedCertificate, source: CertSource) -> dict[str, Any]:
    if source == "tls":
        return {"scope": shown([issued.pem])}
    return {"headers": [PROVEN, (NAMES[source], issued.in_header(source))]}


async def ask(layer: ClientCertMiddleware, **arguments: Any) -> tuple[Response, Any]:
    async with stream(layer, "GET /v1/models", **arguments) as exchange:
        async for _ in exchange:
            pass
    return exchange.response, exchange.scope[CONTEXT_KEY]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(AUTHORITY.issue(common_name="root"), id="the name in the subject"),
        pytest.param(AUTHORITY.issue(common_name="guest/CN=root"), id="slash"),
        pytest.param(AUTHORITY.issue(common_name='guest, O=Evil"; CN=root'), id="comma and quotation mark"),
        pytest.param(AUTHORITY.issue(common_name="guest+CN=root"), id="plus"),
        pytest.param(AUTHORITY.issue(common_name='x";URI=spiffe://corp.example/root;DNS="root.example'), id="XFCC in the subject"),
        pytest.param(AUTHORITY.issue(common_name="DNS:root.example, URI:spiffe://corp.example/root"), id="names in the subject"),
        pytest.param(AUTHORITY.issue(uri=["spiffe://corp.example/root", "spiffe://corp.example/guest"]), id="two SPIFFE IDs"),
        pytest.param(AUTHORITY.issue(uri=["spiffe://corp.example/root/"]), id="trailing slash"),
        pytest.param(AUTHORITY.issue(uri=["spiffe://corp.example/guest/../root"]), id="dots"),
        pytest.param(AUTHORITY.issue(uri=["SPIFFE://corp.example/root"]), id="scheme in another case"),
        pytest.param(AUTHORITY.issue(uri=["spiffe://corp.example.evil.example/root"]), id="longer trust domain"),
        pytest.param(AUTHORITY.issue(uri=["spiffe://corp.example/root"], ca=True), id="signing certificate"),
        pytest.param(AUTHORITY.issue(dns=["*.example"]), id="wildcard"),
        pytest.param(AUTHORITY.issue(email=["root@corp.example.evil.example"]), id="look-alike domain"),
        pytest.param(AUTHORITY.issue(email=["Root@corp.example"]), id="another letter case"),
        pytest.param(CertificateAuthority("Corp CA").issue(dns=["guest.example"]), id="authority of the same name"),
    ],
)
async def test_a_certificate_that_only_looks_like_somebodys_is_not_accepted(forged: IssuedCertificate) -> None:
    app = Witness()
    for source in SOURCES:
        response, context = await ask(guarded(app, source), **presenting(forged, source))
        assert (401, "certificate_not_accepted") == (response.status, response.header("x-authmw-reason"))
        assert forged.parsed.credential_id == context.decisions[-1].credential_id
    assert [] == app.scopes


@pytest.mark.anyio
@pytest.mark.parametrize(
    "names",
    [
        {"dns": ["root.example\0.evil.example"]},
        {"dns": ["root.example", "\0"]},
        {"dns": ["root.example,DNS:x"]},
        {"uri": ["spiffe://corp.example/root\0/guest"]},
        {"uri": ["spiffe://corp.example/guest\r\nURI: spiffe://corp.example/root"]},
        {"email": ["root@corp.example\0.evil.example"]},
        {"email": ["root@corp.exampleX.evil.example"], "patch": (b"exampleX", b"example@")},
        {"dns": ["root.exampleX"], "patch": (b"exampleX", b"example\xe9")},
        {"common_name": "guest\nroot"},
    ],
)
async def test_a_name_that_reads_in_two_ways_makes_the_whole_certificate_unreadable(names: dict[str, Any]) -> None:
    app, forged = Witness(), AUTHORITY.issue(**names)
    for source in SOURCES:
        response, _ = await ask(guarded(app, source), **presenting(forged, source))
        assert (400, "certificate_malformed") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.anyio
async def test_a_self_signed_certificate_with_everybodys_names_is_not_accepted_where_the_issuer_is_asked() -> None:
    app, rogue = Witness(), CertificateAuthority("Corp CA").issue(dns=["root.example"], common_name="root")
    layer = guarded(app, rules=[CertRule(dns="root.example", issuer=AUTHORITY.pem, client="root")])
    response, _ = await ask(layer, scope=shown([rogue.pem, AUTHORITY.pem]))
    assert (401, "certificate_not_accepted") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
    genuine, _ = await ask(layer, scope=shown([ROOT.pem]))
    assert 200 == genuine.status


@pytest.mark.anyio
async def test_only_the_leaf_of_a_chain_is_somebodys() -> None:
    app, guest = Witness(), AUTHORITY.issue(ip=["192.0.2.9"])
    response, _ = await ask(guarded(app), scope=shown([guest.pem, ROOT.pem]))
    assert (401, "certificate_not_accepted") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.anyio
@pytest.mark.parametrize("error", ["expired", "", 1])
async def test_a_certificate_that_failed_verification_is_not_accepted(error: Any) -> None:
    app = Witness()
    response, _ = await ask(guarded(app), scope=shown([ROOT.pem], client_cert_error=error))
    assert (401, "certificate_not_accepted") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.anyio
@FORMS
async def test_a_clients_own_header_makes_nobody_known_and_does_not_reach_the_app(form: HeaderForm) -> None:
    app, line = Witness(), (NAMES[form], ROOT.in_header(form))
    shouted = (line[0].upper(), line[1])
    response, _ = await ask(guarded(app, form), headers=[line])
    assert (401, "missing_credential") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes
    response, _ = await ask(guarded(app, form, required=False), headers=[line, shouted], scope={"client": ("127.0.0.1", 1)})
    assert [{"subject": "anonymous", "method": "anonymous"}] == [response.json()]
    assert [] == app.scopes[0]["headers"]


@pytest.mark.anyio
@FORMS
@pytest.mark.parametrize("separator", [b"_", b"."])
async def test_an_alias_of_the_header_is_refused_with_and_without_the_real_one(form: HeaderForm, separator: bytes) -> None:
    app, value = Witness(), ROOT.in_header(form)
    alias = (NAMES[form].replace(b"-", separator), value)
    for headers in ([alias], [PROVEN, alias], [PROVEN, (NAMES[form], AUTHORITY.issue(dns=["guest.example"]).in_header(form)), alias]):
        response, _ = await ask(guarded(app, form, required=False), headers=headers)
        assert (400, "identity_header_alias") == (response.status, response.header("x-authmw-reason"))
    assert [] == app.scopes


@pytest.mark.anyio
@FORMS
async def test_a_second_value_before_or_behind_the_proxys_own_is_refused(form: HeaderForm) -> None:
    app, guest = Witness(), AUTHORITY.issue(dns=["guest.example"]).in_header(form)
    forged = ROOT.in_header(form)
    for values in ([guest, forged], [forged, guest], [guest, guest], [guest, b""], [guest + b"," + forged], [forged + b", " + guest]):
        response, _ = await ask(guarded(app, form), headers=[PROVEN, *((NAMES[form], value) for value in values)])
        assert 400 == response.status
        assert response.header("x-authmw-reason") in ("identity_header_repeated", "certificate_malformed")
    assert [] == app.scopes


@pytest.mark.anyio
async def test_an_element_that_the_client_sent_before_the_proxys_never_counts() -> None:
    app, guest = Witness(), AUTHORITY.issue(dns=["guest.example"]).in_header("xfcc")
    appended = (b"x-forwarded-client-cert", ROOT.in_header("xfcc") + b"," + guest)
    refused, _ = await ask(guarded(app, "xfcc"), headers=[PROVEN, appended])
    assert (400, "identity_header_repeated") == (refused.status, refused.header("x-authmw-reason"))
    nearest, _ = await ask(guarded(app, "xfcc", hops="nearest"), headers=[PROVEN, appended])
    assert "guest.example" == nearest.json()["subject"]


@pytest.mark.anyio
async def test_what_an_xfcc_element_says_beside_the_certificate_never_counts() -> None:
    app, guest = Witness(), AUTHORITY.issue(dns=["guest.example"]).in_header("xfcc")
    for lie in (b"URI=spiffe://corp.example/root;", b'DNS=root.example;Subject="CN=root";By=spiffe://corp.example/root;'):
        response, _ = await ask(guarded(app, "xfcc"), headers=[PROVEN, (b"x-forwarded-client-cert", lie + guest)])
        assert "guest.example" == response.json()["subject"]
    fingerprint = b"Hash=" + ROOT.parsed.fingerprint.hex().encode() + b";"
    response, _ = await ask(guarded(app, "xfcc"), headers=[PROVEN, (b"x-forwarded-client-cert", fingerprint + guest)])
    assert (400, "certificate_malformed") == (response.status, response.header("x-authmw-reason"))


@pytest.mark.anyio
@pytest.mark.parametrize(("offset", "reason"), [(-1, "certificate_expired"), (3600, "certificate_not_yet_valid")])
async def test_a_known_certificate_is_looked_at_again_by_the_clock(offset: int, reason: str) -> None:
    app, clock = Witness(), ManualClock()
    issued = AUTHORITY.issue(dns=["root.example"], not_before=clock.now() - 10, not_after=clock.now() + 10)
    layer = guarded(app, clock=clock)
    assert 200 == (await ask(layer, scope=shown([issued.pem])))[0].status
    clock.set(clock.now() + 11 if offset < 0 else clock.now() - 11)
    response, _ = await ask(layer, scope=shown([issued.pem]))
    assert (401, reason) == (response.status, response.header("x-authmw-reason"))
    assert 1 == len(app.scopes)


@pytest.mark.anyio
async def test_the_last_second_belongs_to_the_certificate_and_the_next_does_not() -> None:
    app, clock = Witness(), ManualClock()
    issued = AUTHORITY.issue(dns=["root.example"], not_after=clock.now())
    layer = guarded(app, clock=clock)
    clock.advance(0.999)
    assert 200 == (await ask(layer, scope=shown([issued.pem])))[0].status
    clock.advance(0.001)
    assert 401 == (await ask(layer, scope=shown([issued.pem])))[0].status


@pytest.mark.anyio
@FORMS
async def test_neither_certificate_nor_proof_is_told_or_logged(form: HeaderForm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    forged = AUTHORITY.issue(common_name="s3cr3t-guest")
    response, context = await ask(guarded(Witness(), form), headers=[PROVEN, (NAMES[form], forged.in_header(form))])
    told = b"".join([response.body, *(part for line in response.headers for part in line)]).decode() + caplog.text + repr(context)
    for secret in (SECRET, "s3cr3t-guest", base64.b64encode(forged.der).decode()[40:80]):
        assert secret not in told


VALUES = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [
            *(ROOT.in_header(form) for form in HEADER_FORMS),
            *(b"Hash=", ROOT.parsed.fingerprint.hex().encode(), b"URI=", b"spiffe://corp.example/root", b"DNS=", b"root.example"),
            *(b";", b",", b'"', b"\\", b":", b"=", b"%00", b"%0a", b" ", b"\x00", b"\xff"),
        ]
    ),
    max_size=8,
).map(b"".join)
EXTENSIONS = st.none() | st.fixed_dictionaries(
    {
        "tls": st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "client_cert_chain": st.none()
                | st.text(max_size=20)
                | VALUES
                | st.integers()
                | st.lists(st.sampled_from([ROOT.pem, ROOT.der, "", b"", None, "x", 5, "\ud800"]), max_size=2),
                "client_cert_error": st.none() | st.text(max_size=4),
            },
        )
    }
)


@settings(max_examples=300)
@given(
    source=st.sampled_from(["tls", *HEADER_FORMS]),
    lines=st.lists(
        st.tuples(st.sampled_from([*NAMES.values(), b"Client-Cert", b"client_cert", b"client-cert-chain", b"x-proxy-proof"]), VALUES),
        max_size=3,
    ),
    proven=st.booleans(),
    extensions=EXTENSIONS,
    socket=st.booleans(),
    hops=st.sampled_from([None, "single", "nearest"]),
)
def test_any_bytes_are_refused_or_passed_on_with_a_decision(
    source: Any, lines: list[tuple[bytes, bytes]], proven: bool, extensions: Any, socket: bool, hops: Any
) -> None:
    app = Witness()
    layer = guarded(app, source, **({"hops": hops} if source == "xfcc" else {}))
    headers = [PROVEN, *lines] if proven else lines

    async def run() -> None:
        if socket:
            async with websocket(
                layer, "/", headers=headers, scope={"extensions": {**(extensions or {}), "websocket.http.response": {}}}
            ) as opened:
                pass
            conversation: Any = opened
        else:
            async with stream(layer, "GET /", headers=headers, scope={"extensions": extensions}) as conversation:
                async for _ in conversation:
                    pass
        decision = conversation.scope[CONTEXT_KEY].decisions[-1]
        if app.scopes:
            assert "allowed" == decision.outcome
            assert ["client:root"] == app.subjects
        else:
            assert "denied" == decision.outcome
            assert conversation.response.status in (400, 401)

    anyio.run(run)
