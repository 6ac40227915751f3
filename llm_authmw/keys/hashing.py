"""How a key is kept: HMAC-SHA-256 under a versioned pepper, or SHA-256 where there is no pepper.

A key holds 256 random bits, so neither a salt nor a slow hash would add anything. The pepper adds that a copy of the
database alone verifies nothing.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret, resolve_secret

Scheme: TypeAlias = Literal["hmac-sha256", "sha256"]
PepperOption: TypeAlias = str | Secret | Mapping[int, str | Secret]

MIN_PEPPER_LENGTH: Final = 32

_VERSION: Final = re.compile(r"\s*[0-9]+:")
_VERSIONED: Final = re.compile(r"[0-9]{1,6}:[^,\s]+(?:[,\s]+[0-9]{1,6}:[^,\s]+)*\s*")


class Digest(NamedTuple):
    """A key's digest, and how it was made.

    Attributes:
        value: 32 bytes.
        scheme: The hash.
        pepper_version: Which pepper; 0 for plain SHA-256.
    """

    value: bytes
    scheme: Scheme
    pepper_version: int

    def __repr__(self) -> str:
        return f"Digest(scheme={self.scheme!r}, pepper_version={self.pepper_version})"


def sha256(key: bytes) -> bytes:
    """Return the plain SHA-256 of a key: the cache key, and the form that imported keys are kept in."""
    return hashlib.sha256(key).digest()


class Peppers:
    """The peppers of a store, by version; the newest hashes new keys.

    Args:
        option: None for no pepper; one pepper, which is version 1; or several by version. As text, several are written
            `2:NEW,1:OLD`. Each may be a reference such as `env:AUTHMW_PEPPER`.

    Raises:
        ConfigurationError: a pepper is shorter than 32 characters, a version is not a number above zero, or there is none.
    """

    __slots__ = ("_by_version", "newest")

    def __init__(self, option: PepperOption | None = None) -> None:
        self._by_version: dict[int, bytes] = {}
        given = {} if option is None else dict(option) if isinstance(option, Mapping) else _versions(resolve_secret("pepper", option))
        if option is not None and not given:
            raise ConfigurationError("pepper", "names no version; leave it out where there is no pepper")
        for version, value in given.items():
            if type(version) is not int or version < 1:
                raise ConfigurationError("pepper", "has versions from 1 on")
            pepper = resolve_secret("pepper", value).reveal()
            if len(pepper) < MIN_PEPPER_LENGTH:
                raise ConfigurationError(
                    "pepper", f"version {version} is shorter than {MIN_PEPPER_LENGTH} characters; make one with: openssl rand -hex 32"
                )
            self._by_version[version] = pepper.encode()
        self.newest: int = max(self._by_version, default=0)

    def __repr__(self) -> str:
        return f"Peppers(versions={sorted(self._by_version)})"

    def digest(self, key: bytes) -> Digest:
        """Return the digest that a new key is kept under."""
        if self.newest:
            return Digest(hmac.digest(self._by_version[self.newest], key, "sha256"), "hmac-sha256", self.newest)
        return Digest(sha256(key), "sha256", 0)

    def has(self, version: int) -> bool:
        """Say whether digests of this pepper version can be made; 0 is plain SHA-256."""
        return version == 0 or version in self._by_version

    def digest_as(self, key: bytes, scheme: Scheme, version: int) -> bytes | None:
        """Return the digest of `key` in the way that a stored one was made; None when that pepper is not at hand."""
        if scheme == "sha256":
            return sha256(key)
        pepper = self._by_version.get(version)
        return None if pepper is None else hmac.digest(pepper, key, "sha256")


def _versions(secret: Secret) -> dict[int, str | Secret]:
    text = secret.reveal()
    if _VERSIONED.fullmatch(text) is None:
        if _VERSION.match(text) is not None:
            # Taken as one pepper, a slip of the pen here would hash new keys with it and refuse all the old ones.
            raise ConfigurationError("pepper", "begins with a version and goes on otherwise; write '2:NEW,1:OLD'")
        return {1: secret}
    found: dict[int, str | Secret] = {}
    for part in re.split(r"[,\s]+", text.strip()):
        version, _, pepper = part.partition(":")
        if int(version) in found:
            raise ConfigurationError("pepper", f"names version {int(version)} twice")
        found[int(version)] = pepper
    return found
