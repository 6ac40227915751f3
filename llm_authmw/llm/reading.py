"""What the members of a body say, put together into one `LLMCall`."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from llm_authmw.call import LLMCall
from llm_authmw.errors import Denial
from llm_authmw.llm import body_fields as fields
from llm_authmw.llm.ceilings import names_ceiling
from llm_authmw.llm.json_body import ARRAY, NULL, OBJECT, begins, check_text, elements_of, members_of, refuse_other_spelling
from llm_authmw.llm.managed_ids import models_in_id
from llm_authmw.llm.model_names import model_name
from llm_authmw.llm.operation import Operation
from llm_authmw.llm.tools import Tools
from llm_authmw.names import name_problem

MAX_NUMBER: Final = 2**31
"""The largest ceiling, and the largest number of answers, that is taken for one."""

MAX_NAMES: Final = 1000
"""Different models, and tools, of one request: each is held against the rules, while nobody else is served."""

_USER_OF_METADATA: Final = "metadata.user_id"

_REALTIME: Final = "realtime"
"""The operation whose session names the model that is run."""

_OF_BATCHES: Final = frozenset({"batches", "files"})

_decode: Final = msgspec.json.Decoder().decode


class Reading:
    """What was found so far. One is made for each request, and filled by the readers of its body.

    Args:
        operation: What the route asks for.
        models: The models that were named outside of the body.
        allowed_fields: Members that choose where or as whom a request is sent on, and that callers may use all the same.
        chosen: Whether one of the models stands where the API looks for the one that it runs.

    Attributes:
        operation: What the route asks for.
        models: Every model that was named, in its order, repetitions and all.
        tools: What tools it declares or runs.
        streaming: Whether a stream is asked for.
        chosen: Whether a model was named where the API looks for the one that it runs, and not only as a fallback or beside it.
        is_message: Whether the body is a message of JSON-RPC.
    """

    __slots__ = (
        "_allowed",
        "_bounded",
        "_ceiling",
        "_choices",
        "_labels",
        "_unbounded",
        "chosen",
        "is_message",
        "models",
        "operation",
        "streaming",
        "tools",
    )

    def __init__(
        self, operation: Operation, models: Iterable[str] = (), allowed_fields: Collection[str] = (), *, chosen: bool = False
    ) -> None:
        self.operation: Final = operation
        self.models: Final[list[str]] = list(models)
        self.chosen: bool = chosen
        self.is_message: bool = False
        self.tools: Final = Tools()
        self.streaming: bool = operation.streams
        self._allowed: Final = allowed_fields
        self._labels: Final[dict[str, str]] = {}
        self._ceiling: int | None = None
        self._bounded = False
        self._unbounded = False
        self._choices = 1

    def call(self) -> LLMCall:
        """Return what was found.

        Raises:
            Denial: it names more than rules are held against for one request (`request_field_invalid`).
        """
        operation, labels, tools = self.operation, self._labels, self.tools
        models = tuple(dict.fromkeys(self.models)) if len(self.models) > 1 else tuple(self.models)
        run = tools.names()
        for names, kind in ((models, "models"), (run, "tools")):
            if len(names) > MAX_NAMES:
                raise Denial("request_field_invalid", need=f"{MAX_NAMES} different {kind} at most")
        return LLMCall(
            dialect=operation.dialect,
            operation=operation.name,
            models=models,
            needs_model=operation.needs_model,
            leaves_choice=operation.needs_model and not self.chosen,
            max_output_tokens=self._ceiling if self._bounded and not self._unbounded else None,
            choices=self._choices,
            streaming=self.streaming,
            tools=run,
            functions=tuple(dict.fromkeys(tools.functions)) if tools.functions else (),
            end_user=next((labels[name] for name in (*fields.END_USER, _USER_OF_METADATA) if name in labels), None) if labels else None,
        )

    def body(self, text: bytes) -> None:
        """Read the body of a request.

        Raises:
            ValueError: it is not one JSON object that can be read in one way only.
            Denial: a field of it is not accepted, or names a model by something else than a model's name.
        """
        check_text(text)
        self.part(text)
        if self._ceiling is not None and not self._bounded:
            self._bounded = self._ceiling == 0 or names_ceiling(members_of(text), self.operation.ceilings or ())

    def part(self, text: bytes) -> None:
        """Read an object of a body that means what a body would, as `body` does. All of the body was checked before."""
        own = self.operation.model_fields
        for name, value in members_of(text).items():
            read = READERS.get(name)
            if read is not None:
                if value != NULL:
                    read(self, name, value)
            elif name in own:
                self.take_models(name, value)
                self.chosen = self.chosen or value != NULL
            elif name.casefold() in SPELLINGS:
                refuse_other_spelling(name, SPELLINGS)

    def add_model(self, value: Any) -> None:
        """Take a value that names a model.

        Raises:
            Denial: it is no model's name.
        """
        if self.operation.dialect == "gemini" and type(value) is str:
            # What Gemini calls `models/gemini-2.5-pro` in a body is `gemini-2.5-pro` in a path.
            value = value.removeprefix("models/")
        self.models.append(model_name(value))

    def take_model(self, name: str, value: Raw) -> None:
        """Read a member that names one model."""
        self.add_model(_decode(value))
        self.chosen = self.chosen or name == fields.CHOOSING

    def take_models(self, name: str, value: Raw) -> None:
        """Read a member that names models: in a list, or in a text with commas between them."""
        if begins(value) == ARRAY:
            for element in elements_of(value):
                self.take_models(name, element)
        elif begins(value) == OBJECT:
            self.part(bytes(value))
        elif value != NULL:
            named = _decode(value)
            for part in named.split(",") if type(named) is str and name == "target_model_names" else (named,):
                self.add_model(part.strip(" ") if type(part) is str else part)

    def take_id(self, _name: str, value: Raw) -> None:
        """Read an id, which may name a model."""
        named = _decode(value)
        if type(named) is str:
            self.models.extend(models_in_id(named))

    def take_protocol(self, _name: str, value: Raw) -> None:
        """Read the version of JSON-RPC."""
        self.is_message = _decode(value) == "2.0"

    def take_preset(self, _name: str, value: Raw) -> None:
        """Read the name under which OpenRouter keeps models."""
        named = _decode(value)
        self.add_model(f"@preset/{named}" if type(named) is str else named)

    def take_fallbacks(self, name: str, value: Raw) -> None:
        """Read whom to ask where a model fails: a name, an object with a `model`, a map from names to others, or a list of them."""
        kind = begins(value)
        if kind == ARRAY:
            for element in elements_of(value):
                self.take_fallbacks(name, element)
        elif kind == OBJECT:
            text = bytes(value)
            self.part(text)
            members = members_of(text)
            for member, inner in members.items():
                # Nothing twice, or objects within objects would be read more often with each level.
                if member not in READERS and "model" not in members:
                    self.take_fallbacks(member, inner)
                elif member not in READERS or member in _PASS_OVER_LISTS:
                    self._take_targets(member, inner)
        elif value != NULL:
            self.add_model(_decode(value))

    def _take_targets(self, name: str, value: Raw) -> None:
        # A proxy may take an object that has a `model` for a map all the same, so its lists of names count too.
        if begins(value) == ARRAY:
            for element in elements_of(value):
                if begins(element) != OBJECT or "model" in members_of(bytes(element)):
                    self.take_fallbacks(name, element)

    def take_body(self, _name: str, value: Raw) -> None:
        """Read a member that may hold a body of its own."""
        if begins(value) == OBJECT:
            self.part(bytes(value))

    def take_merged(self, name: str, value: Raw) -> None:
        """Read a member that is merged into the body."""
        if begins(value) != OBJECT:
            # A text that holds JSON is merged too, by some.
            raise Denial("request_field_invalid", need=f"{name} as an object")
        self.part(bytes(value))

    def take_batch(self, name: str, value: Raw) -> None:
        """Read the requests of a batch."""
        kind = begins(value)
        if kind == ARRAY:
            for element in elements_of(value):
                self.take_batch(name, element)
        elif kind == OBJECT:
            text = bytes(value)
            self.part(text)
            # Its requests may be for another API than the batch is.
            self._bounded = self._bounded or self.operation.name in _OF_BATCHES
            for member, inner in members_of(text).items():
                if member in READERS:
                    continue
                if member in fields.INSIDE_BATCHES:
                    self.take_batch(member, inner)
                else:
                    refuse_other_spelling(member, _BATCH_SPELLINGS)

    def take_speech(self, _name: str, value: Raw) -> None:
        """Read what a realtime session says of speech."""
        if begins(value) == OBJECT:
            for name, inner in members_of(bytes(value)).items():
                if name in fields.INSIDE_SPEECH:
                    self.take_speech(name, inner)
                elif name == "model" and inner != NULL:
                    self.take_model(name, inner)
                else:
                    refuse_other_spelling(name, _SPEECH_SPELLINGS)

    def take_settings(self, _name: str, value: Raw) -> None:
        """Read a member that holds ceilings and choices."""
        if begins(value) == OBJECT:
            for name, inner in members_of(bytes(value)).items():
                read = _SETTINGS.get(name)
                if read is None:
                    refuse_other_spelling(name, _SETTINGS_SPELLINGS)
                elif inner != NULL:
                    read(self, name, inner)

    def take_tools(self, name: str, value: Raw) -> None:
        """Read a member that declares tools."""
        self.tools.take(name, value)
        while self.tools.models:
            self.take_models(*self.tools.models.pop())

    def take_tool_config(self, _name: str, value: Raw) -> None:
        """Read where Bedrock's Converse has its tools."""
        if begins(value) == OBJECT:
            tools = members_of(bytes(value)).get("tools")
            if tools is not None and tools != NULL:
                self.take_tools("tools", tools)

    def take_ceiling(self, name: str, value: Raw) -> None:
        """Read how many tokens may be generated."""
        ceiling = _decode(value)
        if ceiling == "inf":
            # A realtime session's word for no ceiling.
            self._unbounded = True
        else:
            tokens = _number(name, ceiling)
            # Some servers take a zero for none.
            self._ceiling = 0 if tokens == 0 or self._ceiling == 0 else max(self._ceiling or 0, tokens)

    def take_choices(self, name: str, value: Raw) -> None:
        """Read how many answers there are to be."""
        self._choices = max(self._choices, _number(name, _decode(value)))

    def take_stream(self, name: str, value: Raw) -> None:
        """Read whether the answer is to come in a stream."""
        asked = _decode(value)
        if type(asked) is not bool:
            raise Denial("request_field_invalid", need=f"{name} as true or false")
        self.streaming = self.streaming or asked

    def take_label(self, name: str, value: Raw) -> None:
        """Read whom the request is for."""
        label = _decode(value)
        if type(label) is str and name_problem(label) is None:
            self._labels[name] = label

    def take_metadata(self, _name: str, value: Raw) -> None:
        """Read what stands beside the request: of it, only whom the request is for."""
        if begins(value) == OBJECT:
            user = members_of(bytes(value)).get("user_id")
            if user is not None:
                self.take_label(_USER_OF_METADATA, user)

    def refuse(self, name: str, _value: Raw) -> None:
        """Refuse a member that chooses where or as whom the request is sent on, unless it is allowed."""
        if name not in self._allowed:
            raise Denial("request_field_not_allowed", need=f"a request without {name}")


def _number(name: str, number: object) -> int:
    if type(number) is not int or not 0 <= number <= MAX_NUMBER:
        raise Denial("request_field_invalid", need=f"{name} as an integer from 0 to {MAX_NUMBER}")
    return number


Reader: TypeAlias = Callable[[Reading, str, Raw], None]


def _beside(reader: Reader) -> Reader:
    """Return a reader of what stands beside the model that is run: a name in it chooses none, but for realtime sessions."""

    def read(reading: Reading, name: str, value: Raw) -> None:
        chosen = reading.chosen
        reader(reading, name, value)
        if reading.operation.name != _REALTIME:
            reading.chosen = chosen

    return read


def _all(names: Iterable[str], reader: Reader) -> dict[str, Reader]:
    return dict.fromkeys(names, reader)


_SETTINGS: Final[Mapping[str, Reader]] = {
    **_all(fields.CEILINGS, Reading.take_ceiling),
    **_all(fields.CHOICES, Reading.take_choices),
}
READERS: Final[Mapping[str, Reader]] = {
    **_SETTINGS,
    **_all(fields.MODEL, Reading.take_model),
    **_all(fields.MODELS, _beside(Reading.take_models)),
    **_all(fields.IDS, Reading.take_id),
    fields.MESSAGE: Reading.take_protocol,
    fields.PRESET: Reading.take_preset,
    **_all(fields.FALLBACKS, _beside(Reading.take_fallbacks)),
    **_all(fields.BODIES, _beside(Reading.take_body)),
    **_all(fields.MERGED, _beside(Reading.take_merged)),
    **_all(fields.BATCHES, Reading.take_batch),
    **_all(fields.SPEECH, _beside(Reading.take_speech)),
    **_all(fields.SETTINGS, Reading.take_settings),
    **_all(fields.TOOLS, _beside(Reading.take_tools)),
    "toolConfig": _beside(Reading.take_tool_config),
    "stream": Reading.take_stream,
    "metadata": Reading.take_metadata,
    **_all(fields.END_USER, Reading.take_label),
    **_all(fields.ROUTING, Reading.refuse),
}
# Members whose readers want an object or a text: as a name in a map of fallbacks, such a one may have a list.
_PASS_OVER_LISTS: Final = fields.BODIES | fields.SPEECH | fields.SETTINGS | {*fields.END_USER, "metadata", "toolConfig"}
SPELLINGS: Final = frozenset(name.casefold() for name in READERS)
"""The members that mean something, in lower case."""
_BATCH_SPELLINGS: Final = frozenset(name.casefold() for name in fields.INSIDE_BATCHES)
_SPEECH_SPELLINGS: Final = frozenset({"model", *fields.INSIDE_SPEECH})
_SETTINGS_SPELLINGS: Final = frozenset(name.casefold() for name in _SETTINGS)
