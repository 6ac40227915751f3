"""What one kind of request to an LLM API is: its name, its routes, how its body is read."""

from typing import Final, Literal, TypeAlias, get_args

import msgspec

from llm_authmw.call import UNLISTED, ApiDialect
from llm_authmw.errors import ConfigurationError
from llm_authmw.llm.ceilings import CEILINGS
from llm_authmw.llm.endings import Ending
from llm_authmw.names import Names, names

BodyKind: TypeAlias = Literal["json", "multipart", "mcp", "none"]

_DIALECTS: Final[tuple[str, ...]] = get_args(ApiDialect)
_WITH_FIELDS: Final = frozenset({"json", "multipart"})
_BODIES: Final[tuple[str, ...]] = get_args(BodyKind)


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of request that an LLM API knows.

    Attributes:
        name: What it is called in `Role(operations=…)` and in the record. Several operations may share a name, as the routes of one
            resource do that are read in different ways.
        routes: How its paths end: `[METHOD[,METHOD] ]segment/segment`, `POST` where no method is given and `WS` for a WebSocket. `*` is
            any one segment, `{model}` one that names a model, `{model...}` one or more that do together, after a literal segment. The last
            one may be a model with an action: `models/{model...}:generateContent`.
        dialect: Whose API it is.
        body: How its body is read: "json" for one JSON object, "multipart" for a form (JSON is read too), "mcp" for JSON-RPC, "none" where
            nothing in it chooses what is run.
        needs_model: Whether it runs a model: a request that names none is refused where models are restricted.
        streams: Whether it always answers in a stream; else the body says so.
        model_fields: Members of the body that name models, beside the ones that every API's do.
        ceilings: Members of the body by which a caller bounds what is generated, within others `settings.member`; the first is the one
            to write. Left out: those of its dialect. A ceiling by another name bounds nothing, since the API takes no notice of it.

    Raises:
        ConfigurationError: a field is outside its grammar.
    """

    name: str
    routes: Names
    dialect: ApiDialect = "other"
    body: BodyKind = "json"
    needs_model: bool = True
    streams: bool = False
    model_fields: Names = ()
    ceilings: Names | None = None

    def __post_init__(self) -> None:
        names("name", [self.name])
        if self.name == UNLISTED:
            raise ConfigurationError("name", f"{UNLISTED!r} is what a route is called that is no operation's")
        of = f"of the operation {self.name!r}"
        if self.ceilings is None:
            known = CEILINGS.get(self.dialect, ()) if self.body in _WITH_FIELDS else ()
            msgspec.structs.force_setattr(self, "ceilings", known)
        for field in ("routes", "model_fields", "ceilings"):
            msgspec.structs.force_setattr(self, field, names(field, getattr(self, field)))
        if not self.routes:
            raise ConfigurationError("routes", f"{of} names none")
        for option, value, kinds in (("dialect", self.dialect, _DIALECTS), ("body", self.body, _BODIES)):
            if value not in kinds:
                raise ConfigurationError(option, f"{of} is one of {', '.join(kinds)}")
        for option, switch in (("needs_model", self.needs_model), ("streams", self.streams)):
            if type(switch) is not bool:
                raise ConfigurationError(option, f"{of} is True or False")
        for option, paths in (("model_fields", self.model_fields), ("ceilings", self.ceilings or ())):
            if paths and self.body not in _WITH_FIELDS:
                raise ConfigurationError(option, f"{of} would be ignored, as its body has no fields that are looked at")
        for path in self.ceilings or ():
            if not all(path.split(".")):
                raise ConfigurationError("ceilings", f"{of} has {path!r}, which is neither a member nor 'settings.member'")
        for route in self.routes:
            Ending.parse(route)


class Found(msgspec.Struct, frozen=True):
    """The operation of a request.

    Attributes:
        operation: Which.
        models: The models that its path names.
    """

    operation: Operation
    models: tuple[str, ...]
