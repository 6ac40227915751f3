"""What verifying a token costs, beside the bare signature and the libraries that others use; what a warm caller costs; an outage.

    python -m benchmarks.tokens [--rounds 21] [--calls 400]

Every case verifies the same token, with its issuer, audience and times, in interleaved rounds; each accepts the good one and
refuses a changed one before anything is timed. Ratios are to hand-written `cryptography` with the same claim checks.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import importlib
import importlib.metadata
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from starlette.requests import HTTPConnection

from benchmarks.rounds import Case, difference, pin_to_one_core, ratio, run_rounds
from llm_authmw import (
    CertRule,
    ClientCertMiddleware,
    CustomAuthMiddleware,
    HeaderMap,
    HeaderTrustMiddleware,
    IntrospectionMiddleware,
    Issuer,
    JWTMiddleware,
    Principal,
    SharedSecret,
    TokenInvalid,
    open_store,
)
from llm_authmw.testing import ManualClock, TestIssuer
from llm_authmw.testing.certificates import CertificateAuthority
from llm_authmw.tokens.jwks import TTL as KEYS_TTL

ALGORITHMS = ("RS256", "ES256", "EdDSA", "HS256")
CLAIMS: dict[str, Any] = {
    "email": "ada@corp.example",
    "azp": "web",
    "scope": "openid llm:read",
    "groups": ["ml", "staff"],
    "department": "research",
}
SECRET = "x7Kd93mQpLz2VbNc8RtYw4HsJf6GaEu1"
OUTAGE = 600
RATE = 500

Verify = Callable[[str], Any]


def raw(issuer: TestIssuer, algorithm: str) -> Verify:
    """What one writes by hand: split, decode, verify with `cryptography`, look at issuer, audience and times."""
    key: Any = issuer.keys[0].private
    public: Any = None if algorithm == "HS256" else key.get_op_key("verify")

    def decoded(segment: str) -> bytes:
        return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))

    def check(message: bytes, signature: bytes) -> None:
        if isinstance(public, rsa.RSAPublicKey):
            public.verify(signature, message, padding.PKCS1v15(), SHA256())
        elif isinstance(public, ec.EllipticCurvePublicKey):
            half = len(signature) // 2
            der = encode_dss_signature(int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
            public.verify(der, message, ec.ECDSA(SHA256()))
        elif isinstance(public, Ed25519PublicKey):
            public.verify(signature, message)
        elif not hmac.compare_digest(hmac.digest(key.raw_value, message, hashlib.sha256), signature):
            raise ValueError("signature")

    def verify(token: str) -> dict[str, Any]:
        signing_input, _, signature = token.rpartition(".")
        header, _, payload = signing_input.partition(".")
        if json.loads(decoded(header))["alg"] != algorithm:
            raise ValueError("alg")
        check(signing_input.encode(), decoded(signature))
        claims: dict[str, Any] = json.loads(decoded(payload))
        now = time.time()
        if claims["iss"] != issuer.issuer or claims["aud"] != issuer.audience or claims["exp"] <= now or claims.get("iat", 0) > now + 5:
            raise ValueError("claims")
        return claims

    return verify


def ours(issuer: TestIssuer) -> Callable[[bytes], Awaitable[Any]]:
    """Our verification, cold: nothing of the token is remembered, the key is at hand, and a principal comes out."""
    trusted = issuer.trusted()
    return trusted.verify


def pyjwt(issuer: TestIssuer, algorithm: str) -> Verify:
    jwt = importlib.import_module("jwt")
    key = issuer.keys[0].private
    public = key.raw_value if algorithm == "HS256" else key.get_op_key("verify")
    return lambda token: jwt.decode(token, public, algorithms=[algorithm], audience=issuer.audience, issuer=issuer.issuer)


def authlib(issuer: TestIssuer, algorithm: str) -> Verify:
    jose = importlib.import_module("authlib.jose")
    verifier = jose.JsonWebToken([algorithm])
    key = jose.JsonWebKey.import_key(issuer.keys[0].private.as_dict(private=algorithm == "HS256"))
    options = {"iss": {"essential": True, "value": issuer.issuer}, "aud": {"essential": True, "value": issuer.audience}}
    return lambda token: verifier.decode(token, key, claims_options=options).validate()


def jwcrypto(issuer: TestIssuer, algorithm: str) -> Verify:
    jwt, jwk = importlib.import_module("jwcrypto.jwt"), importlib.import_module("jwcrypto.jwk")
    key = jwk.JWK(**issuer.keys[0].private.as_dict(private=algorithm == "HS256"))
    checks = {"iss": issuer.issuer, "aud": issuer.audience, "exp": None}
    return lambda token: jwt.JWT(jwt=token, key=key, algs=[algorithm], check_claims=checks)


def joserfc(issuer: TestIssuer, algorithm: str) -> Verify:
    jwt = importlib.import_module("joserfc.jwt")
    key = issuer.keys[0].private
    registry = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": issuer.issuer}, aud={"essential": True, "value": issuer.audience}, exp={"essential": True}
    )
    return lambda token: registry.validate(jwt.decode(token, key, algorithms=[algorithm]).claims)


LIBRARIES: dict[str, tuple[str, Callable[[TestIssuer, str], Verify]]] = {
    "joserfc": ("joserfc", joserfc),
    "PyJWT": ("PyJWT", pyjwt),
    "Authlib": ("Authlib", authlib),
    "jwcrypto": ("jwcrypto", jwcrypto),
}


async def cold_cases(algorithm: str) -> dict[str, Case]:
    issuer = TestIssuer(algorithm=algorithm)
    token = issuer.token(**CLAIMS)
    changed = token[:-9] + ("A" if token[-9] != "A" else "B") + token[-8:]
    verify = ours(issuer)
    await verify(token.encode())
    cases: dict[str, Case] = {}

    def add(name: str, check: Verify) -> None:
        check(token)
        try:
            check(changed)
        except Exception:  # noqa: BLE001 - each library has an error of its own, and any of them is the right answer
            pass
        else:
            raise RuntimeError(f"{name} accepts a changed token")

        async def case() -> None:
            check(token)

        cases[name] = case

    add("raw", raw(issuer, algorithm))
    try:
        await verify(changed.encode())
    except TokenInvalid:
        pass
    else:
        raise RuntimeError("we accept a changed token")

    async def mine() -> None:
        await verify(token.encode())

    cases["llm_authmw"] = mine
    for name, (package, make) in LIBRARIES.items():
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            print(f"{name} is not installed: left out")
        else:
            add(name, make(issuer, algorithm))
    return cases


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def request_case(guarded: Any, token: str = "", *, more: Sequence[tuple[bytes, bytes]] = (), scope: dict[str, Any] | None = None) -> Case:
    """A chat request with this token, or what else says who is calling, without sockets; an answer that is not 200 raises."""
    headers = [(b"host", b"llm.example"), (b"accept", b"application/json"), (b"content-type", b"application/json"), *more]
    value = b"Bearer " + token.encode()
    usual: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "raw_path": b"/v1/chat/completions",
        "query_string": b"",
    }
    usual |= {"root_path": "", "client": ("127.0.0.1", 1), "scheme": "https", "http_version": "1.1"}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        if message.get("status", 200) != 200:
            raise RuntimeError(f"answered {message}")

    async def case() -> None:
        # A new bytes object each time, as a server makes it: Python would otherwise remember its hash.
        lines = [*headers, (b"authorization", bytes(bytearray(value)))] if token else [*headers]
        await guarded({**usual, **(scope or {}), "headers": lines}, receive, send)

    return case


async def warm_cases() -> dict[str, Case]:
    """Every way in but keys, which `benchmarks.layers` has: a caller who was seen before."""
    issuer, other, store = TestIssuer(), TestIssuer("https://other.example"), open_store("memory://")
    token, opaque = issuer.token(**CLAIMS), issuer.opaque(**CLAIMS)
    authority = CertificateAuthority("corp")
    certificate = authority.issue(dns=["batch.corp.example"])
    tls: dict[str, Any] = {"extensions": {"tls": {"client_cert_chain": [certificate.pem]}}}
    proof = [(b"x-proxy-proof", SECRET.encode()), (b"x-forwarded-user", b"ada"), (b"x-forwarded-groups", b"ml,staff")]
    ada = Principal(user="ada", realm="corp", method="custom")

    async def know(connection: HTTPConnection) -> Principal:
        return ada

    def guarded(layer: Any, **options: Any) -> Any:
        return layer(app, **options)

    introspection = {
        "endpoint": f"{issuer.issuer}/introspect",
        "client_id": "llm",
        "client_secret": SECRET,
        "realm": "corp",
        "http": issuer.http,
    }
    headers = HeaderMap(user="x-forwarded-user", groups="x-forwarded-groups")
    trust = guarded(HeaderTrustMiddleware, realm="corp", headers=headers, proof=SharedSecret(header="x-proxy-proof", secret=SECRET))
    certified = guarded(ClientCertMiddleware, rules=[CertRule(dns="batch.corp.example", client="batch")])
    return {
        "bare": request_case(app, token),
        "JWT": request_case(guarded(JWTMiddleware, issuers=[issuer.trusted()]), token),
        "JWT of the second of two issuers": request_case(guarded(JWTMiddleware, issuers=[other.trusted(), issuer.trusted()]), token),
        "JWT, with revocations": request_case(guarded(JWTMiddleware, issuers=[issuer.trusted()], revocations=store.revocations), token),
        "introspected token": request_case(guarded(IntrospectionMiddleware, realm="corp", **introspection), opaque),
        "trusted headers, shared secret": request_case(
            guarded(HeaderTrustMiddleware, realm="corp", headers=headers, proof=trust), more=proof
        ),
        "client certificate": request_case(certified, scope=tls),
        "function of one's own, async": request_case(guarded(CustomAuthMiddleware, authenticate=know), token),
    }


async def flood() -> tuple[int, int]:
    """How many requests there were at once, all cold, and how often the keys were asked for."""
    issuer = TestIssuer()
    guarded = JWTMiddleware(app, issuers=[issuer.trusted()])
    await asyncio.gather(*(request_case(guarded, issuer.token(sub=f"user-{number}"))() for number in range(200)))
    return 200, issuer.hits["/jwks"]


async def outage() -> tuple[int, int, int]:
    """Requests, failed requests, and attempts to reach the issuer, in ten minutes in which it is down."""
    clock = ManualClock()
    issuer = TestIssuer(clock=clock)
    trusted: Issuer = issuer.trusted()
    guarded = JWTMiddleware(app, issuers=[trusted])
    await request_case(guarded, issuer.token())()
    issuer.go_down("refused")
    issuer.hits.clear()
    clock.advance(KEYS_TTL)
    failed = 0
    for _ in range(OUTAGE):
        # One request a second that is verified anew, and the others with a token that is remembered: what a busy service sees.
        token = issuer.token()
        case = request_case(guarded, token)
        for _ in range(RATE):
            try:
                await case()
            except RuntimeError:
                failed += 1
        await asyncio.sleep(0)
        clock.advance(1.0)
    await trusted.aclose()
    return OUTAGE * RATE, failed, sum(issuer.hits.values())


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--calls", type=int, default=400)
    given = parser.parse_args()
    pin_to_one_core()
    for algorithm in ALGORITHMS:
        timings = await run_rounds(await cold_cases(algorithm), rounds=given.rounds, calls=given.calls)
        print(f"\n{algorithm}, cold{'':14} µs   IQR %   × raw")
        for name, timing in timings.items():
            print(f"{name:24}{timing.median:7.1f}{timing.spread:8.1f}{ratio(timing, timings['raw']):8.2f}")
    timings = await run_rounds(await warm_cases(), rounds=given.rounds, calls=given.calls * 5)
    print(f"\n{'a request':36}     µs   IQR %   above bare")
    for name, timing in timings.items():
        print(f"{name:36}{timing.median:7.2f}{timing.spread:8.1f}{difference(timing, timings['bare']):13.2f}")
    requests, fetches = await flood()
    print(f"\n{requests} cold requests at once: {fetches} fetch of the keys")
    requests, failed, attempts = await outage()
    print(f"an outage of {OUTAGE} s at {RATE} requests/s: {failed} of {requests} failed, {attempts} attempts to reach the issuer")


if __name__ == "__main__":
    asyncio.run(main())
