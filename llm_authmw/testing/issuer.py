"""`TestIssuer`: an issuer in this process, which signs good tokens and deliberately wrong ones.

It stands in for an identity provider that a test cannot start. It speaks discovery (OIDC Discovery §4, RFC 8414), JWK sets, token
introspection (RFC 7662) and userinfo, over the same seam that a real client goes through, or as an ASGI app.
"""

import secrets
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qs, urlsplit

import anyio
import msgspec
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.tokens.base64url import decode, encode
from llm_authmw.tokens.issuer import Issuer

Outage: TypeAlias = Literal["refused", "unavailable", "html", "empty", "garbage"]
"""How it fails: no connection, 503, a page of HTML with 200, an empty key set, bytes that are no JSON."""

DEFAULT_LIFETIME: Final = 600.0
"""Seconds for which a token is good, unless said otherwise."""

_MODELS: Final = {model.name: model for model in JWS_ALGORITHMS}
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
_JSON: Final = {"content-type": "application/json"}
_SECRET_BYTES: Final = 32
_PLACES: Final = {
    "jwks_uri": "jwks",
    "introspection_endpoint": "introspect",
    "userinfo_endpoint": "userinfo",
    "token_endpoint": "token",
}


class SigningKey(NamedTuple):
    """A key that it signs with.

    Attributes:
        kid: Its id.
        algorithm: The algorithm that it is for.
        private: joserfc's key, with its private part.
    """

    kid: str
    algorithm: str
    private: Any

    def public(self) -> dict[str, Any]:
        """Return the key as it is published."""
        return {**self.private.as_dict(private=False), "kid": self.kid, "alg": self.algorithm, "use": "sig"}


def make_signing_key(algorithm: str = "RS256", *, kid: str | None = None) -> SigningKey:
    """Make a key of the kind that the algorithm wants."""
    if algorithm in _CURVES:
        key: Any = ECKey.generate_key(_CURVES[algorithm])
    elif algorithm in ("EdDSA", "Ed25519"):
        key = OKPKey.generate_key("Ed25519")
    elif algorithm.startswith("HS"):
        key = OctKey.import_key(secrets.token_hex(_SECRET_BYTES))
    else:
        key = RSAKey.generate_key(2048)
    return SigningKey(kid or f"key-{secrets.token_hex(4)}", algorithm, key)


def sign(header: Mapping[str, Any] | bytes, payload: bytes, key: SigningKey) -> str:
    """Return a compact JWS over any header and any bytes; nothing is checked, since wrong ones are what tests need."""
    signing_input = encode(header if isinstance(header, bytes) else msgspec.json.encode(header)) + b"." + encode(payload)
    model = _MODELS[key.algorithm]
    return (signing_input + b"." + encode(model.sign(signing_input, key.private))).decode("ascii")


class TestIssuer:
    """An issuer for tests.

    ::

        issuer = TestIssuer(audience="api://llm")
        guard = Stack(Middleware(JWTMiddleware, issuers=[issuer.trusted()]))
        token = issuer.token(sub="ada", scope="llm:read")

    Args:
        issuer: `iss`, and the URL that it answers at.
        audience: `aud` of its tokens, unless said otherwise.
        algorithm: What it signs with.
        clock: Gives the time that tokens are issued at. Tests that move it give the same one to the layers, through `trusted`.
    """

    __test__ = False  # not a class of tests, whatever pytest makes of the name

    def __init__(
        self,
        issuer: str = "https://issuer.example",
        *,
        audience: str = "api://llm",
        algorithm: str = "RS256",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.issuer: Final = issuer
        self.audience: Final = audience
        self.clock: Final = clock
        self.keys: list[SigningKey] = [make_signing_key(algorithm)]
        """What it publishes; it signs with the first."""
        self.hits: Counter[str] = Counter()
        """How often each path was asked for."""
        self.metadata: dict[str, Any] = {}
        """Members of its metadata that differ from the usual."""
        self.http: Final = _InProcessClient(self)
        """The client that reaches it: for `Issuer(http=…)` and whatever else asks an issuer."""
        self._people: Final[dict[str, dict[str, Any]]] = {}
        self._opaque: Final[dict[str, dict[str, Any]]] = {}
        self._outage: Outage | None = None
        self._open = anyio.Event()
        self._held = False

    def __repr__(self) -> str:
        return f"TestIssuer({self.issuer!r})"

    @property
    def secret(self) -> str:
        """The shared secret that it signs with, where its algorithm is HMAC."""
        return str(self.keys[0].private.raw_value.decode("ascii"))

    def trusted(self, **options: Any) -> Issuer:
        """Return an `Issuer` that trusts this one, and finds its keys by discovery; options as there."""
        if self.keys[0].algorithm.startswith("HS"):
            options = {"secret": self.secret, "algorithms": [self.keys[0].algorithm], **options}
        usual: dict[str, Any] = {"audience": self.audience, "clock": self.clock}
        if options.get("userinfo") or options.keys().isdisjoint(("jwks", "pem", "secret")):
            usual["http"] = self.http
        return Issuer(self.issuer, **(usual | options))

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token with these changes; None takes a claim away."""
        now = int(self.clock.now())
        usual: dict[str, Any] = {
            "iss": self.issuer,
            "sub": "ada",
            "aud": self.audience,
            "iat": now,
            "exp": now + int(DEFAULT_LIFETIME),
            "jti": secrets.token_hex(8),
        }
        return {name: value for name, value in {**usual, **changes}.items() if value is not None}

    def token(self, *, header: Mapping[str, Any] | None = None, key: SigningKey | None = None, **claims: Any) -> str:
        """Return a signed token: a good one, unless it is told otherwise.

        Args:
            header: Members of the header that differ from the usual; None takes one away.
            key: What it is signed with; left out, the issuer's newest key.
            claims: Claims that differ from the usual (`sub="bob"`, `aud=["a", "b"]`); None takes one away.
        """
        return self.signed(msgspec.json.encode(self.claims(**claims)), header=header, key=key)

    def signed(self, payload: bytes, *, header: Mapping[str, Any] | None = None, key: SigningKey | None = None) -> str:
        """Return a token over any bytes."""
        key = key or self.keys[0]
        members = {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt", **(header or {})}
        return sign({name: value for name, value in members.items() if value is not None}, payload, key)

    def opaque(self, **claims: Any) -> str:
        """Return a token that only introspection tells anything about."""
        token = f"opaque-{secrets.token_urlsafe(24)}"
        self._opaque[token] = {"active": True, "token_type": "Bearer", **self.claims(**claims)}
        return token

    def answer_introspection(self, token: str, answer: dict[str, Any]) -> None:
        """Have introspection say exactly this of a token, right or wrong."""
        self._opaque[token] = answer

    def revoke(self, token: str) -> None:
        """Have introspection say that the token is not active."""
        self._opaque.pop(token, None)

    def know(self, sub: str, **claims: Any) -> None:
        """Have userinfo say this of a person."""
        self._people[sub] = {"sub": sub, **claims}

    def rotate(self, *, keep: bool = True, algorithm: str | None = None) -> SigningKey:
        """Sign with a new key from now on, and return it.

        Args:
            keep: Whether the old keys stay published, as a careful issuer has it.
            algorithm: What the new key is for; left out, what the newest one was for.
        """
        key = make_signing_key(algorithm or self.keys[0].algorithm)
        self.keys = [key, *(self.keys if keep else [])]
        return key

    def go_down(self, how: Outage = "unavailable") -> None:
        """Fail every request from now on."""
        self._outage = how

    def come_back(self) -> None:
        """Answer again."""
        self._outage = None

    def hold(self) -> None:
        """Answer no request until `release`."""
        self._held, self._open = True, anyio.Event()

    def release(self) -> None:
        """Answer the requests that wait, and those to come."""
        self._held = False
        self._open.set()

    async def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the answer to a request."""
        self.hits[path] += 1
        if self._held:
            await self._open.wait()
        if self._outage == "refused":
            raise ConnectionRefusedError("the issuer is down")
        if self._outage is not None and not (self._outage == "empty" and not path.endswith("/jwks")):
            return _OUTAGES[self._outage]
        told = self._told(method, path.removeprefix(urlsplit(self.issuer).path.rstrip("/")), headers, body)
        return (404, _JSON, b"{}") if told is None else (told[0], dict(_JSON), msgspec.json.encode(told[1]))

    def _told(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, dict[str, Any]] | None:
        if path == "/jwks":
            return 200, {"keys": [key.public() for key in self.keys if not key.algorithm.startswith("HS")]}
        if path in ("/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"):
            base = self.issuer.rstrip("/")
            return 200, {"issuer": self.issuer, **{name: f"{base}/{place}" for name, place in _PLACES.items()}, **self.metadata}
        if path == "/introspect" and method == "POST":
            (token,) = parse_qs(body.decode()).get("token", [""])
            return 200, self._opaque.get(token, {"active": False})
        if path == "/userinfo" and method == "GET":
            token = headers.get("authorization", "").removeprefix("Bearer ")
            person = self._people.get(self._subject_of(token) or "")
            return (401, {"error": "invalid_token"}) if person is None else (200, person)
        return None

    def _subject_of(self, token: str) -> str | None:
        known = self._opaque.get(token)
        if known is None and token.count(".") == 2:
            payload = token.split(".")[1].encode()
            known = msgspec.json.decode(decode(payload))
        return None if known is None else known.get("sub")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer as an ASGI app, for tests that want a socket between."""
        if scope["type"] != "http":
            raise RuntimeError("an issuer answers HTTP requests only")
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        status, answered, content = await self.answer(scope["method"], scope["path"], headers, body)
        lines = [(name.encode(), value.encode()) for name, value in {**answered, "content-length": str(len(content))}.items()]
        await send({"type": "http.response.start", "status": status, "headers": lines})
        await send({"type": "http.response.body", "body": content})


_OUTAGES: Final[dict[str, tuple[int, dict[str, str], bytes]]] = {
    "unavailable": (503, {"content-type": "text/plain"}, b"down"),
    "html": (200, {"content-type": "text/html"}, b"<html>Please log in to the Wi-Fi.</html>"),
    "empty": (200, _JSON, b'{"keys":[]}'),
    "garbage": (200, _JSON, b"\x00\xff{"),
}


class _Answered:
    """What a client's `stream` yields."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status_code: Final = status
        self.headers: Final = headers
        self._body: Final = body

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        yield self._body


class _InProcessClient:
    """Hands requests to an issuer in this process, as `httpx.AsyncClient` would over a socket."""

    def __init__(self, issuer: TestIssuer) -> None:
        self._issuer: Final = issuer

    def stream(
        self,
        method: str,
        url: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        follow_redirects: bool = False,
    ) -> AbstractAsyncContextManager[_Answered]:
        """Send a request, and yield the answer."""
        del follow_redirects
        return self._stream(method, url, content or b"", headers or {})

    @asynccontextmanager
    async def _stream(self, method: str, url: str, content: bytes, headers: Mapping[str, str]) -> AsyncGenerator[_Answered]:
        parts = urlsplit(url)
        if f"{parts.scheme}://{parts.netloc}" != "://".join(urlsplit(self._issuer.issuer)[:2]):
            raise ConnectionError("nobody answers at this address")
        yield _Answered(*await self._issuer.answer(method, parts.path, {name.lower(): value for name, value in headers.items()}, content))
