"""The language in which the table of operations says how a path ends.

`[METHOD[,METHOD] ]segment/segment`. `*` is any one segment, `{model}` one that names a model, `{model...}` one or more that do
together. The last segment may be a model with an action: `models/{model...}:generateContent`.
"""

import re
from typing import Final

import msgspec

from llm_authmw.errors import ConfigurationError
from llm_authmw.patterns import METHODS, is_canonical

# HEAD asks what GET would answer, and is found as such.
_METHODS: Final = METHODS - {"HEAD"}
_MODEL: Final = re.compile(r"\{model(?P<several>\.\.\.)?\}(?::(?P<action>[A-Za-z][A-Za-z0-9]*))?")


class Ending(msgspec.Struct, frozen=True):
    """How the paths of an operation end, parsed.

    Attributes:
        methods: For which methods.
        segments: Its segments in order: the text of a literal one, None for one that may be anything.
        model: Which of the segments names a model; None where none does.
        several: Whether that one stands for one or more.
        action: What follows the last colon of the last segment; empty where nothing does.
    """

    methods: frozenset[str]
    segments: tuple[str | None, ...]
    model: int | None
    several: bool
    action: str

    @classmethod
    def parse(cls, text: str) -> "Ending":
        """Read how a path ends.

        Raises:
            ConfigurationError: `text` says it in no way that is known; says what is wrong with it.
        """
        head, blank, path = text.rpartition(" ")
        methods = frozenset(head.split(",")) if blank else frozenset({"POST"})
        unknown = methods - _METHODS
        if unknown:
            raise _wrong(text, f"{min(unknown)!r} is not a method; expected one of {', '.join(sorted(_METHODS))}")
        segments: list[str | None] = []
        model: int | None = None
        several = False
        action = ""
        parts = path.split("/")
        for place, part in enumerate(parts):
            named = _MODEL.fullmatch(part)
            if named is None:
                segments.append(None if part == "*" else part)
                continue
            if model is not None:
                raise _wrong(text, "one segment at most names the model")
            model, several, action = place, named["several"] is not None, named["action"] or ""
            segments.append(None)
        literal = [segment for segment in segments if segment is not None]
        if not is_canonical("/" + "/".join(literal or "*")) or "" in literal:
            raise _wrong(text, "an ending is segments between '/', none empty, '.' or '..', with none of \\ # ? ; %")
        if any(character in segment for segment in literal for character in "*{}"):
            raise _wrong(text, "'*', '{model}' and '{model...}' stand for whole segments")
        if not literal:
            raise _wrong(text, "an ending has a segment that is literal, or every path would end like it")
        if action and model != len(parts) - 1:
            raise _wrong(text, "an action stands in the last segment")
        if several and (not model or segments[model - 1] is None):
            raise _wrong(text, "'{model...}' follows a literal segment, where the name begins")
        return cls(methods, tuple(segments), model, several, action)


def _wrong(text: str, problem: str) -> ConfigurationError:
    return ConfigurationError("routes", f"{text!r}: {problem}")
