"""What one call used so far, gathered from the texts of its answer: a whole one, or the events of a stream."""

from typing import Any, Final, Literal, TypeVar

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from llm_authmw.call import Usage
from llm_authmw.errors import InvalidValueError
from llm_authmw.llm.json_body import ARRAY, OBJECT, begins
from llm_authmw.llm.usage import usage_of, usage_of_metadata, usage_of_metrics
from llm_authmw.llm.usage_fields import NOTHING, Answer, Candidate, Counted, Inner, InvocationMetrics, Typed, UsageMetadata

MAX_MODEL: Final = 512
"""Characters of a model's name, as in requests."""

_WITHOUT_OUTPUT: Final = frozenset({"embeddings", "embed_content", "rerank", "moderations", "score", "pooling", "classify"})
_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed", "response.cancelled", "response.done"})
_SAID_NOTHING: Final = (NOTHING, NOTHING, NOTHING)
_ABOUT_THE_CALL: Final = (Raw(b'"message_start"'), Raw(b'"error"'))
_SEARCH: Final = "web_search_call"
_QUERIES: Final = b'"webSearchQueries"'
_QUOTE: Final = ord('"')
_BRACE: Final = ord("{")
_NO_COUNTS: Final = Counted()

_answer: Final = msgspec.json.Decoder(Answer).decode
_inner: Final = msgspec.json.Decoder(Inner).decode
_counted: Final = msgspec.json.Decoder(Counted).decode
_metadata: Final = msgspec.json.Decoder(UsageMetadata).decode
_metrics: Final = msgspec.json.Decoder(InvocationMetrics).decode
_candidates: Final = msgspec.json.Decoder(list[Candidate]).decode
_items: Final = msgspec.json.Decoder(list[Typed]).decode
_elements: Final = msgspec.json.Decoder(list[Raw]).decode
_text: Final = msgspec.json.Decoder(str).decode

_Fields = TypeVar("_Fields", Counted, UsageMetadata, InvocationMetrics)


class Tally:
    """The counts of one call.

    Args:
        operation: What was asked for, as the table of operations names it.

    Attributes:
        final: Whether the counts are the last ones, whatever comes or does not come behind them.
        provisional: Whether they are only the first ones, though nothing came behind them.
        told: Whether the text that was read last had counts.
        failed: Whether the answer says that the call failed.
        spoiled: Whether something that may have been a count could not be read.
        model: The model that the answer names.
    """

    def __init__(self, operation: str) -> None:
        self.final: bool = False
        self.provisional: bool = False
        self.told: bool = False
        self.failed: bool = False
        self.spoiled: bool = False
        self.model: str | None = None
        self._operation: Final = operation
        self._source: Literal["usage", "metadata", "metrics"] | None = None
        self._counted = Counted()
        self._shape: bytes = b""
        self._named: Raw = NOTHING
        self._metadata = UsageMetadata()
        self._metrics = InvocationMetrics()
        self._searches = 0
        self._images = 0

    def read(self, text: bytes) -> bool:
        """Take what a JSON text says: an answer, or the data of an event. What it does not say stays as it was.

        Returns:
            Whether it is about the call, and no piece of the answer's text.
        """
        self.told = False
        if text == b"[DONE]":
            return True
        try:
            answer = _answer(text)
            self._take(answer)
        except (msgspec.DecodeError, ValueError, RecursionError):
            self.spoiled = True
            return True
        said = (answer.usage, answer.usageMetadata, answer.error)
        return said != _SAID_NOTHING or begins(answer.response) == OBJECT or answer.type in _ABOUT_THE_CALL

    def take_metrics(self, metrics: InvocationMetrics) -> None:
        """Take counts that came beside the answer, in headers. What the answer itself says goes first."""
        if self._source is None:
            self._metrics = metrics
            self._source = "metrics"

    def usage(self) -> Usage | None:
        """Return the counts, `complete` if both directions are known; None where there are none."""
        try:
            if self._source == "usage":
                usage = usage_of(self._counted, generates=self._operation not in _WITHOUT_OUTPUT)
            elif self._source == "metadata":
                usage = usage_of_metadata(self._metadata)
            elif self._source == "metrics":
                usage = usage_of_metrics(self._metrics)
            elif self._images:
                # How many there are is known, and not what one costs.
                usage = Usage()
            else:
                return None
            return replace(usage, model=self.model, searches=usage.searches + self._searches, images=self._images)
        except InvalidValueError:
            self.spoiled = True
            return None

    def _take(self, answer: Answer) -> None:
        kind = _string(answer.type)
        self._take_model(answer.model, answer.modelVersion)
        if answer.error != NOTHING or kind == "error":
            self.failed = True
        if answer.metrics != NOTHING:
            self._metrics = _merged(self._metrics, _metrics(answer.metrics))
            self._source = "metrics"
            self.final = self.told = True
        elif answer.usageMetadata != NOTHING:
            self._metadata = _merged(self._metadata, _metadata(answer.usageMetadata))
            self._source = "metadata"
            self.told = True
        elif answer.usage != NOTHING or answer.meta != NOTHING:
            self._take_usage(answer.usage if answer.usage != NOTHING else answer.meta)
            # A chunk with choices says how it stands; the one without any says how it ended.
            if self._source is not None and kind not in {"message_delta", "message_start"} and _is_empty(answer.choices):
                self.final = True
        elif answer.eval_count is not None or answer.prompt_eval_count is not None:
            self._take_counted(Counted(prompt_tokens=answer.prompt_eval_count, completion_tokens=answer.eval_count))
            self.final = answer.done == Raw(b"true")
        elif answer.prompt_token_count is not None or answer.generation_token_count is not None:
            self._take_counted(Counted(prompt_tokens=answer.prompt_token_count, completion_tokens=answer.generation_token_count))
        self._take_inner(kind, answer)
        self._take_output(answer.output)
        if answer.candidates is not NOTHING and _QUERIES in bytes(answer.candidates):
            found = (candidate.grounding_metadata for candidate in _candidates(answer.candidates))
            self._searches = max(
                self._searches, sum(len(grounding.web_search_queries or ()) for grounding in found if grounding is not None)
            )
        if self._operation == "images" and begins(answer.data) == ARRAY:
            self._images = len(_elements(answer.data))

    def _take_inner(self, kind: str | None, answer: Answer) -> None:
        """Take what stands one level further in, where events have it."""
        if kind == "message_start":
            self.provisional = True
            message = _inner(answer.message)
            self._take_model(message.model)
            self._take_usage(message.usage)
        elif kind == "message_delta":
            self.final = self.final or (begins(answer.delta) == OBJECT and _inner(answer.delta).stop_reason != NOTHING)
        elif kind == "message-end" and begins(answer.delta) == OBJECT:
            self._take_usage(_inner(answer.delta).usage)
            self.final = True
        elif answer.response is not NOTHING and begins(answer.response) == OBJECT:
            response = _inner(answer.response)
            self._take_model(response.model)
            self._take_usage(response.usage if response.usage != NOTHING else response.meta)
            self._take_output(response.output)
            self.failed = self.failed or response.error != NOTHING or kind == "response.failed"
            self.final = self.final or kind in _ENDS

    def _take_usage(self, usage: Raw) -> None:
        if usage == NOTHING:
            return
        counted = _counted(usage)
        # Some streams count in each chunk. What has the same members as the one before stands for it without being merged.
        shape = bytes(usage).translate(None, b"0123456789")
        if shape == self._shape:
            self._counted = counted
            self._source = "usage"
            self.told = True
            return
        self._take_counted(counted)
        self._shape = shape if self._counted == counted != _NO_COUNTS else b""

    def _take_counted(self, counted: Counted) -> None:
        # What is all empty says nothing: Cohere's `meta` may hold a version and no more.
        self._shape = b""
        if counted != _NO_COUNTS:
            self._counted = _merged(self._counted, counted)
            self._source = "usage"
            self.told = True

    def _take_output(self, output: Raw) -> None:
        if output is not NOTHING and begins(output) == ARRAY:
            self._searches = sum(item.type == _SEARCH for item in _items(output))

    def _take_model(self, *names: Raw) -> None:
        for name in names:
            if name is NOTHING or name == self._named:
                continue
            text = _string(name)
            if text and len(text) <= MAX_MODEL:
                self.model = text
                self._named = name.copy()


def _merged(old: _Fields, new: _Fields) -> _Fields:
    """Return the old counts with those that the new ones know: in a stream a later count stands for all before it."""
    known: dict[str, Any] = {name: value for name in new.__struct_fields__ if (value := getattr(new, name)) is not None}
    return replace(old, **known)


def _string(value: Raw) -> str | None:
    return _text(value) if value is not NOTHING and begins(value) == _QUOTE else None


def _is_empty(choices: Raw) -> bool:
    if choices is NOTHING:
        return True
    view = memoryview(choices)
    if len(view) > 1 and view[1] == _BRACE:
        return False
    return choices == NOTHING or bytes(choices).translate(None, b" \t\r\n") == b"[]"
