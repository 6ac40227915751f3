"""What an LLM request asks for, what it used and what that cost: the objects that every layer reads it from."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any, Final, Literal, TypeAlias

import msgspec

from llm_authmw.errors import InvalidValueError

ApiDialect: TypeAlias = Literal["openai", "anthropic", "gemini", "bedrock", "rerank", "mcp", "other"]

UNLISTED: Final = "unlisted"
"""The operation of a request whose route is in no table: what it names is looked for where most APIs name it."""


class LLMCall(msgspec.Struct, frozen=True, kw_only=True):
    """What one request asks for, read once and strictly. What was read goes on byte for byte.

    For a WebSocket it is what the handshake asks for; its frames are held against the same rules as they come.

    Attributes:
        dialect: Whose API it is.
        operation: What is asked for, as the table of operations names it: "chat", "embeddings", "mcp".
        models: Every model that it names, wherever it does, each once: the body's, the path's, the query's, a header's, fallbacks. Whoever
            may not use all of them may not make the request.
        needs_model: Whether the operation runs a model.
        leaves_choice: Whether it does, and nothing where the API looks for the model names one: whoever is behind chooses, whatever
            fallbacks or headers say.
        max_output_tokens: The largest ceiling that it names for what is generated, in tokens, and zero where one of them is; None where
            it names none by a name that its API knows.
        choices: How many answers to each input it asks for.
        streaming: Whether it asks for a stream.
        tools: What it has run at the provider or at an MCP server, each once and sorted: an MCP tool's name, the type of a provider's own
            tool ("web_search"), "prompt:<name>", "resource:<uri>".
        functions: Names of the functions that it declares, which the caller runs himself.
        end_user: Whom the caller says that it is for. A label, never an identity.
    """

    dialect: ApiDialect
    operation: str
    models: tuple[str, ...] = ()
    needs_model: bool = True
    leaves_choice: bool = False
    max_output_tokens: int | None = None
    choices: int = 1
    streaming: bool = False
    tools: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    end_user: str | None = None


MAX_COUNT: Final = 2**53
"""Counts above are refused: a store that counts in doubles (Lua) would no longer count exactly."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How much one answer used; also the most that a call may use, where its cost is bounded.

    Counts are inclusive, whatever the provider's own are: `input` and `output` are all tokens, and the others say how many of
    these were of a kind. Where an API reports them apart (Anthropic's cache tokens, Gemini's thoughts), they have been added up.
    What comes from an answer is the provider's word: parts may contradict their whole, and are then charged as if they were it.

    Attributes:
        input: Tokens of the request, all of them.
        cached_input: Those that were read from a cache.
        cache_write: Those that were written to a cache, all of them.
        cache_write_1h: Those of `cache_write` that are kept for an hour, which costs more than five minutes.
        audio_input: Those of `input` that are sound.
        image_input: Those of `input` that are pictures.
        output: Tokens of the answer, all of them: every choice, reasoning and rejected predictions too.
        reasoning: Those that were thought and not said.
        audio_output: Those of `output` that are sound.
        image_output: Those of `output` that are pictures.
        requests: How many requests the provider served, each with a fee: retries and fallbacks add up.
        searches: Searches that the provider ran, each with a fee.
        images: Pictures that were made, where they are paid for one by one.
        seconds: Seconds of sound, rounded up, where they are paid for and not tokens.
        characters: Characters to be spoken, where they are paid for and not tokens.
        total: The provider's own sum of all tokens; None where it gave none. Kept beside ours, never charged.
        model: The model that the answer names; None where it names none.
        complete: Whether these are the final counts. Else they are what had been seen when the answer broke off.

    Raises:
        InvalidValueError: A count is negative, above 2^53 or no whole number.
    """

    input: int = 0
    cached_input: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    image_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_output: int = 0
    image_output: int = 0
    requests: int = 1
    searches: int = 0
    images: int = 0
    seconds: int = 0
    characters: int = 0
    total: int | None = None
    model: str | None = None
    complete: bool = False

    def __post_init__(self) -> None:
        counts = _counts_of(self)
        # Several are made for each request, and nearly always all of it is right.
        if not (_WHOLE_NUMBERS.issuperset(map(type, counts)) and min(counts) >= 0 and max(counts) <= MAX_COUNT):
            for name, count in zip(COUNTS, counts, strict=True):
                _check_count(name, count)
        if self.total is not None:
            _check_count("total", self.total)


COUNTS: Final = tuple(name for name in Usage.__struct_fields__ if name not in {"total", "model", "complete"})
"""The names of all that `Usage` counts."""

_counts_of: Final[Callable[[Usage], tuple[int, ...]]] = attrgetter(*COUNTS)
_WHOLE_NUMBERS: Final = frozenset({int})


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """What one use of a model costs, and by which price, so that it can be explained later.

    Attributes:
        amount: Nano-dollars, rounded up once.
        model: The model that was priced.
        rule: The entry of the price book that decided: the model's name or a pattern.
        version: The version of the price book.

    Raises:
        InvalidValueError: The amount is negative, above 2^53 or no whole number.
    """

    amount: int
    model: str
    rule: str
    version: str

    def __post_init__(self) -> None:
        _check_count("amount", self.amount)


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= MAX_COUNT:
        raise InvalidValueError(f"{name} is a whole number from 0 to 2^53")
