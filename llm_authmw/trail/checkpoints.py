"""Signatures over the state of a chain (Ed25519, RFC 8032), and the keys that make and check them."""

import os
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.trail.entry import Entry

Anchor: TypeAlias = Callable[[Entry], Awaitable[None] | None]
"""A function that takes the entry of a checkpoint, once it is written, to where whoever can change the trail cannot."""

_PURPOSE: Final = b"llm_authmw audit checkpoint 1\n"


def signed_text(digest: bytes) -> bytes:
    """Return what is signed: the name of the purpose, then the hash that the checkpoint's entry would have without its signature.

    The hash covers the hash of the entry before, the writer, the place and all that the checkpoint says, the key's id included. No
    signature that the same key makes for another purpose is one over this.
    """
    return _PURPOSE + digest


class VerifyingKey:
    """A public key, which checks signatures.

    Args:
        pem: The key as PEM (SubjectPublicKeyInfo), as `llm-authmw audit keygen` and `openssl pkey -pubout` write it.

    Raises:
        ConfigurationError: it is no such key, or not one for Ed25519.
    """

    def __init__(self, pem: str | bytes) -> None:
        try:
            key = load_pem_public_key(pem.encode() if isinstance(pem, str) else pem)
        except ValueError:
            raise ConfigurationError("keys", "takes public keys as PEM") from None
        if not isinstance(key, Ed25519PublicKey):
            raise ConfigurationError("keys", f"takes public keys for Ed25519, not {type(key).__name__.removeprefix('_')}")
        self._key: Final = key
        self.id: Final[str] = key_id(key)

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Say whether a signature is this key's, over this hash."""
        try:
            self._key.verify(signature, signed_text(digest))
        except InvalidSignature:
            return False
        return True

    def __repr__(self) -> str:
        return f"VerifyingKey({self.id!r})"


class SigningKey:
    """A private key, which signs checkpoints. It prints its id only.

    Args:
        secret: The key as PEM (PKCS #8, not encrypted), as `llm-authmw audit keygen` and `openssl genpkey -algorithm ed25519` write it;
            best a reference such as `file:/run/secrets/audit.pem`.

    Raises:
        ConfigurationError: it cannot be read, or is no such key.
    """

    def __init__(self, secret: str | Secret) -> None:
        pem = resolve_secret("signing_key", secret).reveal()
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError):  # TypeError: it is encrypted
            raise ConfigurationError("signing_key", "takes a private key as PEM, not encrypted, or a reference to one") from None
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigurationError("signing_key", f"takes a private key for Ed25519, not {type(key).__name__.removeprefix('_')}")
        self._key: Final = key
        self.id: Final[str] = key_id(key.public_key())

    def sign(self, digest: bytes) -> bytes:
        """Return the signature over a hash, 64 bytes."""
        return self._key.sign(signed_text(digest))

    @property
    def public_pem(self) -> str:
        """The public key as PEM: what `VerifyingKey` takes."""
        return self._key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def __repr__(self) -> str:
        return f"SigningKey({self.id!r})"


class FileAnchor:
    """Keeps checkpoints in a file: an `Anchor`. It is worth something where whoever can change the trail cannot change that file.

    Args:
        path: The file, on another disk or another machine's. It is made where it is not there.

    Raises:
        ConfigurationError: its folder is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path: Final = Path(path)
        if not self.path.parent.is_dir():
            raise ConfigurationError("anchor", f"the folder {self.path.parent} is not there")

    def __call__(self, entry: Entry) -> None:
        """Add a checkpoint.

        Raises:
            OSError: it cannot be written.
        """
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, entry.line + b"\n")
        finally:
            os.close(descriptor)

    def __repr__(self) -> str:
        return f"FileAnchor({str(self.path)!r})"


def make_signing_key() -> Secret:
    """Return a new private key, as PEM."""
    return Secret(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


def key_id(key: Ed25519PublicKey) -> str:
    """Return the id of a key: the first 16 hexadecimal digits of the SHA-256 of its 32 bytes."""
    return sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]
