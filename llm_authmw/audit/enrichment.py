"""What a user's own function adds to records: the country of an address, the name of a cost centre."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeAlias, TypeGuard, cast

import msgspec

from llm_authmw.background import Background
from llm_authmw.callbacks import DEFAULT_DEADLINE, Callback
from llm_authmw.names import Names, name_set
from llm_authmw.sinks.queue import Deferred
from llm_authmw.sinks.sink import AuditSink
from llm_authmw.trail.record import Detail, Person, Record

Enrich: TypeAlias = Callable[[Record], Mapping[str, Detail]] | Callable[[Record], Awaitable[Mapping[str, Detail]]]

MAX_FIELDS: Final = 16
"""Fields that one record is given at most."""
MAX_NAME: Final = 64
"""Characters of a field's name."""
MAX_VALUE: Final = 256
"""Characters of a field's value."""
MARK: Final = "enrichment"
"""The field that says what became of an enrichment which did not do all that it should."""
MOST_AT_ONCE: Final = 1_000
"""Records that are enriched at once. One that comes while so many wait goes on as it is, and says so."""

_MAX_NUMBER: Final = 2**53


class Enrichment:
    """A function that is asked about every record of a request. No record is lost to it, whatever it does.

    Args:
        enrich: The function.
        personal: The names of its fields that say who a person is, or lead there.
        deadline: Seconds that a call may take.

    Raises:
        ConfigurationError: it is no function, or a name is none.
    """

    def __init__(self, enrich: Enrich, *, personal: Names = (), deadline: float = DEFAULT_DEADLINE) -> None:
        self._enrich: Final = Callback("enrich", enrich, deadline=deadline)
        self._personal: Final = frozenset(name_set("personal", personal))
        self._background: Final = Background()
        self._waiting: Final[dict[int, tuple[Deferred, Sequence[AuditSink]]]] = {}

    def __repr__(self) -> str:
        return repr(self._enrich)

    def start(self, notes: Deferred, sinks: Sequence[AuditSink]) -> None:
        """Give an enriched record to the sinks, some time later."""
        if len(self._waiting) >= MOST_AT_ONCE:
            record = self.left_out(notes)
            for sink in sinks:
                sink.put(record)
            return
        self._waiting[id(notes)] = (notes, sinks)
        self._background.start(partial(self._put, notes))

    def left_out(self, notes: Deferred) -> Record:
        """Return the record as it is where the function cannot be asked, with a mark that says so."""
        return _marked(notes.record(), "left_out")

    async def enriched(self, notes: Deferred) -> Record:
        """Return the record with what the function adds, or with a mark that says why that is missing."""
        record = notes.record()
        try:
            given = await self._enrich(record)
        except TimeoutError:
            return _marked(record, "late")
        except Exception:  # noqa: BLE001 - a user's function; its error may quote the record
            return _marked(record, "failed")
        return self._with(record, given)

    async def aclose(self) -> None:
        """Let the records go that still wait, as they are."""
        waiting = list(self._waiting.values())
        self._waiting.clear()
        for notes, sinks in waiting:
            record = _marked(notes.record(), "late")
            for sink in sinks:
                sink.put(record)
        await self._background.aclose()

    async def _put(self, notes: Deferred) -> None:
        record: Record | None = None
        try:
            record = await self.enriched(notes)
        finally:
            # Also where the event loop ends meanwhile.
            _, sinks = self._waiting.pop(id(notes), (notes, ()))
            for sink in sinks:
                sink.put(_marked(notes.record(), "late") if record is None else record)

    def _with(self, record: Record, given: object) -> Record:
        if not isinstance(given, Mapping):
            return _marked(record, "failed")
        fields = cast("Mapping[object, object]", given)
        usable: dict[str, Detail] = {}
        for name, value in list(fields.items())[:MAX_FIELDS]:
            if isinstance(name, str) and 1 <= len(name) <= MAX_NAME and name != MARK and _is_detail(value):
                usable[name] = value[:MAX_VALUE] if isinstance(value, str) else value
        extra = {name: value for name, value in usable.items() if name not in self._personal}
        personal = {name: value for name, value in usable.items() if name in self._personal}
        if len(usable) < len(fields):
            extra[MARK] = "cut"
        person = record.person
        if personal:
            person = msgspec.structs.replace(person or Person(), extra=personal)
        return msgspec.structs.replace(record, extra=extra, person=person)


def _is_detail(value: object) -> TypeGuard[Detail]:
    if type(value) is int:
        return -_MAX_NUMBER <= value <= _MAX_NUMBER
    if type(value) is float:
        return math.isfinite(value)
    return value is None or type(value) in (str, bool)


def _marked(record: Record, mark: str) -> Record:
    return msgspec.structs.replace(record, extra={MARK: mark})
