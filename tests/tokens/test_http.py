import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import trustme
from anyio.abc import ByteStream, SocketAttribute

from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.testing.raw_server import Behaviour, answers, raw_server, sends
from llm_authmw.tokens import http
from llm_authmw.tokens.http import Answer, Fetcher, HTTPClient, check_url, is_loopback_url

TIME_LIMIT = 5.0
SHORT = 0.05
"""A deadline that a test waits for in full."""
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
async def fetcher() -> AsyncGenerator[Fetcher]:
    fetcher = Fetcher(max_bytes=4096)
    yield fetcher
    await fetcher.aclose()


async def refused(fetcher: Fetcher, behaviour: Behaviour) -> str:
    """Return why there was no answer."""
    async with raw_server(behaviour) as server:
        with anyio.fail_after(TIME_LIMIT), pytest.raises(IssuerUnavailableError) as caught:
            await fetcher.get(f"{server.url}/keys?secret=hunter2")
        # Nobody tries again by himself.
        assert server.connections <= 1
    error = caught.value
    assert "hunter2" not in str(error)
    # What a client raises holds the request, and that its credentials.
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None
    return str(error)


def present(authority: trustme.CA, tls: ssl.SSLContext) -> None:
    """Have a server on 127.0.0.1 present a certificate of this authority."""
    certificate: Any = authority.issue_cert("127.0.0.1")
    certificate.configure_cert(tls)


async def hangs(stream: ByteStream) -> None:
    await stream.receive()


async def resets(stream: ByteStream) -> None:
    connection: Any = stream.extra(SocketAttribute.raw_socket)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def hangs_in_the_header(stream: ByteStream) -> None:
    await stream.send(OK + b"Content-Type: app")
    await hangs(stream)


async def hangs_in_the_body(stream: ByteStream) -> None:
    await stream.send(OK + b"Content-Length: 100\r\n\r\n{")
    await hangs(stream)


async def never_ends(stream: ByteStream) -> None:
    await stream.send(OK + b"Connection: close\r\n\r\n")
    while True:
        await stream.send(b" " * 1024)


async def never_ends_its_header(stream: ByteStream) -> None:
    await stream.send(OK)
    while True:
        await stream.send(b"x-more: " + b"y" * 1024 + b"\r\n")


async def never_ends_its_chunks(stream: ByteStream) -> None:
    await stream.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await stream.send(b"400\r\n" + b" " * 1024 + b"\r\n")


async def drips(stream: ByteStream) -> None:
    await stream.send(OK + b"Content-Length: 4000\r\n\r\n")
    while True:
        await stream.send(b" ")
        # How the server behaves: one byte now and then, so that no single read is ever late.
        await anyio.sleep(SHORT / 20)


GOOD_URLS = [
    "https://sso.example.com",
    "https://sso.example.com/realms/corp/keys?p=b2c_1",
    "https://sso.example.com:8443/",
    "https://my_idp/",
    "HTTPS://SSO.EXAMPLE.COM/",
    "https://[2001:db8::1]:8443/",
    "http://localhost/",
    "http://LOCALHOST:8080/",
    "http://127.0.0.1:8080/",
    "http://127.255.0.1/",
    "http://[::1]:8080/",
    "http://[::ffff:127.0.0.1]/",
]
BAD_URLS: list[Any] = [
    "",
    None,
    b"https://sso.example.com/",
    "sso.example.com",
    "//sso.example.com/",
    "https:",
    "https:///keys",
    "https:sso.example.com",
    "https://:8443/",
    "https://sso.example.com:/x:1@",
    "https://sso.example.com:99999/",
    "https://sso.example.com:port/",
    "https://user:password@sso.example.com/",
    "https://@sso.example.com/",
    "https://sso.example.com/#fragment",
    "https://sso.example.com/#",
    "https://sso.example.com /",
    " https://sso.example.com/",
    "https://sso.example.com/\n",
    "https://sso.example.com\\@evil.example/",
    "https://sso%2eexample.com/",
    "https://ß.example/",
    "https://[::1/",
    "https://[::1%25eth0]/",
    "https://[v1.x]/",
    "https://sso.example.com/" + "a" * 2048,
    "http://sso.example.com/",
    "http://127.0.0.1.evil.example/",
    "http://localhost.evil.example/",
    "http://127.1/",
    "http://0177.0.0.1/",
    "http://2130706433/",
    "http://0.0.0.0/",
    "http://10.0.0.1/",
    "http://169.254.169.254/",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "data:application/json,{}",
    "ftp://127.0.0.1/keys",
    "gopher://127.0.0.1/",
    "unix:///run/idp.sock",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_no_provider_may_be_asked_at_is_refused_and_not_quoted(url: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_url("jwks_url", url)
    assert "jwks_url" == caught.value.option
    assert not url or str(url) not in str(caught.value)


def test_credentials_in_a_url_are_named_as_what_they_are() -> None:
    with pytest.raises(ConfigurationError, match=r"^jwks_url: is a URL without a user and a password: credentials have options"):
        check_url("jwks_url", "https://user:password@sso.example.com/")


@pytest.mark.parametrize("url", GOOD_URLS)
def test_https_anywhere_and_http_on_this_machine_are_allowed(url: str) -> None:
    assert url == check_url("jwks_url", url)


@pytest.mark.parametrize(
    ("expected", "url"),
    [
        (True, "https://localhost/"),
        (True, "http://127.9.9.9/"),
        (True, "https://[::1]/"),
        (False, "https://10.0.0.1/"),
        (False, "https://a/"),
    ],
)
def test_a_loopback_host_is_this_machine(expected: bool, url: str) -> None:
    assert expected is is_loopback_url(url)


@pytest.mark.parametrize("options", [{"deadline": 0}, {"deadline": float("nan")}, {"deadline": float("inf")}, {"max_bytes": 0}])
def test_a_bound_that_bounds_nothing_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=f"^{next(iter(options))}: "):
        Fetcher(**options)


@pytest.mark.anyio
@pytest.mark.parametrize("url", ["http://sso.example.com/", "file:///etc/passwd", "https://a@b/"])
async def test_a_url_that_nobody_checked_is_not_asked(fetcher: Fetcher, url: str) -> None:
    with pytest.raises(IssuerUnavailableError, match=r"^its address is not one that may be asked$"):
        await fetcher.get(url)


@pytest.mark.anyio
@pytest.mark.parametrize("behaviour", [hangs, hangs_in_the_header, hangs_in_the_body, drips])
async def test_a_provider_that_hangs_or_drips_is_given_up_at_the_deadline(behaviour: Behaviour) -> None:
    fetcher = Fetcher(deadline=SHORT)
    assert "it did not answer in time" == await refused(fetcher, behaviour)
    await fetcher.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("behaviour", [never_ends, never_ends_its_chunks])
async def test_an_endless_body_is_given_up_at_the_size_limit(fetcher: Fetcher, behaviour: Behaviour) -> None:
    assert "its answer is too big" == await refused(fetcher, behaviour)


@pytest.mark.anyio
async def test_an_endless_header_is_given_up(fetcher: Fetcher) -> None:
    assert "it could not be reached, or broke off (RemoteProtocolError)" == await refused(fetcher, never_ends_its_header)


@pytest.mark.anyio
async def test_a_huge_declared_body_is_given_up_before_it_comes(fetcher: Fetcher) -> None:
    async def declares(stream: ByteStream) -> None:
        await stream.send(OK + b"Content-Length: 99999999999\r\n\r\n")
        await hangs(stream)

    assert "its answer is too big" == await refused(fetcher, declares)


@pytest.mark.anyio
async def test_a_body_of_just_the_limit_is_taken_and_one_byte_more_is_not(fetcher: Fetcher) -> None:
    assert "its answer is too big" == await refused(fetcher, answers(b" " * 4097))
    async with raw_server(answers(b" " * 4096)) as server:
        assert 4096 == len((await fetcher.get(server.url)).body)


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP", "identity, gzip"])
async def test_a_compressed_body_is_refused_whatever_it_would_become(fetcher: Fetcher, encoding: str) -> None:
    behaviour = answers(b"\x1f\x8b bomb", headers=f"Content-Encoding: {encoding}\r\n")
    assert "its answer is compressed, which was not asked for" == await refused(fetcher, behaviour)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "status", ["301 Moved Permanently", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect", "304 x"]
)
async def test_no_redirect_is_followed(fetcher: Fetcher, status: str) -> None:
    async with raw_server(answers(b"{}")) as elsewhere:
        behaviour = answers(b"", status=status, headers=f"Location: {elsewhere.url}/keys\r\n")
        assert "it answered with a redirect, and none is followed" == await refused(fetcher, behaviour)
        assert 0 == elsewhere.connections


@pytest.mark.anyio
@pytest.mark.parametrize("client", [httpx.AsyncClient, httpx2.AsyncClient])
async def test_a_client_of_the_users_own_that_follows_redirects_does_not_here(client: Any) -> None:
    async with raw_server(answers(b"{}")) as elsewhere, client(follow_redirects=True, trust_env=False, verify=False) as own:
        behaviour = answers(b"", status="302 Found", headers=f"Location: {elsewhere.url}/keys\r\n")
        assert "it answered with a redirect, and none is followed" == await refused(Fetcher(own), behaviour)
        assert 0 == elsewhere.connections


@pytest.mark.anyio
@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(resets, id="resets"),
        pytest.param(sends(), id="hangs up"),
        pytest.param(sends(b"garbage\r\n\r\n"), id="no HTTP"),
        pytest.param(sends(OK), id="half a header"),
        pytest.param(sends(OK + b"Content-Length: 10\r\n\r\n{}"), id="less than declared"),
        pytest.param(sends(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}"), id="two lengths"),
        pytest.param(sends(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n"), id="no last chunk"),
    ],
)
async def test_a_connection_that_breaks_off_is_no_answer(fetcher: Fetcher, behaviour: Behaviour) -> None:
    assert (await refused(fetcher, behaviour)).startswith("it could not be reached, or broke off (")


@pytest.mark.anyio
async def test_a_connection_that_is_refused_is_no_answer(fetcher: Fetcher) -> None:
    async with raw_server(answers(b"{}")) as server:
        pass
    with pytest.raises(IssuerUnavailableError, match=r"^it could not be reached, or broke off \(ConnectError\)$"):
        await fetcher.get(server.url)


@pytest.mark.anyio
async def test_a_name_that_does_not_exist_is_told_apart(fetcher: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(IssuerUnavailableError, match=r"^its name could not be resolved$"):
        await fetcher.get("https://sso.example.com/")


@pytest.mark.anyio
async def test_a_certificate_of_an_authority_that_is_not_known_is_refused(fetcher: Fetcher) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    present(trustme.CA(), tls)
    async with raw_server(answers(b"{}"), tls=tls) as server:
        with pytest.raises(IssuerUnavailableError, match=r"^its TLS certificate is not trusted$"):
            await fetcher.get(server.url)
        assert [] == server.heads


@pytest.mark.anyio
async def test_a_client_of_the_users_own_may_trust_a_private_authority_and_names_still_count() -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    present(authority, tls)
    trusted = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    async with raw_server(answers(b"{}"), tls=tls) as server, httpx.AsyncClient(verify=trusted, trust_env=False) as own:
        assert b"{}" == (await Fetcher(own).get(server.url)).body
        with pytest.raises(IssuerUnavailableError, match=r"^its TLS certificate is not trusted$"):
            await Fetcher(own).get(server.url.replace("127.0.0.1", "localhost"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("media_type", "header"),
    [("application/json", "Content-Type: Application/JSON ; charset=utf-8\r\n"), ("", ""), ("text/html", "content-type:text/html\r\n")],
)
async def test_an_answer_is_its_status_its_media_type_and_its_body(fetcher: Fetcher, media_type: str, header: str) -> None:
    async with raw_server(answers(b'{"active":true}', status="418 x", headers=header)) as server:
        assert Answer(418, media_type, b'{"active":true}') == await fetcher.get(server.url)


def test_an_answer_does_not_print_its_body() -> None:
    assert "Answer(status=200, media_type='application/json', body=<12 bytes>)" == repr(Answer(200, "application/json", b'{"a": "ada"}'))


@pytest.mark.anyio
async def test_a_request_asks_for_json_uncompressed_and_carries_what_it_is_given(fetcher: Fetcher) -> None:
    async with raw_server(answers(b"{}")) as server:
        await fetcher.get(f"{server.url}/keys?a=b", headers={"accept": "application/jwk-set+json", "accept-encoding": "gzip"})
        await fetcher.post_form(f"{server.url}/introspect", {"token": "a b&c=ü"}, headers={"authorization": "Basic eDp5"})
    get, post = (head.lower().split("\r\n") for head in server.heads)
    assert "get /keys?a=b http/1.1" == get[0]
    assert {"accept: application/jwk-set+json", "accept-encoding: identity", "user-agent: llm_authmw"} < set(get)
    assert "accept-encoding: gzip" not in get
    assert "post /introspect http/1.1" == post[0]
    assert {"authorization: basic edp5", "content-type: application/x-www-form-urlencoded", "content-length: 22"} < set(post)
    assert "accept: application/json" in post


@pytest.mark.anyio
async def test_a_form_is_encoded_as_forms_are(fetcher: Fetcher) -> None:
    bodies: list[bytes] = []

    async def reads(stream: ByteStream) -> None:
        bodies.append(await stream.receive())
        await answers(b"{}")(stream)

    async with raw_server(reads) as server:
        await fetcher.post_form(server.url, {"token": "a b&c=ü", "hint": ""})
    assert [b"token=a+b%26c%3D%C3%BC&hint="] == bodies


@pytest.mark.anyio
async def test_no_cookie_is_kept(fetcher: Fetcher) -> None:
    async with raw_server(answers(b"{}", headers="Set-Cookie: session=1; Path=/\r\n")) as server:
        await fetcher.get(server.url)
        await fetcher.get(server.url)
    assert 2 == len(server.heads)
    assert "cookie" not in server.heads[1].lower()


@pytest.mark.anyio
async def test_what_is_for_this_machine_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with raw_server(answers(b"proxy")) as proxy, raw_server(answers(b"{}")) as server:
        for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        fetcher = Fetcher()
        assert b"{}" == (await fetcher.get(server.url)).body
        await fetcher.aclose()
        assert 0 == proxy.connections


async def keeps_alive(stream: ByteStream) -> None:
    head = OK + b"Content-Length: 2\r\n\r\n{}"
    await stream.send(head)
    while await stream.receive():
        await stream.send(head)


@pytest.mark.anyio
async def test_a_connection_is_kept_until_it_is_closed_and_the_next_call_opens_another(fetcher: Fetcher) -> None:
    async with raw_server(keeps_alive) as server:
        for _ in range(3):
            await fetcher.get(server.url)
        assert 1 == server.connections
        await fetcher.aclose()
        await fetcher.aclose()
        await fetcher.get(server.url)
        assert 2 == server.connections
        await fetcher.aclose()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_fetcher_serves_one_event_loop_after_another(backend: str) -> None:
    fetcher = Fetcher()

    async def ask() -> bytes:
        async with raw_server(keeps_alive) as server:
            body = (await fetcher.get(server.url)).body
            await fetcher.aclose()
            return body

    assert [b"{}"] * 3 == [anyio.run(ask, backend=backend) for _ in range(3)]


@pytest.mark.anyio
async def test_a_client_of_the_users_own_is_not_closed() -> None:
    async with raw_server(answers(b"{}")) as server, httpx.AsyncClient(trust_env=False, verify=False) as own:
        fetcher = Fetcher(own)
        await fetcher.get(server.url)
        await fetcher.aclose()
        assert not own.is_closed
        await fetcher.get(server.url)


@pytest.mark.anyio
async def test_whatever_a_client_raises_is_a_failure_without_its_text() -> None:
    class Broken:
        def stream(self, *args: Any, **options: Any) -> Any:
            raise RuntimeError("Authorization: Basic aHVudGVyMg==")

    with pytest.raises(IssuerUnavailableError, match=r"^it could not be reached, or broke off \(RuntimeError\)$") as caught:
        await Fetcher(Broken()).get("https://sso.example.com/")
    assert caught.value.__suppress_context__


@pytest.mark.anyio
async def test_a_cancelled_caller_is_cancelled_and_leaves_no_connection_behind(fetcher: Fetcher) -> None:
    gone = anyio.Event()

    async def watches(stream: ByteStream) -> None:
        try:
            await hangs(stream)
        finally:
            gone.set()

    async with raw_server(watches) as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fetcher.get, server.url)
            with anyio.fail_after(TIME_LIMIT):
                while not server.heads:
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        with anyio.fail_after(TIME_LIMIT):
            await gone.wait()


def test_both_clients_fit_the_seam_and_building_ours_is_work_of_construction() -> None:
    clients: list[type[HTTPClient]] = [httpx.AsyncClient, httpx2.AsyncClient]
    assert 2 == len(clients)
    http._client_factory.cache_clear()
    Fetcher()
    assert 1 == http._client_factory.cache_info().currsize
