"""Where identities come from, told at construction to the layers that make something of them.

So a rule that could never hold, or that would believe the wrong source, is an error at start-up. Layers know each other by these
classes, since who asks who is calling, who asks whether they may and who writes down what happened do not import one another.
"""

from collections.abc import Sequence

import msgspec


class IdentitySource(msgspec.Struct, frozen=True, kw_only=True):
    """One source of principals: an issuer, a key store, a proxy in front, a function of the user's.

    Attributes:
        method: The method of its principals.
        issuers: Who their issuer can be; empty where they have none, None where it cannot be known.
        kept_claims: The claims that are kept on them; None where it cannot be known.
    """

    method: str
    issuers: tuple[str, ...] | None = ()
    kept_claims: frozenset[str] | None = frozenset()


class Deciding:
    """A layer that decides about requests, or changes what they carry: whatever records them stands outside of it."""

    @property
    def stands(self) -> str:
        """What it decides by, so that a change of that shows in the record. It holds no secret."""
        return repr(self)


class Recording:
    """A layer that records what becomes of requests, so that it stands outside of every layer that decides."""


class GivesIdentity(Deciding):
    """A layer that says who is calling."""

    @property
    def identity_sources(self) -> tuple[IdentitySource, ...]:
        """The sources that it takes its principals from."""
        raise NotImplementedError


class CountsFailures(Deciding):
    """A layer that counts credentials which are no good, so that it stands outside of the layers that judge them."""


class ReadsIdentity(Deciding):
    """A layer that decides by who is calling, so that it stands inside of the layers that say so."""

    def check_identity(self, sources: Sequence[IdentitySource], *, whole: bool) -> None:
        """Hold the layer's rules against the sources of the principals that it will be asked about.

        Called by each layer of a run when it is built, the innermost first, and by the `Stack` that they are in.

        Args:
            sources: The sources that are known.
            whole: Whether there will be no more of them. What more of them could set right is an error only then.

        Raises:
            ConfigurationError: a rule could never hold, or would believe a source that it was not meant for.
        """
        raise NotImplementedError
