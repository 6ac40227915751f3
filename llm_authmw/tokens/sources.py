"""Where an issuer's keys come from."""

from collections.abc import Iterable
from typing import Final, Protocol

from llm_authmw.tokens.keys import KeyRing, VerificationKey


class KeySource(Protocol):
    """The keys of one issuer, however they come here."""

    def find(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...] | None:
        """Return the keys that a token with this `kid` and `alg` may be signed with; None where they are not at hand."""
        ...

    def renew(self) -> None:
        """Begin to fetch the keys anew where they are due, so that one which was withdrawn is noticed; never waits."""

    async def fetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """Ask the issuer, and return the same; empty where it has no such key.

        Raises:
            IssuerUnavailableError: it could not be asked.
        """
        ...

    async def aclose(self) -> None:
        """End what is under way; the next use begins anew."""


class FixedKeys:
    """Keys that were given in code: a static set, a PEM text, a shared secret."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self._ring: Final = KeyRing(keys)

    def find(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """See `KeySource`."""
        found = self._ring.candidates(kid, algorithm)
        if found or kid is None:
            return found
        # A PEM text and a secret have no id, and the issuer may well put one into its tokens.
        return tuple(key for key in self._ring.candidates(None, algorithm) if key.kid is None)

    def renew(self) -> None:
        """See `KeySource`."""

    async def fetch(self, kid: str | None, algorithm: str) -> tuple[VerificationKey, ...]:
        """See `KeySource`."""
        return self.find(kid, algorithm)

    async def aclose(self) -> None:
        """See `KeySource`."""
