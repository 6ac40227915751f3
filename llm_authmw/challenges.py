"""Challenges, the values of `WWW-Authenticate`: read and written (RFC 9110 §11.6.1)."""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

_WORD: Final = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_SCHEME: Final = re.compile(rf"({_WORD})(?: +(?=[^ ])|\Z)")
_PARAMETER: Final = re.compile(rf'({_WORD})[ \t]*=[ \t]*(?:"((?:[\t\x20\x21\x23-\x5b\x5d-\x7e]|\\[\t\x20-\x7e])*)"|({_WORD}))')
_SEPARATOR: Final = re.compile(r"[ \t]*,[ \t]*")
_ESCAPED: Final = re.compile(r"\\(.)")
_TO_ESCAPE: Final = re.compile(r'(["\\])')


class Challenge(NamedTuple):
    """One challenge.

    Attributes:
        scheme: The authentication scheme, as it was written; its case means nothing.
        parameters: By name in lower case: each occurs once (RFC 9110 §11.2).
    """

    scheme: str
    parameters: dict[str, str]

    @property
    def bearer(self) -> bool:
        """Whether it asks for a bearer token (RFC 6750 §3)."""
        return self.scheme.lower() == "bearer"

    def __str__(self) -> str:
        written = ", ".join(f'{name}="{_escaped(value)}"' for name, value in self.parameters.items())
        return f"{self.scheme} {written}" if written else self.scheme


def parse_challenge(text: str) -> Challenge | None:
    """Read one challenge with parameters or without; None for anything else, and where a parameter occurs twice."""
    begins = _SCHEME.match(text)
    if begins is None:
        return None
    parameters: dict[str, str] = {}
    position = begins.end()
    while position < len(text):
        found = _PARAMETER.match(text, position)
        if found is None or (name := found[1].lower()) in parameters:
            return None
        parameters[name] = found[3] if found[2] is None else _ESCAPED.sub(r"\1", found[2])
        position = found.end()
        if position < len(text):
            comma = _SEPARATOR.match(text, position)
            if comma is None or comma.end() == len(text):
                return None
            position = comma.end()
    return Challenge(begins[1], parameters)


def for_bearers(challenges: Iterable[str], parameters: Mapping[str, str]) -> tuple[str, ...]:
    """Return challenges, each once, with parameters added to those that ask for a bearer token; what cannot be read stays as it is.

    Beside one that says where to get a token, a bare `Bearer` says nothing and is left out: some clients read no further than that.
    """
    read = {text: parse_challenge(text) for text in challenges}
    bearers = {text: challenge for text, challenge in read.items() if challenge is not None and challenge.bearer}
    telling = any(challenge.parameters for challenge in bearers.values())
    found: dict[str, None] = {}
    for text in read:
        bearer = bearers.get(text)
        if bearer is None:
            found[text] = None
        elif bearer.parameters or not telling:
            found[str(Challenge(bearer.scheme, bearer.parameters | dict(parameters))) if parameters else text] = None
    return tuple(found)


def _escaped(value: str) -> str:
    return _TO_ESCAPE.sub(r"\\\1", value)
