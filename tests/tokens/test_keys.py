"""Keys as they are published: which are usable, and for what."""

import secrets
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from llm_authmw.testing import make_signing_key
from llm_authmw.testing.certificates import CertificateAuthority
from llm_authmw.tokens.base64url import encode
from llm_authmw.tokens.keys import (
    ALGORITHMS,
    EC_ALGORITHMS,
    ED25519_ALGORITHMS,
    RSA_ALGORITHMS,
    KeyRing,
    UnusableKeyError,
    pem_keys,
    read_key,
    read_keys,
    secret_key,
)

P_256 = make_signing_key("ES256", kid="p-256").public()
RSA = make_signing_key("RS256", kid="rsa").public()
ED25519 = make_signing_key("EdDSA", kid="ed").public()
SECRET = {"kty": "oct", "kid": "secret", "k": encode(secrets.token_bytes(64)).decode()}


def bare(key: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """Return a key that says nothing of its use, with these changes; None takes a member away."""
    members = {name: value for name, value in key.items() if name not in {"alg", "use"}} | changes
    return {name: value for name, value in members.items() if value is not None}


@pytest.mark.parametrize(
    ("key", "algorithms"),
    [
        (bare(RSA), set(RSA_ALGORITHMS)),
        (bare(P_256), {"ES256"}),
        (bare(make_signing_key("ES384").public()), {"ES384"}),
        (bare(make_signing_key("ES512").public()), {"ES512"}),
        (bare(ED25519), set(ED25519_ALGORITHMS)),
        (SECRET, {"HS256", "HS384", "HS512"}),
        (SECRET | {"k": encode(bytes(range(48))).decode()}, {"HS256", "HS384"}),
        (SECRET | {"k": encode(bytes(range(32))).decode()}, {"HS256"}),
        (RSA, {"RS256"}),
        (bare(RSA, alg="PS384"), {"PS384"}),
        (bare(ED25519, alg="Ed25519"), {"Ed25519"}),
    ],
)
def test_a_key_fits_the_algorithms_of_its_type_and_of_these_the_one_that_it_names(key: dict[str, Any], algorithms: set[str]) -> None:
    """RFC 8725 §3.1."""
    assert algorithms == read_key(key).algorithms


@pytest.mark.parametrize(
    "key",
    [
        None,
        "key",
        [],
        {},
        {"kty": "EC"},
        {"kty": "RSA"},
        {"kty": "oct"},
        {"kty": "OKP", "crv": "Ed25519"},
        bare(P_256, kty=5),
        bare(P_256, crv=None),
        bare(P_256, crv=["P-256"]),
        bare(P_256, crv="P-521"),
        bare(P_256, x=""),
        bare(P_256, x="AQ"),
        bare(P_256, x="A" + P_256["x"]),
        bare(P_256, x=P_256["x"] + "="),
        bare(P_256, x=P_256["y"], y=P_256["x"]),
        bare(P_256, x="\ud800"),
        bare(P_256, x=5),
        bare(P_256, kid=5),
        bare(P_256, kid=""),
        bare(P_256, kid="k" * 257),
        bare(P_256, d="AQ"),
        bare(P_256, alg="ES384"),
        bare(P_256, alg=["ES256"]),
        bare(P_256, use="enc"),
        bare(P_256, key_ops=["sign"]),
        bare(P_256, key_ops={"verify": True}),
        bare(RSA, e="AQ"),
        bare(RSA, e="Aw"),
        bare(RSA, e="AQAA"),
        bare(RSA, e=encode(b"\x01" + bytes(8) + b"\x01").decode()),
        bare(RSA, n="AQAB"),
        bare(RSA, n=encode(b"\x01" + secrets.token_bytes(1024)).decode()),
        bare(RSA, n=RSA["n"] + "=="),
        bare(RSA, p="AQ"),
        bare(RSA, alg="ES256"),
        bare(RSA, alg="RSA-OAEP"),
        bare(ED25519, crv="X25519"),
        bare(ED25519, crv="Ed448"),
        bare(ED25519, x="AQ"),
        SECRET | {"k": encode(bytes(31)).decode()},
        SECRET | {"k": ""},
        SECRET | {"alg": "A256GCM"},
        SECRET | {"k": encode(bytes(range(32))).decode(), "alg": "HS512"},
    ],
)
def test_a_key_that_cannot_be_used_is_none(key: Any) -> None:
    with pytest.raises(UnusableKeyError) as caught:
        read_key(key)
    for member in ("x", "n", "k"):
        value = key.get(member) if isinstance(key, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        assert not isinstance(value, str) or len(value) < 20 or value not in str(caught.value)


def test_a_set_keeps_what_can_be_used_and_counts_the_others() -> None:
    ring = read_keys({"keys": [P_256, RSA, SECRET, {}, P_256 | {"kid": "enc", "use": "enc"}, bare(ED25519, kid=None)]})
    assert ["p-256", "rsa", None] == [key.kid for key in ring.keys]
    assert 3 == ring.skipped
    symmetric = read_keys({"keys": [P_256, SECRET]}, symmetric=True)
    assert (["secret"], 1) == ([key.kid for key in symmetric.keys], symmetric.skipped)


@pytest.mark.parametrize(
    "jwks", [None, [], {}, {"keys": None}, {"keys": {}}, {"keys": "x"}, {"keys": [P_256] * 101}, P_256], ids=lambda jwks: str(jwks)[:20]
)
def test_what_is_no_set_is_refused_as_a_whole(jwks: Any) -> None:
    with pytest.raises(ValueError, match=r"^not a JWK set"):
        read_keys(jwks)


def test_candidates_are_chosen_by_id_and_algorithm() -> None:
    ring = read_keys({"keys": [P_256, RSA, bare(ED25519, kid=None)]})
    assert ["p-256"] == [key.kid for key in ring.candidates("p-256", "ES256")]
    assert () == ring.candidates("p-256", "RS256")
    assert () == ring.candidates("other", "ES256")
    assert ["rsa"] == [key.kid for key in ring.candidates(None, "RS256")]
    assert [None] == [key.kid for key in ring.candidates(None, "EdDSA")]
    assert () == ring.candidates("ed", "EdDSA")


def test_of_keys_with_one_id_none_is_a_candidate_and_of_keys_without_one_all_are() -> None:
    twice = read_keys({"keys": [P_256, P_256 | {"x": RSA["n"]}, make_signing_key("ES256", kid="p-256").public(), RSA]})
    assert (["rsa"], 3) == ([key.kid for key in twice.keys], twice.skipped)
    nameless = KeyRing([read_key(bare(make_signing_key("ES256").public(), kid=None)) for _ in range(3)])
    assert (3, 0) == (len(nameless.candidates(None, "ES256")), nameless.skipped)


def test_equal_keys_have_equal_material_and_others_have_not() -> None:
    assert read_key(P_256).material == read_key(dict(P_256)).material
    others = [P_256, bare(P_256, kid="other"), bare(RSA), RSA, ED25519, make_signing_key("ES256", kid="p-256").public()]
    assert len(others) == len({read_key(key).material for key in others})


def test_a_key_prints_what_it_is_for_and_nothing_of_itself() -> None:
    assert "VerificationKey(kid='p-256', algorithms=['ES256'])" == repr(read_key(P_256))
    assert SECRET["k"] not in repr(read_key(SECRET))


def public_pem(key: Any, form: PublicFormat = PublicFormat.SubjectPublicKeyInfo) -> str:
    return str(key.public_bytes(Encoding.PEM, form).decode())


def test_pem_texts_hold_public_keys_and_certificates() -> None:
    texts = [public_pem(make_signing_key(algorithm).private.public_key) for algorithm in ("RS256", "ES256", "ES384", "ES512", "EdDSA")]
    texts.append(CertificateAuthority().issue().pem)
    keys = pem_keys("a note\n" + "\n".join(texts))
    assert [RSA_ALGORITHMS, ("ES256",), ("ES384",), ("ES512",), ED25519_ALGORITHMS, ("ES256",)] == [
        tuple(name for name in ALGORITHMS if name in key.algorithms) for key in keys
    ]
    assert {None} == {key.kid for key in keys}


def unusable_pems() -> dict[str, str]:
    private = ec.generate_private_key(ec.SECP256R1())
    unknown = public_pem(private.public_key()).replace("MFkwEwYHKoZIzj0CAQ", "MFkwEwYHKoZIzj0CAg")
    return {
        "nothing": "",
        "text": "no key",
        "private": private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "private, the old way": private.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode(),
        "a private one behind a public one": public_pem(private.public_key())
        + private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "broken": "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        "of an unknown type": unknown,
        "Ed448": public_pem(ed448.Ed448PrivateKey.generate().public_key()),
        "DSA": public_pem(dsa.generate_private_key(1024).public_key()),
        "another curve": public_pem(ec.generate_private_key(ec.SECP256K1()).public_key()),
        "short RSA": public_pem(rsa.generate_private_key(65537, 1024).public_key()),
        "another exponent": public_pem(rsa.generate_private_key(3, 2048).public_key()),
    }


@pytest.mark.parametrize("kind", [*unusable_pems()])
def test_pem_texts_that_hold_anything_else_are_refused(kind: str) -> None:
    with pytest.raises(UnusableKeyError):
        pem_keys(unusable_pems()[kind])


def test_a_secret_is_as_long_as_its_longest_hash() -> None:
    """RFC 7518 §3.2."""
    assert {"HS256"} == secret_key(b"s" * 32, ["HS256"]).algorithms
    assert secret_key(b"s" * 32, ["HS256"]).is_symmetric
    for algorithms in (["HS384"], ["HS256", "HS512"]):
        with pytest.raises(UnusableKeyError, match=r"shorter than the (48|64) bytes"):
            secret_key(b"s" * 32, algorithms)


def test_a_secret_that_looks_like_json_is_one_unless_it_is_a_key() -> None:
    for secret in (b'{"a":"' + b"s" * 32 + b'"}', b"1" * 40, b"[" + b"1," * 20 + b"1]"):
        assert {"HS256"} == secret_key(secret, ["HS256"]).algorithms
    with pytest.raises(UnusableKeyError, match=r"is a key itself"):
        secret_key(b'{"kty":"RSA","n":"' + b"s" * 32 + b'"}', ["HS256"])


def test_every_curve_has_one_algorithm() -> None:
    assert {"ES256", "ES384", "ES512"} == set(EC_ALGORITHMS.values())
