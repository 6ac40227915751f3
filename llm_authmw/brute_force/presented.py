"""What a request presents, as the defence knows it: by a digest to compare, and by a name to count under."""

import hashlib
from functools import cached_property
from typing import Any, Final

from llm_authmw.certificates.parse import first_of
from llm_authmw.errors import InvalidValueError
from llm_authmw.identity import IdentitySource
from llm_authmw.keys.format import parse_key

_DIGEST: Final = 16
_NAME: Final = 5
"""Hexadecimal digits of a digest in a name: enough to tell those of one network apart, and too few to find a mistyped password by."""
_COOKIE: Final = b"cookie"


class Presented:
    """What a request presents to a run of authentication layers. It holds the secret, for as long as the request is judged.

    Args:
        text: The credential itself.
        place: Where it was found, so that one text in two places is two credentials.
        run: Who judges it: what one run of layers finds good says nothing of what another one looks at beside it.
    """

    def __init__(self, text: bytes, place: bytes = b"", run: bytes = b"") -> None:
        self._text: Final = text
        self._place: Final = place
        self._run: Final = run
        self.quick: Final[int] = quick_of(text, run)
        """Tells it from others at once, and proves nothing."""

    def __repr__(self) -> str:
        return "Presented()"

    @property
    def known(self) -> bool:
        """Whether it is known what it is, so that it can be recognised."""
        return self._text != b""

    @cached_property
    def claimed_id(self) -> str | None:
        """The id of the key that it claims to be, whether or not there is one; None where it has not the form of a key."""
        return parse_key(self._text.decode("ascii", "replace"))

    @cached_property
    def name(self) -> str:
        """What it is counted under: the id that it claims, else a digest's beginning. Either can be had by anybody, and opens nothing."""
        return f"key:{self.claimed_id}" if self.claimed_id is not None else f"sha256:{hashlib.sha256(self._text).hexdigest()[:_NAME]}"

    def digest(self, key: bytes, network: str) -> bytes:
        """Return what it is recognised by, from one network only."""
        told = b"\0".join((network.encode(), self._run, self._place, self._text))
        return hashlib.blake2b(told, key=key, digest_size=_DIGEST).digest()


def quick_of(text: bytes, run: bytes) -> int:
    """Return what tells a text that is presented to a run from others at once, and proves nothing."""
    return hash(text) ^ hash(run)


def presented_to(scope: Any, run: Any) -> Presented | None:
    """Return what a request presents to a run of authentication layers; None where it presents nothing, so that nothing is guessed.

    That is the caller's own credential. Where there is none it is what the layers of the run read beside it: an edge's headers, the
    certificate of the connection. A layer of the user's own may look anywhere; then cookies count too, and nothing at all is a guess.

    Args:
        scope: The connection.
        run: The run, as its first layer has begun it.
    """
    credential, name = run.credential, run.entrance.run_name
    if credential is not None:
        return Presented(credential.token, credential.channel + b" " + credential.scheme, name)
    read: frozenset[bytes] = run.entrance.read_headers
    sources: tuple[IdentitySource, ...] = run.entrance.run_sources
    # Whoever cannot tell what claims it keeps is no layer whose habits are known.
    anywhere = any(source.kept_claims is None for source in sources)
    found = [
        name.lower() + b":" + value
        for name, value in scope["headers"]
        if (lowered := name.lower()) in read or (anywhere and lowered == _COOKIE)
    ]
    leaf = _leaf(scope)
    if leaf is not None:
        found.append(leaf)
    if not found:
        return Presented(b"") if anywhere else None
    return Presented(b"\n".join(found), run=name)


def _leaf(scope: Any) -> bytes | None:
    """Return the certificate that the client has shown on the connection, if there is one."""
    extensions: Any = scope.get("extensions")
    tls: Any = extensions.get("tls") if extensions else None
    try:
        return first_of(tls.get("client_cert_chain")) if tls else None
    except InvalidValueError:
        # Nothing that a layer could read either, and yet something that was presented.
        return b"?"
