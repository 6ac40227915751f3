"""The most that a request can use: what is reserved before it runs, and is corrected by the truth afterwards.

Bytes bound text: no tokeniser that works on bytes makes more tokens than there are, and JSON never writes a text in fewer. Media are
bounded by a ceiling for each part, and what the body only points to by what a model can be shown at most.
"""

from typing import Any, Final, cast

import msgspec

from llm_authmw.call import MAX_COUNT, UNLISTED, LLMCall, Usage
from llm_authmw.errors import Denial
from llm_authmw.llm.body_fields import MERGED
from llm_authmw.llm.media import SECOND, SLOWEST, Look
from llm_authmw.llm.multipart import parts_of
from llm_authmw.strict_json import is_array, is_object

MAX_CEILING: Final = 10_000_000
"""Tokens of an answer. A ceiling above is no model's, and a bound from it would refuse what a real one lets through."""

WINDOW: Final = 1_048_576
"""Tokens that a model can be shown, where nobody knows better."""

PICTURE_MADE: Final = 16_384
"""Tokens of a picture that is made."""
TOOL_PROMPT: Final = 1024
"""Tokens that a provider adds for tools, once and for each one: Anthropic's own tools come with instructions."""
SEARCHES: Final = 10
"""Searches that are counted where the request does not say how many there may be."""

_SPEECH_TOKENS: Final = 8
"""Tokens of sound for a character that is spoken slowly; also those of text for a second of speech that is written down."""
_SPEECH_LEAST: Final = 256
_CROWD: Final = 50_000
"""Values of a body that are looked at one by one, which takes about ten milliseconds."""
_CHUNK: Final = 250
_CHUNKS: Final = 100
"""Documents that are ranked for the price of one search, each of up to 500 tokens, the query's among them."""

WITHOUT_OUTPUT: Final = frozenset(
    {
        "classify",
        "count_tokens",
        "embed_content",
        "embeddings",
        "files",
        "models",
        "moderations",
        "pooling",
        "rerank",
        "score",
        "tokenize",
        "uploads",
        "vector_stores",
    }
)
"""Operations whose answers have no tokens."""
_RANKING: Final = frozenset({"rerank", "score"})
_TRANSCRIPTS: Final = frozenset({"audio.transcriptions", "audio.translations"})
_MANY_PROMPTS: Final = ("prompt", "inputs", "instances")
_QUERIES: Final = ("query", "queries", "text_1")
_DOCUMENTS: Final = ("documents", "texts", "text_2")
_PICTURES: Final = ("n", "numberOfImages", "number_of_images", "samples", "sampleCount")
_OF_MANY_PROMPTS: Final = frozenset({"completions", "invocations", "invoke", "predict", UNLISTED})
_LONGEST_FILM: Final = 60
_LONGEST_SOUND: Final = 4 * 3600
"""Seconds of sound that is only pointed to."""
_CACHING_WHEN_ASKED: Final = frozenset({"anthropic", "bedrock"})
_BUT_SEPARATORS: Final = bytes(byte for byte in range(256) if byte not in b"[{,")

_decode: Final = msgspec.json.Decoder().decode


class Extent(msgspec.Struct, frozen=True, kw_only=True):
    """What a request can use at most, but for what depends on its ceiling and on its model.

    Attributes:
        input: Tokens of the body: its bytes, with a ceiling for each part that is no text.
        audio_input: Those of `input` that may be sound.
        image_input: Those of `input` that may be pictures.
        elsewhere: Whether there is input that is not in the body: an earlier answer, a file, what a provider's tools find.
        answers: How many answers there are, each up to the ceiling.
        output: Tokens of output beside those; where `answers` is zero, all of them.
        speaks: Whether answers may be sound.
        draws: Whether answers may be pictures.
        caches: Whether the request may have something written to a cache.
        caches_1h: Whether it may for an hour.
        searches: Searches that the provider may run.
        images: Pictures that are made.
        seconds: Seconds of sound, or of film, that are paid for.
        characters: Characters to be spoken.
    """

    input: int
    audio_input: int = 0
    image_input: int = 0
    elsewhere: bool = False
    answers: int = 1
    output: int = 0
    speaks: bool = False
    draws: bool = True
    caches: bool = True
    caches_1h: bool = True
    searches: int = 0
    images: int = 0
    seconds: int = 0
    characters: int = 0


def extent_of(call: LLMCall, body: bytes) -> Extent:
    """Return what a request can use at most.

    Args:
        call: What the lens has read.
        body: What it has read it from, not compressed (`lens.Replay.body`).

    Raises:
        Denial: it names a ceiling that is zero, or above what any model can do (`output_ceiling_invalid`), or cannot be read
            (`request_malformed`).
    """
    if call.max_output_tokens is not None and not 1 <= call.max_output_tokens <= MAX_CEILING:
        raise Denial("output_ceiling_invalid")
    if body.startswith(b"--"):
        return _of_form(call, body)
    if not body:
        return Extent(input=0, elsewhere=True, answers=_answers(call, 1))
    if len(body) > _CROWD and len(body.translate(None, _BUT_SEPARATORS)) > _CROWD:
        return _of_crowd(call, body)
    try:
        members = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Denial("request_malformed") from error
    if type(members) is not dict:
        raise Denial("request_malformed")
    return _of_object(call, body, cast("dict[str, Any]", members))


def most(extent: Extent, call: LLMCall, *, ceiling: int, context_window: int | None = None, overhead: int = 0) -> Usage:
    """Return the highest possible usage: no count of what the answer says is above its own, unless a provider breaks its word.

    Args:
        extent: What the request can use.
        call: What the lens has read.
        ceiling: Tokens that one answer can have.
        context_window: Tokens that the model can be shown; None where that is not known. It counts where input is elsewhere.
        overhead: Tokens of input that the app adds.
    """
    shown = extent.input + overhead
    if extent.elsewhere:
        shown = max(shown, WINDOW if context_window is None else context_window)
    shown = min(shown, MAX_COUNT)
    output = min(extent.answers * ceiling + extent.output, MAX_COUNT)
    return Usage(
        input=shown,
        cached_input=shown,
        cache_write=shown if extent.caches else 0,
        cache_write_1h=shown if extent.caches_1h else 0,
        audio_input=shown if extent.elsewhere else min(extent.audio_input, shown),
        image_input=shown if extent.elsewhere else min(extent.image_input, shown),
        output=output,
        reasoning=output,
        audio_output=output if extent.speaks else 0,
        image_output=output if extent.draws else 0,
        searches=extent.searches,
        images=min(extent.images, MAX_COUNT),
        seconds=min(extent.seconds, MAX_COUNT),
        characters=min(extent.characters, MAX_COUNT),
        model=call.models[0] if len(call.models) == 1 else None,
    )


def _of_object(call: LLMCall, body: bytes, members: dict[str, Any]) -> Extent:
    look = Look(call.models)
    look.through(members)
    text = len(body) - look.encoded + _tool_prompts(call)
    said = _Said(members)
    if call.operation == "images":
        return _of_pictures(call, text, look, said)
    if call.operation in _TRANSCRIPTS:
        return _of_speech(text, len(body) // SLOWEST + _LONGEST_SOUND)
    if call.operation == "videos":
        return Extent(input=text + look.pictures, image_input=look.pictures, answers=0, seconds=_film(said) * call.choices)
    if call.operation == "audio.speech":
        characters = max((len(str(value)) for value in said.each("input")), default=0)
        output = max(_SPEECH_TOKENS * characters, _SPEECH_LEAST)
        return Extent(input=text, answers=0, output=output, speaks=True, draws=False, characters=characters)
    if call.operation in _RANKING:
        query = max((len(msgspec.json.encode(value)) for value in said.each(*_QUERIES)), default=0)
        documents = max((len(value) if is_array(value) else 1 for value in said.each(*_DOCUMENTS)), default=1)
        # Some count the query with each document again.
        shown = text + look.pictures + query * documents
        return Extent(input=shown, image_input=look.pictures, answers=0, searches=_rankings(call, body, documents))
    return Extent(
        input=text + look.pictures + look.sound,
        audio_input=look.sound,
        image_input=look.pictures,
        elsewhere=look.elsewhere or bool(call.tools),
        answers=_answers(call, max(map(_prompts, said.each(*_MANY_PROMPTS)), default=1)),
        # What was predicted and turned out otherwise is paid for as output.
        output=sum(len(msgspec.json.encode(value)) for value in said.each("prediction")),
        speaks=look.speaks,
        # Anthropic writes to its cache where it is asked to. What others write by themselves costs what their price says.
        caches=look.caches or call.dialect not in _CACHING_WHEN_ASKED,
        caches_1h=look.caches_1h,
        searches=_searches(call, said),
    )


def _of_speech(text: int, seconds: int) -> Extent:
    sound = seconds * SECOND
    return Extent(input=text + sound, audio_input=sound, output=seconds * _SPEECH_TOKENS, draws=False, seconds=seconds)


def _of_pictures(call: LLMCall, text: int, look: Look, said: "_Said") -> Extent:
    made = max(call.choices, *map(_whole, said.each(*_PICTURES)), 1)
    return Extent(
        input=text + look.pictures,
        image_input=look.pictures,
        elsewhere=look.elsewhere,
        answers=0,
        output=made * PICTURE_MADE,
        images=made,
    )


def _of_form(call: LLMCall, body: bytes) -> Extent:
    """Return the extent of a form. The lens has read it by the boundary of its header, with which its first line begins."""
    line, _, _ = body.partition(b"\r\n")
    try:
        parts = parts_of(line[2:], body)
    except ValueError as error:
        raise Denial("request_malformed") from error
    files = [len(part.content) for part in parts if part.filename is not None]
    text = sum(len(part.name) + len(part.content) for part in parts if part.filename is None)
    if call.operation in _TRANSCRIPTS:
        # Some take the address of a file too, as a field of whatever name.
        pointed_to = not files or any(b"://" in part.content for part in parts if part.filename is None)
        return _of_speech(text, sum(size // SLOWEST + 1 for size in files) + (_LONGEST_SOUND if pointed_to else 0))
    look = Look(call.models)
    for _ in files:
        look.picture()
    fields = _Said({part.name: _number(part.content) for part in parts if part.filename is None})
    if call.operation == "images":
        return _of_pictures(call, text, look, fields)
    return Extent(
        input=text + look.pictures,
        image_input=look.pictures,
        elsewhere=call.operation != "videos",
        answers=0 if call.operation == "videos" else _answers(call, 1),
        seconds=_film(fields) * call.choices if call.operation == "videos" else 0,
    )


def _of_crowd(call: LLMCall, body: bytes) -> Extent:
    """Return the extent of a body of more values than are looked at: all of it is text, and may be anything else too."""
    commas = body.count(b",") + 1
    return Extent(
        input=len(body) * (2 if call.operation in _RANKING else 1) + _tool_prompts(call),
        audio_input=len(body),
        image_input=len(body),
        elsewhere=call.operation not in WITHOUT_OUTPUT,
        answers=_answers(call, commas if call.operation in _OF_MANY_PROMPTS else 1),
        output=len(body) if b"predict" in body.lower() or b"\\u00" in body else 0,
        speaks=True,
        searches=_rankings(call, body, commas) if call.operation in _RANKING else _searches(call, _Said({})),
    )


def _answers(call: LLMCall, prompts: int) -> int:
    return 0 if call.operation in WITHOUT_OUTPUT else call.choices * max(prompts, 1)


def _tool_prompts(call: LLMCall) -> int:
    tools = len(call.functions) + len(call.tools)
    return TOOL_PROMPT * (tools + 1) if tools else 0


def _rankings(call: LLMCall, body: bytes, documents: int) -> int:
    return -(-(documents + len(body) // _CHUNK) // _CHUNKS) if call.dialect == "rerank" else 0


def _searches(call: LLMCall, said: "_Said") -> int:
    searching = sum("search" in tool and tool != "file_search" and not tool.startswith("mcp:") for tool in call.tools)
    if not searching and not said.each("search_parameters"):
        return 0
    tools = [tool for listed in said.each("tools") if is_array(listed) for tool in listed if is_object(tool)]
    typed = [tool for tool in tools if "search" in str(tool.get("type"))]
    if said.each("web_search_options") and not typed:
        # OpenAI's chat models that search do so once in a request.
        return 1
    uses = [_whole(tool.get("max_uses")) for tool in typed]
    if uses and all(uses):
        return sum(uses)
    return (max(map(_whole, said.each("max_tool_calls")), default=0) or SEARCHES) * max(searching, 1)


class _Said:
    """What a body says of itself, wherever a proxy may read it: in its members, and in what is merged into them."""

    __slots__ = ("_layers",)

    def __init__(self, members: dict[str, Any]) -> None:
        merged = [members[name] for name in MERGED if name in members]
        self._layers: Final = [members, *(layer for layer in merged if is_object(layer))]

    def each(self, *names: str) -> list[Any]:
        """Return every value that one of some members has."""
        return [layer[name] for layer in self._layers for name in names if layer.get(name) is not None]


def _prompts(value: object) -> int:
    """Return how many prompts there are in a list of texts, or of lists of tokens; a list of tokens is one."""
    return len(value) if is_array(value) and value and type(value[0]) is not int else 1


def _whole(value: object) -> int:
    return value if type(value) is int and 0 < value <= MAX_COUNT else 0


def _number(text: bytes) -> Any:
    return int(text) if text.isdigit() and len(text) <= len(str(MAX_COUNT)) else None


def _film(said: _Said) -> int:
    """Return how many seconds a film is to last, which the API takes as a text."""
    asked = [_number(value.encode()) if type(value) is str else value for value in said.each("seconds")]
    return max(map(_whole, asked), default=0) or _LONGEST_FILM
