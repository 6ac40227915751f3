"""A run: authentication layers side by side, which decide together who is calling."""

from typing import Any, Protocol

import msgspec

from llm_authmw.authn.credentials import Credential
from llm_authmw.errors import Denial
from llm_authmw.principal import Principal


class Standing(Protocol):
    """Whether a credential that was accepted still stands, for streams and sockets that outlive the decision."""

    @property
    def bound(self) -> float:
        """Seconds within which a change takes effect."""
        ...

    @property
    def due(self) -> float:
        """Seconds after which it is to be asked again, always above zero."""
        ...

    def holds(self) -> bool:
        """Say whether it still stands, without asking anybody; False means that it must be asked."""
        ...

    async def confirm(self) -> Denial | None:
        """Ask; return why it stands no longer, or None. Whatever keeps it from finding out is such a reason: it never raises."""


class Run(msgspec.Struct, eq=False):
    """What the layers of one run know of one request.

    Attributes:
        expected: The layer that goes on with this run. Any other one that the request meets stands behind something
            foreign, and decides anew.
        credential: What the caller presented.
        pending: Whether a required layer let the request pass without its credential.
        challenges: What the layers that found no credential would accept, for `WWW-Authenticate`.
        principal: Who is calling, once a layer has judged the caller's own credential.
        standing: Whether that still holds later on.
        edge: Who an edge fact says is calling: a client certificate, a proxy's headers, a signed assertion. It counts where the
            caller presents no credential of its own.
        edge_standing: Whether the edge fact still holds later on.
        proven: Whose credential it was proven to be, where it holds no more: it is good for nothing but the record.
        certificate: SHA-256 of the client's certificate, wherever one was proven: what a token may be bound to (RFC 8705 §3).
        mark: What a reader of the record should notice.
        entrance: The layer where it began, which knows what all of its layers look into and would accept; None where nobody is asked.
        outer: The run further out, where this one decides anew.
    """

    credential: Credential | None
    expected: Any = None
    pending: bool = False
    challenges: list[str] = []
    principal: Principal | None = None
    standing: Standing | None = None
    edge: Principal | None = None
    edge_standing: Standing | None = None
    proven: Principal | None = None
    certificate: bytes | None = None
    mark: str | None = None
    entrance: Any = None
    outer: "Run | None" = None
