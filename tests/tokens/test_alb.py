"""The assertion of a load balancer, read; `tests/authn/test_jwt_edges.py` sends it in requests."""

import base64
from typing import Any

import msgspec
import pytest

from llm_authmw import IssuerUnavailableError, TokenInvalid
from llm_authmw.testing import ManualClock, make_signing_key
from llm_authmw.testing.scripted import Reply, Script, ScriptedClient
from llm_authmw.tokens.alb import KEY_TTL, MAX_UNKNOWN, UNKNOWN_TTL, LoadBalancerKeys, read_load_balancer_token
from llm_authmw.tokens.http import Fetcher

pytestmark = pytest.mark.anyio

ARN = "arn:aws:elasticloadbalancing:eu-central-1:123456789012:loadbalancer/app/llm/50dc6c495c0c9188"
KID = "12345678-1234-1234-1234-123456789012"
BASE = "https://public-keys.auth.elb.eu-central-1.amazonaws.com/"
PEM: bytes = make_signing_key("ES256").private.as_pem(private=False)


def token(header: dict[str, Any] | bytes | None = None, payload: bytes = b'{"sub":"ada"}', signature: bytes = b"s" * 64) -> bytes:
    members = {"alg": "ES256", "kid": KID, "signer": ARN, "iss": "i", "client": "c", "exp": 5}
    given = header if isinstance(header, bytes) else msgspec.json.encode(members | (header or {}))
    return b".".join(base64.urlsafe_b64encode(part) for part in (given, payload, signature))


def test_issuer_client_and_end_come_from_the_header_whatever_the_payload_says() -> None:
    read = read_load_balancer_token(token(payload=b'{"sub":"ada","iss":"x","aud":"x","exp":9}'), signer=ARN)
    assert {"sub": "ada", "iss": "i", "aud": "c", "exp": 5} == read.claims
    assert (token().rpartition(b".")[0], "ES256", KID, None) == (
        read_load_balancer_token(token(), signer=ARN).compact.signing_input,
        *read.compact.header[:3],
    )


def test_the_signature_covers_the_padding() -> None:
    padded = token(payload=b'{"sub":"a"}')
    assert b"=" in padded
    read = [read_load_balancer_token(given, signer=ARN).compact for given in (padded, padded.replace(b"=", b""))]
    assert read[0].payload == read[1].payload
    assert read[0].signing_input != read[1].signing_input


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"..",
        b"a.b",
        token() + b".x",
        token(b"[]"),
        token(b"\xff"),
        token(b'{"alg":"ES256","alg":"ES256"}'),
        token(payload=b"[]"),
        token(payload=b'{"sub":"a","sub":"b"}'),
        token({"alg": None}),
        token({"alg": 5}),
        token({"kid": None}),
        token({"kid": 5}),
        token({"crit": []}),
        token({"x": "x" * 4_096}),
        token(payload=b'{"x":"' + b"x" * 16_000 + b'"}'),
        token(payload=b'{"sub":"ab"}') + b"=",
        token().replace(b".", b"=.", 1),
        token().replace(b"_", b"/") + b"\n",
    ],
    ids=lambda given: str(given)[:16],
)
def test_what_is_none_is_refused(given: bytes) -> None:
    with pytest.raises(TokenInvalid) as caught:
        read_load_balancer_token(given, signer=ARN)
    assert "token_malformed" == caught.value.reason


@pytest.mark.parametrize("signer", [None, "", ARN.upper(), ARN + "x", ARN[:-1], [ARN], {"arn": ARN}])
def test_another_balancer_s_is_refused(signer: Any) -> None:
    with pytest.raises(TokenInvalid) as caught:
        read_load_balancer_token(token({"signer": signer}), signer=ARN)
    assert "issuer_mismatch" == caught.value.reason


def source(clock: ManualClock, **replies: Script) -> tuple[LoadBalancerKeys, ScriptedClient]:
    client = ScriptedClient({BASE + kid.replace("_", "-"): reply for kid, reply in replies.items()} or {BASE + KID: Reply(body=PEM)})
    return LoadBalancerKeys(Fetcher(client), region="eu-central-1", clock=clock), client


async def test_a_key_is_fetched_once_and_again_when_it_is_old() -> None:
    clock = ManualClock()
    keys, client = source(clock)
    assert keys.find(KID, "ES256") is None
    (key,) = await keys.fetch(KID, "ES256")
    assert (key,) == keys.find(KID, "ES256")
    assert () == keys.find(KID, "ES384")
    clock.advance(KEY_TTL)
    assert keys.find(KID, "ES256") is None
    assert await keys.fetch(KID, "ES256")
    assert [BASE + KID] * 2 == client.asked
    keys.renew()
    await keys.aclose()


async def test_a_key_that_cannot_be_fetched_anew_stays_for_a_while() -> None:
    clock = ManualClock()
    keys, client = source(clock)
    before = await keys.fetch(KID, "ES256")
    client.replies[BASE + KID] = Reply(500)
    clock.advance(KEY_TTL)
    assert before == await keys.fetch(KID, "ES256")
    clock.advance(24 * 3600)
    with pytest.raises(IssuerUnavailableError):
        await keys.fetch(KID, "ES256")


@pytest.mark.parametrize(
    "kid", [None, "", "..", "../x", KID.upper().replace("1", "A"), KID + "\n", KID + "/", f" {KID}", "x" * 36, KID.replace("-", "_")]
)
async def test_nothing_but_an_id_of_theirs_becomes_part_of_a_url(kid: str | None) -> None:
    keys, client = source(ManualClock())
    assert ((), ()) == (keys.find(kid, "ES256"), await keys.fetch(kid, "ES256"))
    assert [] == client.asked


async def test_a_key_that_is_not_published_is_remembered_as_such_for_a_while() -> None:
    clock = ManualClock()
    keys, client = source(clock, x=Reply(404))
    for _ in range(3):
        assert () == (keys.find(KID, "ES256") or await keys.fetch(KID, "ES256"))
    assert 1 == len(client.asked)
    clock.advance(UNKNOWN_TTL)
    client.replies[BASE + KID] = Reply(body=PEM)
    assert 1 == len(await keys.fetch(KID, "ES256"))


async def test_a_flood_of_made_up_ids_ends_in_no_questions() -> None:
    clock = ManualClock()
    keys, client = source(clock)
    kids = [f"00000000-0000-0000-0000-{number:012x}" for number in range(MAX_UNKNOWN + 4)]
    for kid in kids[:MAX_UNKNOWN]:
        assert () == await keys.fetch(kid, "ES256")
    for kid in kids[MAX_UNKNOWN:]:
        with pytest.raises(IssuerUnavailableError) as caught:
            await keys.fetch(kid, "ES256")
        assert UNKNOWN_TTL >= caught.value.retry_after > 0
    assert MAX_UNKNOWN == len(client.asked)
    clock.advance(UNKNOWN_TTL)
    assert 1 == len(await keys.fetch(KID, "ES256"))
