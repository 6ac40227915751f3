"""A hostile or broken publisher of keys, and strangers who make us ask it."""

import logging
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from joserfc.jwk import ECKey, RSAKey

from llm_authmw.errors import IssuerUnavailableError
from llm_authmw.testing import ManualClock
from llm_authmw.testing.raw_server import answers, raw_server
from llm_authmw.testing.scripted import Reply, ScriptedClient
from llm_authmw.tokens.http import Fetcher
from llm_authmw.tokens.jwks import RemoteKeys
from llm_authmw.tokens.keys import VerificationKey

pytestmark = pytest.mark.anyio

ISSUER = "https://sso.example.com"
CONFIGURATION = f"{ISSUER}/.well-known/openid-configuration"
URL = f"{ISSUER}/keys"


def published(kid: str) -> dict[str, Any]:
    return {**ECKey.generate_key("P-256").as_dict(private=False), "kid": kid}


GOOD = published("good")
STRONG_RSA = {**RSAKey.generate_key(2048).as_dict(private=False), "kid": "bad"}
EVIL = published("evil")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def client() -> ScriptedClient:
    return ScriptedClient({URL: Reply(body={"keys": [GOOD]}), CONFIGURATION: Reply(body={"issuer": ISSUER, "jwks_uri": URL})})


def source(client: ScriptedClient, clock: ManualClock, *, jwks_url: str | None = URL) -> RemoteKeys:
    return RemoteKeys(ISSUER, jwks_url=jwks_url, fetcher=Fetcher(client), jitter=lambda: 1.0, clock=clock)


async def ask(keys: RemoteKeys, kid: str | None, algorithm: str = "ES256") -> tuple[VerificationKey, ...]:
    found = keys.find(kid, algorithm)
    return await keys.fetch(kid, algorithm) if found is None else found


# CVE-2025-64527, CVE-2026-48524.
async def test_a_flood_of_made_up_key_ids_costs_one_fetch_per_interval_and_no_good_key(client: ScriptedClient, clock: ManualClock) -> None:
    keys = source(client, clock)
    (good,) = await ask(keys, "good")
    for number in range(5_000):
        assert () == await ask(keys, f"made-up-{number}")
        clock.advance(0.02)
    # 100 s of it: at its start, and every 30 s.
    assert 1 + 4 == len(client.asked)
    assert (good,) == keys.find("good", "ES256")


async def test_a_flood_of_made_up_key_ids_while_the_issuer_is_down_costs_what_the_outage_costs(
    client: ScriptedClient, clock: ManualClock
) -> None:
    keys = source(client, clock)
    (good,) = await ask(keys, "good")
    client.replies[URL] = ConnectionRefusedError()
    for number in range(5_000):
        with pytest.raises(IssuerUnavailableError):
            await ask(keys, f"made-up-{number}")
        clock.advance(0.02)
    # 1, 2, 4, 8, 16 and 32 s of back-off, then 60: seven attempts in 100 s.
    assert 1 + 7 == len(client.asked)
    assert (good,) == keys.find("good", "ES256")
    assert good.current


async def test_strangers_who_hang_up_again_and_again_start_no_second_fetch(client: ScriptedClient, clock: ManualClock) -> None:
    keys = source(client, clock)
    client.may_answer = anyio.Event()
    for number in range(100):
        async with anyio.create_task_group() as stranger:
            stranger.start_soon(ask, keys, f"made-up-{number}")
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            stranger.cancel_scope.cancel()
    assert [URL] == client.asked
    client.may_answer.set()
    assert 1 == len(await ask(keys, "good"))
    assert [URL] == client.asked


# CVE-2026-48522.
@pytest.mark.parametrize(
    "address",
    [
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        'data:application/json,{"keys":[]}',
        "ftp://sso.example.com/keys",
        "http://sso.example.com/keys",
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:6379/",
        "https://127.0.0.1:6443/api",
        "https://sso.example.com@evil.example/keys",
        "https://sso.example.com\\@evil.example/keys",
        "https://sso.example.com/keys\r\nhost: evil.example",
    ],
)
async def test_an_address_of_keys_that_is_a_way_in_elsewhere_is_never_asked(
    client: ScriptedClient, clock: ManualClock, address: str
) -> None:
    client.replies[CONFIGURATION] = Reply(body={"issuer": ISSUER, "jwks_uri": address})
    client.replies[address] = Reply(body={"keys": [EVIL]})
    with pytest.raises(IssuerUnavailableError, match=r"^its metadata name no address that its keys may be fetched from$") as caught:
        await ask(source(client, clock, jwks_url=None), "evil")
    assert [CONFIGURATION] == client.asked
    assert "evil" not in str(caught.value)


async def test_metadata_that_begin_to_name_another_issuer_bring_no_key_in(client: ScriptedClient, clock: ManualClock) -> None:
    keys = source(client, clock, jwks_url=None)
    (good,) = await ask(keys, "good")
    client.replies[CONFIGURATION] = Reply(body={"issuer": "https://evil.example", "jwks_uri": "https://evil.example/keys"})
    client.replies["https://evil.example/keys"] = Reply(body={"keys": [EVIL]})
    with pytest.raises(IssuerUnavailableError):
        await ask(keys, "evil")
    assert "https://evil.example/keys" not in client.asked
    assert (good,) == keys.find("good", "ES256")


async def test_a_redirect_to_another_origin_is_not_followed(clock: ManualClock) -> None:
    fetcher = Fetcher()
    async with raw_server(answers(b'{"keys":[]}')) as evil:
        redirect = answers(b"", status="302 Found", headers=f"Location: {evil.url}/keys\r\n")
        async with raw_server(redirect) as server:
            keys = RemoteKeys(ISSUER, jwks_url=f"{server.url}/keys", fetcher=fetcher, clock=clock)
            with pytest.raises(IssuerUnavailableError, match=r"^it answered with a redirect, and none is followed$"):
                await ask(keys, "evil")
        assert 0 == evil.connections
    await fetcher.aclose()


async def test_an_endless_key_set_ends(clock: ManualClock) -> None:
    async def never_ends(stream: ByteStream) -> None:
        await stream.send(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{"keys":[')
        while True:
            await stream.send(b"{}," * 10_000)

    fetcher = Fetcher()
    async with raw_server(never_ends) as server:
        keys = RemoteKeys(ISSUER, jwks_url=f"{server.url}/keys", fetcher=fetcher, clock=clock)
        with pytest.raises(IssuerUnavailableError, match=r"^its answer is too big$"):
            await ask(keys, "evil")
    await fetcher.aclose()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"[" * 500_000 + b"]" * 500_000, id="arrays in arrays"),
        pytest.param(b'{"keys":' * 100_000 + b"[]" + b"}" * 100_000, id="objects in objects"),
        pytest.param(b'{"keys":[' + b'{"kty":' * 1_000 + b"1" + b"}" * 1_000 + b"]}", id="inside a key"),
        pytest.param(b'{"keys":[' + b"{}," * 300_000 + b"{}]}", id="very many keys"),
        pytest.param(b'{"keys":[' + b"9" * 1_000_000 + b"]}", id="a very long number"),
        pytest.param(b'{"keys":[],"keys":[{"kid":"evil"}]}', id="a member twice"),
        pytest.param(b'{"keys":[{"kid":"good","kid":"evil"}]}', id="a member of a key twice"),
        pytest.param('{"keys":[]}'.encode("utf-16"), id="UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"keys":[]}', id="a byte order mark"),
        pytest.param(b'{"keys":[NaN]}', id="NaN"),
    ],
)
async def test_a_bomb_or_an_ambiguous_text_keeps_the_good_keys(
    client: ScriptedClient, clock: ManualClock, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    keys = source(client, clock)
    (good,) = await ask(keys, "good")
    client.replies[URL] = Reply(body=body)
    with caplog.at_level(logging.ERROR, logger="llm_authmw"), pytest.raises(IssuerUnavailableError):
        await ask(keys, "evil")
    # Refused as what it is, not as a surprise.
    assert [] == caplog.messages
    assert (good,) == keys.find("good", "ES256")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(
            {"kty": "oct", "kid": "bad", "k": "c2VjcmV0LXRoYXQtZXZlcnlib2R5LWNhbi1mZXRjaC0xMjM0", "alg": "HS256"}, id="a shared secret"
        ),
        pytest.param({**ECKey.generate_key("P-256").as_dict(private=True), "kid": "bad"}, id="a private key"),
        pytest.param({**published("bad"), "use": "enc"}, id="an encryption key"),
        pytest.param({**STRONG_RSA, "e": "Aw"}, id="a small exponent"),
        pytest.param({**GOOD, "crv": "P-384", "kid": "bad"}, id="a point on another curve"),
        pytest.param({**GOOD, "y": GOOD["x"], "kid": "bad"}, id="a point on no curve"),
        pytest.param({**GOOD, "kid": 7}, id="an id that is no text"),
        pytest.param({**GOOD, "kid": "x" * 10_000}, id="an endless id"),
        pytest.param([], id="no key"),
    ],
)
async def test_a_bad_key_beside_a_good_one_is_left_out_and_the_good_one_works(
    client: ScriptedClient, clock: ManualClock, key: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client.replies[URL] = Reply(body={"keys": [key, GOOD]})
    keys = source(client, clock)
    with caplog.at_level(logging.WARNING, logger="llm_authmw"):
        assert 1 == len(await ask(keys, "good"))
        for algorithm in ("ES256", "ES384", "RS256", "HS256"):
            assert () == await ask(keys, "bad", algorithm)
    assert [f"keys in the set of {ISSUER} that cannot be used, and are left out: 1"] == caplog.messages


async def test_two_keys_with_one_id_are_no_key_since_nobody_knows_which_is_meant(client: ScriptedClient, clock: ManualClock) -> None:
    client.replies[URL] = Reply(body={"keys": [published("twice"), GOOD, published("twice")]})
    keys = source(client, clock)
    assert () == await ask(keys, "twice")
    assert 1 == len(await ask(keys, "good"))


async def test_a_key_that_the_issuer_withdrew_is_gone_for_what_it_had_verified_too(client: ScriptedClient, clock: ManualClock) -> None:
    client.replies[URL] = Reply(body={"keys": [GOOD, EVIL]})
    keys = source(client, clock)
    (evil,) = await ask(keys, "evil")
    client.replies[URL] = Reply(body={"keys": [GOOD]})
    # Whoever makes an id up may have it noticed sooner, and no later than after ten minutes.
    assert () == await ask(keys, "made-up")
    assert not evil.current
    assert () == await ask(keys, "evil")


async def test_a_set_that_was_emptied_is_a_failure_and_not_a_withdrawal_of_everything(client: ScriptedClient, clock: ManualClock) -> None:
    keys = source(client, clock)
    (good,) = await ask(keys, "good")
    client.replies[URL] = Reply(body={"keys": []})
    with pytest.raises(IssuerUnavailableError, match=r"^its key set has no key that can be used$"):
        await ask(keys, "made-up")
    assert good.current
