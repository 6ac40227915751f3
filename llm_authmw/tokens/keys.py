"""The keys that signatures are verified with: read one by one, judged one by one, and bound to their algorithms.

A key fits an algorithm by its own type, curve, `alg`, `use` and `key_ops` (RFC 8725 §3.1, RFC 7517 §4); what a token's header says
never makes it fit. Weak keys are no keys: RSA below 2048 bits or with a small exponent, keys with the ROCA pattern (CVE-2017-15361),
HMAC secrets shorter than their hash (RFC 7518 §3.2).
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from llm_authmw.strict_json import is_array, is_object, parse
from llm_authmw.tokens.base64url import InvalidBase64urlError, decode

HMAC_ALGORITHMS: Final = {"HS256": 32, "HS384": 48, "HS512": 64}
"""HMAC algorithms, with the length of their hash in bytes, which the secret must at least have."""
RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
EC_ALGORITHMS: Final = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
ED25519_ALGORITHMS: Final = ("EdDSA", "Ed25519")
ASYMMETRIC_ALGORITHMS: Final = (*RSA_ALGORITHMS, *EC_ALGORITHMS.values(), *ED25519_ALGORITHMS)
ALGORITHMS: Final = (*ASYMMETRIC_ALGORITHMS, *HMAC_ALGORITHMS)
"""Every JWS algorithm that an issuer may be configured with (RFC 7518 §3.1, RFC 8037, RFC 9864)."""

MAX_KEYS: Final = 100
MAX_KID: Final = 256

_MIN_RSA_BITS: Final = 2048
_MAX_RSA_BITS: Final = 8192
_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_COORDINATE_BYTES: Final = {"P-256": 32, "P-384": 48, "P-521": 66}
# The primes and the generator of the published fingerprint of CVE-2017-15361.
_ROCA_PRIMES: Final = (
    *(3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113),
    *(127, 131, 137, 139, 149, 151, 157, 163, 167),
)
_ROCA_GENERATOR: Final = 65537
# How the texts of public keys and certificates begin, which everybody has.
_PUBLIC_TEXTS: Final = (b"-- BEGIN ", b"--BEGIN ", b"ssh-rsa ", b"ssh-dss ", b"ssh-ed25519 ", b"ecdsa-sha2-")


class UnusableKeyError(ValueError):
    """A key is malformed, weak, of another use, or private; the text says which, and nothing of the key."""


class VerificationKey:
    """One key that a signature may be verified with.

    Attributes:
        kid: Its id, or None where it has none.
        algorithms: The JWS algorithms that it fits.
        key: joserfc's key.
        material: What tells it from every other key: two sets hold the same key where this is equal.
        current: False once the set that it came from no longer has it; what was verified with it stands no longer.
    """

    __slots__ = ("algorithms", "current", "key", "kid", "material")

    def __init__(self, kid: str | None, algorithms: frozenset[str], key: Any, material: tuple[object, ...]) -> None:
        self.kid: Final = kid
        self.algorithms: Final = algorithms
        self.key: Final = key
        self.material: Final = material
        self.current: bool = True

    def __repr__(self) -> str:
        return f"VerificationKey(kid={self.kid!r}, algorithms={sorted(self.algorithms)!r})"

    @property
    def is_symmetric(self) -> bool:
        """Whether whoever can verify with it can also sign with it."""
        return isinstance(self.key, OctKey)


class KeyRing:
    """A set of keys.

    Attributes:
        keys: The keys that may be used.
        skipped: How many others were left out.
    """

    def __init__(self, keys: Iterable[VerificationKey], *, skipped: int = 0) -> None:
        found = tuple(keys)
        kids = [key.kid for key in found if key.kid is not None]
        # Which of two keys with one id is meant, nobody can say: neither is.
        self.keys: Final = tuple(key for key in found if key.kid is None or kids.count(key.kid) == 1)
        self.skipped: Final = skipped + len(found) - len(self.keys)

    def candidates(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Return the keys that a token with this `kid` and `alg` may be signed with: at most one where it names a `kid`.

        A key without an id is a candidate for tokens without one only; a token without one may mean any key.
        """
        return tuple(key for key in self.keys if (kid is None or key.kid == kid) and algorithm in key.algorithms)


def read_keys(jwks: object, *, symmetric: bool = False) -> KeyRing:
    """Read a JWK set (RFC 7517 §5), key by key: one that cannot be used is left out, and the others stay.

    Args:
        jwks: The set, as JSON was read.
        symmetric: Whether it holds HMAC secrets, and nothing else; else it must hold none.

    Raises:
        ValueError: it is no JWK set, or has more than 100 keys.
    """
    entries = jwks.get("keys") if is_object(jwks) else None
    if not is_array(entries) or len(entries) > MAX_KEYS:
        raise ValueError(f"not a JWK set of at most {MAX_KEYS} keys")
    keys: list[VerificationKey] = []
    skipped = 0
    for entry in entries:
        try:
            key = read_key(entry)
        except UnusableKeyError:
            skipped += 1
            continue
        if key.is_symmetric == symmetric:
            keys.append(key)
        else:
            skipped += 1
    return KeyRing(keys, skipped=skipped)


def read_key(fields: object) -> VerificationKey:
    """Read one public key, or HMAC secret.

    Raises:
        UnusableKeyError: it is malformed, weak, private, or not meant for verifying signatures.
    """
    if not is_object(fields):
        raise UnusableKeyError("not an object")
    kid = fields.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID):
        raise UnusableKeyError("`kid` is not a text of 1 to 256 characters")
    if not _PRIVATE.isdisjoint(fields):
        raise UnusableKeyError("a private key was published")
    _check_use(fields)
    try:
        if fields.get("kty") == "oct":
            key, fits, material = _read_secret(fields)
        else:
            key, fits, material = _read_public(fields)
    except InvalidBase64urlError:
        raise UnusableKeyError("a parameter is not base64url") from None
    if "alg" in fields:
        fits &= {fields["alg"]} if isinstance(fields["alg"], str) else set()
    if not fits:
        raise UnusableKeyError("it fits no algorithm for signatures")
    return VerificationKey(kid, frozenset(fits), key, (kid, *sorted(fits), *material))


def secret_key(secret: bytes, algorithms: Iterable[str]) -> VerificationKey:
    """Return the key that a shared secret is.

    Raises:
        UnusableKeyError: it is shorter than the hash of one of the algorithms (RFC 7518 §3.2), or is a public key, which is no secret.
    """
    wanted = frozenset(algorithms)
    if any(len(secret) < HMAC_ALGORITHMS[algorithm] for algorithm in wanted):
        longest = max(HMAC_ALGORITHMS[algorithm] for algorithm in wanted)
        raise UnusableKeyError(f"is shorter than the {longest} bytes of the hash (RFC 7518 §3.2)")
    return VerificationKey(None, wanted, _import_secret(secret), ("oct", secret))


def pem_keys(text: str) -> tuple[VerificationKey, ...]:
    """Read the public keys and certificates of a PEM text.

    Raises:
        UnusableKeyError: a block is neither, or its key is weak; or there is none.
    """
    keys: list[VerificationKey] = []
    for block in text.split("-----BEGIN ")[1:]:
        pem = f"-----BEGIN {block}".encode()
        if block.startswith(("PRIVATE", "RSA PRIVATE", "EC PRIVATE", "ENCRYPTED", "OPENSSH")):
            raise UnusableKeyError("is a private key, and only the issuer may have that: give the public one")
        try:
            public = x509.load_pem_x509_certificate(pem).public_key() if block.startswith("CERT") else load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm):
            raise UnusableKeyError("has a block that is neither a public key nor a certificate") from None
        keys.append(_of_public(public))
    if not keys:
        raise UnusableKeyError("holds no PEM block")
    return tuple(keys)


def _of_public(public: object) -> VerificationKey:
    if isinstance(public, RSAPublicKey):
        # First, since joserfc only warns.
        _check_rsa(public.public_numbers().n, public.public_numbers().e)
        jwk: Any = RSAKey.import_key(public).as_dict(private=False)
    elif isinstance(public, EllipticCurvePublicKey) and public.curve.name in ("secp256r1", "secp384r1", "secp521r1"):
        jwk = ECKey.import_key(public).as_dict(private=False)
    elif isinstance(public, Ed25519PublicKey):
        jwk = OKPKey.import_key(public).as_dict(private=False)
    else:
        raise UnusableKeyError("is of a type that no signature algorithm here uses")
    return read_key({name: value for name, value in jwk.items() if name in ("kty", "n", "e", "crv", "x", "y")})


def _check_use(fields: dict[str, Any]) -> None:
    if fields.get("use", "sig") != "sig":
        raise UnusableKeyError("`use` is not 'sig' (RFC 7517 §4.2)")
    operations = fields.get("key_ops")
    if operations is not None and not (is_array(operations) and "verify" in operations):
        raise UnusableKeyError("`key_ops` has no 'verify' (RFC 7517 §4.3)")


def _read_secret(fields: dict[str, Any]) -> tuple[Any, set[str], tuple[object, ...]]:
    secret = _bytes(fields, "k")
    fits = {name for name, length in HMAC_ALGORITHMS.items() if len(secret) >= length}
    if not fits:
        raise UnusableKeyError("the secret is shorter than the hash (RFC 7518 §3.2)")
    return _import_secret(secret), fits, ("oct", secret)


def _read_public(fields: dict[str, Any]) -> tuple[Any, set[str], tuple[object, ...]]:
    kind, curve = fields.get("kty"), fields.get("crv")
    if not isinstance(curve, str | None):
        raise UnusableKeyError("`crv` is no text")
    if kind == "RSA":
        modulus, exponent = _bytes(fields, "n"), _bytes(fields, "e")
        _check_rsa(int.from_bytes(modulus), int.from_bytes(exponent))
        key: Any = _import(RSAKey, {"kty": "RSA", "n": fields["n"], "e": fields["e"]})
        return key, set(RSA_ALGORITHMS), ("RSA", modulus, exponent)
    if kind == "EC" and curve in EC_ALGORITHMS:
        x, y = _bytes(fields, "x"), _bytes(fields, "y")
        # RFC 7518 §6.2.1.2: the full size of a coordinate, leading zeros included.
        if not len(x) == len(y) == _COORDINATE_BYTES[curve]:
            raise UnusableKeyError("a coordinate has not the size of its curve")
        key = _import(ECKey, {"kty": "EC", "crv": curve, "x": fields["x"], "y": fields["y"]})
        return key, {EC_ALGORITHMS[curve]}, ("EC", curve, x, y)
    if kind == "OKP" and curve == "Ed25519":
        x = _bytes(fields, "x")
        key = _import(OKPKey, {"kty": "OKP", "crv": curve, "x": fields["x"]})
        return key, set(ED25519_ALGORITHMS), ("OKP", curve, x)
    raise UnusableKeyError("`kty` or `crv` is not one that signatures are verified with here")


def _import_secret(secret: bytes) -> Any:
    # What is signed with a public key as its secret, everybody can sign (CVE-2024-33663 and its bypass by DER).
    try:
        is_key = any(marker in secret for marker in _PUBLIC_TEXTS) or "kty" in parse(secret)
    except (ValueError, TypeError):
        is_key = False
    try:
        if not is_key:
            return OctKey.import_key(secret)
    except ValueError:
        pass  # joserfc reads it as DER
    raise UnusableKeyError("is a key itself, and whoever has that could sign")


def _import(kind: Any, jwk: dict[str, str]) -> Any:
    # joserfc and cryptography raise many things for one malformed key.
    try:
        key = kind.import_key(jwk)
        # The point or the modulus is looked at when it is first used, which is now.
        key.get_op_key("verify")
    except Exception as error:
        raise UnusableKeyError("the key cannot be read") from error
    return key


def _bytes(fields: dict[str, Any], name: str) -> bytes:
    value = fields.get(name)
    if not isinstance(value, str):
        raise UnusableKeyError(f"`{name}` is no text")
    return decode(value.encode("utf-8", "surrogatepass"))


def _check_rsa(modulus: int, exponent: int) -> None:
    if not _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS:
        raise UnusableKeyError("an RSA key has 2048 to 8192 bits here")
    if exponent < 65537 or exponent % 2 == 0 or exponent.bit_length() > 64:
        raise UnusableKeyError("an RSA exponent is odd, and 65537 at least")
    if all(modulus % prime in powers for prime, powers in _roca_residues()):
        raise UnusableKeyError("the RSA key can be factored (CVE-2017-15361)")


@lru_cache(maxsize=1)
def _roca_residues() -> tuple[tuple[int, frozenset[int]], ...]:
    """Return, for each prime, the residues that every modulus of the flawed library has: the powers of one generator."""
    return tuple((prime, frozenset(pow(_ROCA_GENERATOR, power, prime) for power in range(prime))) for prime in _ROCA_PRIMES)
