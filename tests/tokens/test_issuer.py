"""`Issuer`, asked without a request; `tests/authn/test_jwt*.py` do so with one."""

import hashlib
from itertools import combinations
from typing import Any

import pytest

from llm_authmw import ClaimMap, ConfigurationError, Issuer, IssuerUnavailableError, Secret, TokenInvalid
from llm_authmw.testing import ManualClock, TestIssuer, make_signing_key
from llm_authmw.tokens.http import Fetcher
from llm_authmw.tokens.jwks import RemoteKeys
from llm_authmw.tokens.jws import verify_jws
from llm_authmw.tokens.key_options import key_source
from llm_authmw.tokens.sources import FixedKeys

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def issuer(clock: ManualClock) -> TestIssuer:
    return TestIssuer(algorithm="ES256", clock=clock)


async def reason(trusted: Issuer, token: str) -> str:
    with pytest.raises(TokenInvalid) as caught:
        await trusted.verify(token.encode())
    return caught.value.reason


async def test_what_was_verified_is_remembered_under_the_digest_of_the_whole_token(issuer: TestIssuer) -> None:
    trusted, token = issuer.trusted(), issuer.token().encode()
    assert trusted.recall(hashlib.sha256(token).digest()) is None
    verified = await trusted.verify(token)
    assert verified is trusted.recall(hashlib.sha256(token).digest())
    assert trusted.recall(hashlib.sha256(token[:-1]).digest()) is None
    assert issuer.trusted().recall(hashlib.sha256(token).digest()) is None


async def test_what_is_refused_is_not_remembered(issuer: TestIssuer) -> None:
    trusted, token = issuer.trusted(), issuer.token(exp=1)
    assert "token_expired" == await reason(trusted, token)
    assert trusted.recall(hashlib.sha256(token.encode()).digest()) is None


async def test_what_is_remembered_names_no_claims_and_not_the_token(issuer: TestIssuer) -> None:
    token = issuer.token(secret="needle", sub="ada", jti="t-1", nbf=int(issuer.clock.now()))
    verified = await issuer.trusted().verify(token.encode())
    assert "needle" not in repr(verified)
    assert token.rpartition(".")[2] not in repr(verified)
    now = issuer.clock.now()
    assert ("ada", "t-1", now, now - 5, now + 605) == (
        verified.subject,
        verified.token_id,
        verified.issued_at,
        verified.begins,
        verified.ends,
    )


async def test_a_signature_is_verified_before_anything_is_told_of_the_claims(issuer: TestIssuer) -> None:
    forged = issuer.token(key=make_signing_key("ES256", kid=issuer.keys[0].kid), exp=1, aud="x")
    assert "token_signature_invalid" == await reason(issuer.trusted(), forged)
    assert "token_algorithm_not_allowed" == await reason(issuer.trusted(algorithms=["RS256"]), forged)


async def test_the_issuer_is_compared_whoever_asks(issuer: TestIssuer) -> None:
    assert "issuer_mismatch" == await reason(issuer.trusted(), issuer.token(iss="https://other.example"))
    assert {} == issuer.hits


async def test_an_issuer_that_is_down_is_no_verdict(issuer: TestIssuer) -> None:
    issuer.go_down("refused")
    with pytest.raises(IssuerUnavailableError) as caught:
        await issuer.trusted().verify(issuer.token().encode())
    assert caught.value.retry_after > 0
    assert issuer.token()[:20] not in str(caught.value)


@pytest.mark.parametrize("claims", [{"sub": 5}, {"jti": 5}, {"sub": ["ada"]}, {"jti": {"a": 1}}])
async def test_ids_are_texts_whatever_is_mapped(issuer: TestIssuer, claims: dict[str, Any]) -> None:
    """Revocations are looked up by them."""
    trusted = issuer.trusted(claims=ClaimMap(user="uid"))
    assert "token_claim_invalid" == await reason(trusted, issuer.token(uid="u-1", **claims))


async def test_userinfo_completes_a_token_and_takes_nothing_from_it(issuer: TestIssuer) -> None:
    trusted = issuer.trusted(userinfo=True, claims=ClaimMap(groups="groups", team="team"))
    issuer.know("ada", groups=["staff"], team="red", exp=1, aud="other", cnf={"jkt": "x"})
    verified = await trusted.verify(issuer.token(team="blue").encode())
    assert (("staff",), "blue") == (verified.principal.groups, verified.principal.team)
    assert verified.certificate is None
    assert "token_inactive" == await reason(trusted, issuer.token(sub="bob"))
    assert 2 == issuer.hits["/userinfo"]
    # A token that is bad anyway is not shown to anybody.
    assert "token_expired" == await reason(trusted, issuer.token(exp=1))
    assert 2 == issuer.hits["/userinfo"]


@pytest.mark.parametrize("wrapped", [str, Secret])
async def test_a_secret_may_be_wrapped_or_named(clock: ManualClock, wrapped: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = TestIssuer(algorithm="HS256", clock=clock)
    monkeypatch.setenv("JWT_SECRET", issuer.secret)
    for given in (wrapped(issuer.secret), "env:JWT_SECRET"):
        trusted = Issuer(issuer.issuer, audience="api://llm", secret=given, clock=clock)
        assert "ada" == (await trusted.verify(issuer.token().encode())).principal.user
        assert frozenset({"HS256"}) == trusted.algorithms


async def test_a_pem_text_may_come_from_a_file(issuer: TestIssuer, clock: ManualClock, tmp_path: Any) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(issuer.keys[0].private.as_pem(private=False))
    trusted = Issuer(issuer.issuer, audience="api://llm", pem=f"file:{path}", clock=clock)
    assert "ada" == (await trusted.verify(issuer.token().encode())).principal.user


async def test_keys_that_are_given_are_looked_up_by_id_and_those_without_one_fit_any(issuer: TestIssuer) -> None:
    one, two = make_signing_key("ES256", kid="one"), make_signing_key("ES256", kid="two")
    nameless = {name: value for name, value in two.public().items() if name != "kid"}
    trusted = issuer.trusted(jwks={"keys": [one.public(), nameless]})
    for key, header in ((one, {}), (one, {"kid": None}), (two, {}), (two, {"kid": None}), (two, {"kid": "x"})):
        assert "ada" == (await trusted.verify(issuer.token(key=key, header=header).encode())).subject
    assert "token_signature_invalid" == await reason(trusted, issuer.token(key=two, header={"kid": "one"}))
    assert "token_signature_invalid" == await reason(trusted, issuer.token(key=one, header={"kid": "x"}))


def test_exactly_one_place_is_named_for_the_keys() -> None:
    def source(**given: Any) -> Any:
        usual: dict[str, Any] = {"jwks_url": None, "jwks": None, "pem": None, "secret": None}
        algorithms = frozenset({"HS256"})
        return key_source("https://issuer.example", algorithms=algorithms, fetcher=Fetcher(), clock=ManualClock(), **(usual | given))

    assert isinstance(source(secret="s" * 32), FixedKeys)
    assert isinstance(source(), RemoteKeys)
    places: dict[str, Any] = {"jwks": {}, "pem": "", "jwks_url": "https://x.example", "secret": "s" * 32}
    for one, other in combinations(places.items(), 2):
        with pytest.raises(ConfigurationError, match=r"both say where the keys are"):
            source(**dict([one, other]))


def test_an_issuer_prints_its_name_only(clock: ManualClock) -> None:
    issuer = TestIssuer(algorithm="HS256", clock=clock)
    assert "Issuer('https://issuer.example')" == repr(issuer.trusted())


async def test_the_public_function_and_the_issuer_agree(issuer: TestIssuer) -> None:
    jwks = {"keys": [issuer.keys[0].public()]}
    assert verify_jws(issuer.token(), jwks, algorithms=["ES256"])
    for token in (issuer.token(key=make_signing_key("ES256")), issuer.token(header={"crit": ["x"]}), issuer.token() + "="):
        with pytest.raises(TokenInvalid) as caught:
            verify_jws(token, jwks, algorithms=["ES256"])
        assert caught.value.reason == await reason(issuer.trusted(jwks=jwks), token)
