"""What a body holds beside text, found by walking through it once.

The rule is one-sided. Whatever looks like media adds its ceiling, wherever it stands. Taken off the bytes of text is only base64 that
stands where an API takes it as media: a caller who calls text a picture elsewhere has it counted as text.
"""

from collections.abc import Mapping
from typing import Any, Final

from llm_authmw.llm.media_parts import ENCODED, INSIDE, NAMES, PLACES, TYPES, WORDS, WRITTEN, Kind
from llm_authmw.strict_json import is_array, is_object

PICTURE: Final = 12_288
"""Tokens of a picture that is shown: in the finest detail that is sold, of the largest size."""
PICTURE_4O_MINI: Final = 48_256
"""The same for `gpt-4o-mini`, which counts a picture as so many that it costs what it does with `gpt-4o`."""
SECOND: Final = 34
"""Tokens of a second of sound; Gemini has 32."""
SLOWEST: Final = 500
"""Bytes of a second of sound: no codec in use for speech has fewer. Silence can be written in less."""

_ALPHABET: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
_LONGEST_HEAD: Final = 256
"""Characters of a `data:` URL before its data."""


class Look:
    """Looks through the members of one body.

    Args:
        models: The models that the request names.

    Attributes:
        encoded: Bytes of base64 that stand where an API takes them as media.
        pictures: Tokens of pictures, at most.
        sound: Tokens of sound, at most.
        elsewhere: Whether there is input that is not in the body, or whose tokens nothing in it bounds: a file, a film.
        speaks: Whether sound is asked for.
        caches: Whether something is to be written to a cache.
        caches_1h: Whether it may be for longer than is usual.
    """

    __slots__ = ("_picture", "caches", "caches_1h", "elsewhere", "encoded", "pictures", "sound", "speaks")

    def __init__(self, models: tuple[str, ...]) -> None:
        self._picture: Final = PICTURE_4O_MINI if any("4o-mini" in model for model in models) else PICTURE
        self.encoded: int = 0
        self.pictures: int = 0
        self.sound: int = 0
        self.elsewhere: bool = False
        self.speaks: bool = False
        self.caches: bool = False
        self.caches_1h: bool = False

    def through(self, members: Mapping[str, Any]) -> None:
        """Look through the members of a body."""
        for name, value in members.items():
            plain = name if name.islower() else name.casefold()
            if value is None or plain in WRITTEN:
                if plain == "tools":
                    self._walk_tools(value)
                continue
            if plain == "prompt" and is_object(value):
                # A stored one; else it is text.
                self.elsewhere = True
            elif plain == "audio" and is_object(value):
                # How an answer is to be spoken.
                self.speaks = True
            elif plain in NAMES:
                self._take(NAMES[plain], value, members, placed=plain in PLACES)
            elif is_object(value) or is_array(value):
                self._walk(value, placed=plain in PLACES)

    def picture(self) -> None:
        """Count a picture."""
        self.pictures += self._picture

    def _walk_tools(self, tools: Any) -> None:
        """Look for what is said of caches beside the schemas of tools."""
        for tool in tools if is_array(tools) else ():
            for value in (tool, *tool.values()) if is_object(tool) else ():
                if is_object(value):
                    for name in ("cache_control", "cachePoint"):
                        if value.get(name) is not None:
                            self._take("cached", value[name], value, placed=False)

    def _walk(self, value: Any, *, placed: bool) -> None:
        if is_array(value):
            for element in value:
                if type(element) is dict or type(element) is list:
                    self._walk(element, placed=placed)
            return
        kind = value.get("type")
        taken = False
        for name, inner in value.items():
            if type(inner) is str and name in WORDS:
                # What nearly all messages are.
                continue
            plain = name if name.islower() else name.casefold()
            if plain in NAMES and inner is not None and self._take(NAMES[plain], inner, value, placed=placed):
                taken = True
            elif (type(inner) is dict or type(inner) is list) and not (plain in WRITTEN or (plain == "input" and _is_use(kind))):
                self._walk(inner, placed=placed and plain in INSIDE)
        if not taken and type(kind) is str and kind in TYPES:
            self._add(TYPES[kind], 0)

    def _take(self, kind: Kind, value: Any, part: Mapping[str, Any], *, placed: bool) -> bool:
        """Take a member that is named as media are; say whether it was some, and nothing in it is text."""
        if kind == "typed":
            return is_object(value) and self._take_typed(value, part, placed=placed)
        if kind == "cached":
            self.caches = True
            self.caches_1h = self.caches_1h or not (is_object(value) and _is_short(value.get("ttl")))
        elif kind == "spoken":
            self.speaks = self.speaks or _asks_for_sound(value)
        elif is_array(value):
            # Ollama's `images`, and files of all kinds.
            for element in value:
                self._add(kind, self._take_encoded(element) if placed else 0)
        else:
            self._add(kind, self._take_encoded(value) if placed else 0)
        return True

    def _take_typed(self, source: Mapping[str, Any], part: Mapping[str, Any], *, placed: bool) -> bool:
        """Take what says of itself what it is: Anthropic's `source`, Gemini's `inlineData`."""
        kind = source.get("type")
        if type(kind) is str and kind in {"text", "content"}:
            return False
        mime = str(source.get("media_type") or source.get("mime_type") or source.get("mimeType") or "").lower()
        size = self._take_encoded(source) if placed and not mime.startswith("text/") else 0
        if mime.startswith("image/") or part.get("type") == "image":
            self._add("picture", size)
        elif mime.startswith("audio/"):
            self._add("sound", size)
        else:
            self._add("file", size)
        return True

    def _take_encoded(self, value: Any) -> int:
        """Return how many bytes of base64 a value holds, and take them off the text."""
        size = _encoded(value)
        self.encoded += size
        return size

    def _add(self, kind: Kind, size: int) -> None:
        if kind == "picture":
            self.picture()
        elif kind == "sound" and size:
            self.sound += (size // SLOWEST + 1) * SECOND
        else:
            # A film, a document, a file that was uploaded earlier, sound that is only pointed to.
            self.elsewhere = True


def _encoded(value: Any) -> int:
    """Return how much of a value is base64, alone or in a `data:` URL of media. One letter outside of its alphabet, and none is."""
    if type(value) is str:
        at = value.find(",", 0, _LONGEST_HEAD) if value.startswith("data:") else -1
        head = value[: at + 1]
        if value.startswith("data:") and (not head.endswith(";base64,") or head.startswith("data:text/")):
            return 0
        if not value.isascii() or value.encode().translate(None, _ALPHABET) != head.encode().translate(None, _ALPHABET):
            return 0
        return len(value) - len(head)
    if is_object(value):
        return sum(_encoded(inner) for name, inner in value.items() if is_object(inner) or name.casefold() in ENCODED)
    return 0


def _is_use(kind: Any) -> bool:
    """Say whether a part is the use of a tool, whose input is shown as text."""
    return type(kind) is str and kind.endswith("tool_use")


def _is_short(ttl: Any) -> bool:
    return ttl is None or ttl == "5m"


def _asks_for_sound(value: Any) -> bool:
    return is_array(value) and any(str(word).lower() == "audio" for word in value)
