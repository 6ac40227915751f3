"""JSON Web Signatures in the compact form (RFC 7515 §3.1), read strictly, verified with keys that were chosen beforehand.

Nothing in a header is ever a source of keys (`jwk`, `jku`, `x5c`, `x5u`) and none of it chooses the algorithm: it must name one
that configuration allows and that the key itself fits (RFC 8725 §3.1). Encrypted tokens are none of ours.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from joserfc.jwa import JWS_ALGORITHMS, JWSAlgModel

from llm_authmw.errors import ConfigurationError, TokenInvalid
from llm_authmw.strict_json import is_array, is_object, parse_object
from llm_authmw.tokens.base64url import decode
from llm_authmw.tokens.keys import ALGORITHMS, HMAC_ALGORITHMS, MAX_KID, VerificationKey, read_keys

MAX_TOKEN: Final = 16_384
MAX_HEADER: Final = 4_096
MAX_CANDIDATES: Final = 8
"""Keys that a token without `kid` is tried with."""

_MODELS: Final[dict[str, JWSAlgModel]] = {model.name: model for model in JWS_ALGORITHMS if model.name in ALGORITHMS}
_MALFORMED: Final = "token_malformed"


class Header(NamedTuple):
    """What counts of a JOSE header (RFC 7515 §4.1).

    Attributes:
        algorithm: `alg`.
        kid: The id of the key, or None.
        typ: The type in lower case, without `application/` (RFC 7515 §4.1.9), or None.
        members: All of it.
    """

    algorithm: str
    kid: str | None
    typ: str | None
    members: dict[str, Any]


class CompactToken(NamedTuple):
    """A token in three parts, none of which anybody has verified.

    Attributes:
        header: Its header.
        signing_input: What the signature is over.
        payload: What it says, decoded.
        signature: The signature, decoded.
    """

    header: Header
    signing_input: bytes
    payload: bytes
    signature: bytes

    def __repr__(self) -> str:
        # A token that was not verified may still be good, for somebody else.
        return f"CompactToken(algorithm={self.header.algorithm!r}, kid={self.header.kid!r})"


def looks_compact(token: bytes) -> bool:
    """Say whether this has the shape of a compact JWS with an object for a header: three parts, and an encoded `{` at its start."""
    return token.count(b".") == 2 and token.startswith((b"ey", b"ew"))


def read_compact(token: bytes) -> CompactToken:
    """Take a token apart.

    Raises:
        TokenInvalid: it is not of this form, is longer than 16 KiB, or its header asks for what is not done here.
    """
    if len(token) > MAX_TOKEN:
        raise TokenInvalid(_MALFORMED)
    signing_input, _, signature = token.rpartition(b".")
    header, dot, payload = signing_input.partition(b".")
    if not dot or b"." in payload:
        raise TokenInvalid(_MALFORMED)
    try:
        return CompactToken(_read_header(header), signing_input, decode(payload), decode(signature))
    except ValueError:
        raise TokenInvalid(_MALFORMED) from None


def verify_signature(token: CompactToken, keys: Sequence[VerificationKey]) -> VerificationKey:
    """Return the key that the token was signed with.

    Args:
        token: The token.
        keys: The keys that fit its algorithm; the caller has held that against what is allowed.

    Raises:
        TokenInvalid: none of them signed it.
    """
    if not keys:
        raise TokenInvalid("token_key_unknown")
    verify = _MODELS[token.header.algorithm].verify
    for key in keys[:MAX_CANDIDATES]:
        try:
            if verify(token.signing_input, token.signature, key.key):
                return key
        except Exception:  # noqa: BLE001, S112 - whatever a library makes of hostile bytes, they are no signature
            continue
    raise TokenInvalid("token_signature_invalid")


def verify_jws(token: str, jwks: dict[str, Any], *, algorithms: list[str]) -> bytes:
    """Verify a compact JWS against a set of keys, with the rules that the layers have, and return its payload.

    The set is all public keys, or all HMAC secrets. Where it holds both, a token could be signed with what everybody knows, and where
    two of its keys have one id, nobody can say which was meant: such a set verifies nothing.

    Args:
        token: The token.
        jwks: A JWK set (RFC 7517 §5), or one JWK.
        algorithms: The algorithms that are allowed.

    Raises:
        TokenInvalid: the signature is not one of these keys', or token, header or set are not acceptable.
        ConfigurationError: `algorithms` is empty, or names one that is not a signature algorithm here.
    """
    allowed = check_algorithms(algorithms)
    given = jwks if "keys" in jwks else {"keys": [jwks]}
    entries = [entry for entry in given["keys"] if is_object(entry)] if is_array(given["keys"]) else []
    symmetric = any(entry.get("kty") == "oct" for entry in entries)
    kids = [entry["kid"] for entry in entries if "kid" in entry]
    if any(kids.count(kid) > 1 for kid in kids) or (symmetric and any(entry.get("kty") != "oct" for entry in entries)):
        raise TokenInvalid("token_key_unusable")
    try:
        ring = read_keys(given, symmetric=symmetric)
        text = token.encode("ascii")
    except ValueError:
        raise TokenInvalid(_MALFORMED) from None
    if not ring.keys:
        raise TokenInvalid("token_key_unusable")
    compact = read_compact(text)
    if compact.header.algorithm not in allowed:
        raise TokenInvalid("token_algorithm_not_allowed")
    verify_signature(compact, ring.candidates(compact.header.kid, compact.header.algorithm))
    return compact.payload


def check_algorithms(algorithms: Iterable[str]) -> frozenset[str]:
    """Return the algorithms that are allowed.

    Raises:
        ConfigurationError: there is none, or one is no signature algorithm here.
    """
    names = frozenset(algorithms) if not isinstance(algorithms, str) else frozenset[str]()
    unknown = names.difference(ALGORITHMS)
    if not names or unknown:
        named = f"{min(unknown)!r} is none" if unknown else "a list is expected"
        raise ConfigurationError("algorithms", f"{named}; expected some of {', '.join(ALGORITHMS)}")
    return names


def is_hmac(algorithm: str) -> bool:
    """Say whether the algorithm's key is a shared secret."""
    return algorithm in HMAC_ALGORITHMS


# One header serves all tokens of an issuer's key, so that reading it is mostly remembering it. It holds no secret, and the
# bound on its length is the bound on what is remembered.
@functools.lru_cache(maxsize=1024)
def _read_header(segment: bytes) -> Header:
    if len(segment) > MAX_HEADER:
        raise ValueError("the header is too long")
    members = parse_object(decode(segment))
    algorithm, kid, typ = members.get("alg"), members.get("kid"), members.get("typ")
    if not isinstance(algorithm, str) or not isinstance(kid, str | None) or not isinstance(typ, str | None):
        raise ValueError("`alg`, `kid` and `typ` are texts")  # noqa: TRY004 - of the sender's value, not of our caller's
    if kid is not None and not 0 < len(kid) <= MAX_KID:
        raise ValueError("`kid` is too long, or empty")
    # No extension is implemented here, and RFC 7515 §4.1.11 has every token refused that needs one; `b64` (RFC 7797) is none for a JWT.
    if "crit" in members or "b64" in members or "zip" in members or "enc" in members:
        raise ValueError("the header needs what is not done here")
    return Header(algorithm, kid, None if typ is None else typ.lower().removeprefix("application/"), members)
