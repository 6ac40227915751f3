"""How we prove, at an endpoint of a provider, which client we are (RFC 6749 §2.3, RFC 7523 §2.2, OIDC Core §9).

It knows nothing of what the endpoint is for: introspection, token and revocation endpoints are all asked this way.
"""

import base64
import inspect
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, get_args
from urllib.parse import quote_plus

import msgspec
from joserfc.jwa import JWS_ALGORITHMS
from joserfc.jwk import ECKey, OKPKey, RSAKey

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, IssuerUnavailableError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.tokens.base64url import encode
from llm_authmw.tokens.keys import RSA_ALGORITHMS, UnusableKeyError, read_key
from llm_authmw.tokens.options import name

ClientAuthMethod: TypeAlias = Literal["client_secret_basic", "client_secret_post", "private_key_jwt", "bearer"]
TokenSource: TypeAlias = Callable[[], str | Awaitable[str]]
"""A function, sync or async, that returns a bearer token of our own which is valid now."""

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_TTL: Final = 60.0
"""Seconds for which an assertion is valid; each is used once."""

_PUBLIC: Final = ("kty", "n", "e", "crv", "x", "y", "alg", "kid", "use")
_PEM_KINDS: Final[tuple[Any, ...]] = (RSAKey, ECKey, OKPKey)
_JWK_KINDS: Final[dict[object, Any]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
_VISIBLE: Final = frozenset(map(chr, range(0x21, 0x7F)))


class Proof(NamedTuple):
    """What goes with one call. It holds secrets: it is sent, and never printed.

    Attributes:
        headers: Headers of the call.
        fields: Further fields of its form.
    """

    headers: dict[str, str]
    fields: dict[str, str]

    def __repr__(self) -> str:
        return f"Proof(headers={sorted(self.headers)}, fields={sorted(self.fields)})"


class ClientAuth(Protocol):
    """One way to prove which client we are."""

    async def prove(self, audience: str) -> Proof:
        """Return what goes with one call.

        Args:
            audience: Whom the proof is for: the issuer where it is known, else the endpoint.

        Raises:
            IssuerUnavailableError: there is nothing to prove it with just now.
        """
        ...


def client_auth(
    *,
    client_id: str | None = None,
    client_secret: str | Secret | TokenSource | None = None,
    client_auth: ClientAuthMethod | None = None,
    client_key: str | Secret | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> ClientAuth:
    """Return the way that the options name.

    Args:
        client_id: Our id at the provider. Not needed for "bearer".
        client_secret: The secret that we share with the provider; for "bearer", the token, or a function that returns one.
        client_auth: The method. Left out, it is "client_secret_basic" with a secret, and "private_key_jwt" with a key.
        client_key: For "private_key_jwt", the private key, as PEM or JWK.
        clock: Dates the assertions.

    Raises:
        ConfigurationError: an option is missing, wrong, contradicts another one, or would be ignored.
    """
    method: Any = client_auth or ("private_key_jwt" if client_key is not None else "client_secret_basic")
    if method not in get_args(ClientAuthMethod):
        raise ConfigurationError("client_auth", f"is one of {', '.join(get_args(ClientAuthMethod))}")
    if method == "private_key_jwt":
        if client_key is None:
            raise ConfigurationError("client_key", "is the private key that private_key_jwt signs with")
        if client_secret is not None:
            raise ConfigurationError("client_secret", "would be ignored: private_key_jwt proves the client by its key")
        return PrivateKeyJWT(_checked_id(client_id), resolve_secret("client_key", client_key), clock=clock)
    if client_key is not None:
        raise ConfigurationError("client_key", f"would be ignored: {method} proves the client by its secret")
    if client_secret is None:
        raise ConfigurationError("client_secret", f"is missing: {method} needs one")
    if method == "bearer":
        return Bearer(client_secret if callable(client_secret) else resolve_secret("client_secret", client_secret))
    if callable(client_secret):
        raise ConfigurationError("client_secret", "is a function, which only bearer takes")
    secret = resolve_secret("client_secret", client_secret)
    return (
        ClientSecretBasic(_checked_id(client_id), secret)
        if method == "client_secret_basic"
        else ClientSecretPost(_checked_id(client_id), secret)
    )


class ClientSecretBasic:
    """The secret in `Authorization: Basic` (RFC 6749 §2.3.1)."""

    def __init__(self, client_id: str, secret: Secret) -> None:
        # Encoded as a form first: without that, a colon in the id or a `%` in the secret would be read as something else.
        pair = f"{quote_plus(client_id)}:{quote_plus(secret.reveal())}"
        self._client_id: Final = client_id
        self._header: Final = Secret("Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii"))

    def __repr__(self) -> str:
        return f"ClientSecretBasic({self._client_id!r})"

    async def prove(self, audience: str) -> Proof:
        """Return the header."""
        del audience
        return Proof({"authorization": self._header.reveal()}, {})


class ClientSecretPost:
    """The secret in the form (RFC 6749 §2.3.1), for providers that take no `Basic`."""

    def __init__(self, client_id: str, secret: Secret) -> None:
        self._client_id: Final = client_id
        self._secret: Final = secret

    def __repr__(self) -> str:
        return f"ClientSecretPost({self._client_id!r})"

    async def prove(self, audience: str) -> Proof:
        """Return the fields."""
        del audience
        return Proof({}, {"client_id": self._client_id, "client_secret": self._secret.reveal()})


class PrivateKeyJWT:
    """A short assertion, signed with our private key, for each call (RFC 7523 §2.2 and §3)."""

    def __init__(self, client_id: str, key: Secret, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client_id: Final = client_id
        self._sign, header = _signer(key)
        self._header: Final = encode(msgspec.json.encode(header))
        self._now: Final = clock.now

    def __repr__(self) -> str:
        return f"PrivateKeyJWT({self._client_id!r})"

    async def prove(self, audience: str) -> Proof:
        """Return the fields, with an assertion that was never used."""
        now = int(self._now())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": audience,
            "jti": secrets.token_urlsafe(16),
            "iat": now,
            "exp": now + int(ASSERTION_TTL),
        }
        signing_input = self._header + b"." + encode(msgspec.json.encode(claims))
        assertion = (signing_input + b"." + encode(self._sign(signing_input))).decode("ascii")
        return Proof({}, {"client_id": self._client_id, "client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion})


class Bearer:
    """An access token of our own (RFC 6750 §2.1)."""

    def __init__(self, token: Secret | TokenSource) -> None:
        self._token: Final = token
        if isinstance(token, Secret) and not _is_token(token.reveal()):
            raise ConfigurationError("client_secret", "is no bearer token: it holds a character that none has")

    def __repr__(self) -> str:
        return "Bearer()"

    async def prove(self, audience: str) -> Proof:
        """Return the header."""
        del audience
        token = self._token.reveal() if isinstance(self._token, Secret) else await _ask(self._token)
        return Proof({"authorization": f"Bearer {token}"}, {})


async def _ask(source: TokenSource) -> str:
    try:
        given: Any = source()
        token: Any = await given if inspect.isawaitable(given) else given
    except Exception as error:  # noqa: BLE001 - a user's function: whatever it raises may quote the token
        raise IssuerUnavailableError(f"the function that gives our own token failed ({type(error).__name__})") from None
    if not isinstance(token, str) or not _is_token(token):
        raise IssuerUnavailableError("the function that gives our own token returned something else")
    return token


def _is_token(text: str) -> bool:
    return text != "" and _VISIBLE.issuperset(text)


def _checked_id(client_id: str | None) -> str:
    if client_id is None:
        raise ConfigurationError("client_id", "is missing")
    return name("client_id", client_id)


def _signer(secret: Secret) -> tuple[Callable[[bytes], bytes], dict[str, str]]:
    """Return what signs with the key, and the header of what it signs.

    Raises:
        ConfigurationError: it is not a private key, or one that is weak or fits no algorithm.
    """
    text = secret.reveal().strip()
    try:
        key = _from_jwk(text) if text.startswith("{") else _from_pem(text)
        members: dict[str, Any] = key.as_dict(private=False)
        # The same judgement as on keys that others sign with: what is weak there is weak here.
        public = read_key({member: members[member] for member in _PUBLIC if member in members})
    except UnusableKeyError as error:
        raise ConfigurationError("client_key", str(error)) from None
    except Exception as error:  # noqa: BLE001 - joserfc and cryptography raise many things, some of which quote the key
        raise ConfigurationError("client_key", f"is not a private key in PEM or JWK ({type(error).__name__})") from None
    if not key.is_private:
        raise ConfigurationError("client_key", "is a public key: signing needs the private one")
    # RS256 and EdDSA are what providers support most, where several algorithms fit.
    algorithm = next(known for known in (*RSA_ALGORITHMS, "EdDSA", *sorted(public.algorithms)) if known in public.algorithms)
    header = {"alg": algorithm, "typ": "JWT"}
    sign = next(model.sign for model in JWS_ALGORITHMS if model.name == algorithm)
    return lambda signing_input: sign(signing_input, key), header if public.kid is None else {**header, "kid": public.kid}


def _from_jwk(text: str) -> Any:
    fields = msgspec.json.decode(text)
    return _JWK_KINDS[fields.get("kty")].import_key(fields)


def _from_pem(text: str) -> Any:
    for kind in _PEM_KINDS:
        try:
            return kind.import_key(text)
        except Exception:  # noqa: BLE001, S112 - it is a key of another kind, or none: the last one says so
            continue
    raise UnusableKeyError("is not a private key in PEM or JWK")
