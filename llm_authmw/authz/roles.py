"""`Role`: what whoever has it may do. A request is allowed where some one role of the caller allows all of it."""

import math
from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec

from llm_authmw.authz.models import check_reach, parse_tool
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.names import Names, name_problem, name_set, names
from llm_authmw.network import parse_network
from llm_authmw.patterns import ModelPattern, RoutePattern
from llm_authmw.principal import Assurance

GROUP: Final = "group:"
"""What a reference to a named group of routes or models begins with."""

_T = TypeVar("_T")

_OF_ITS_OWN: Final = ("models", "tools", "operations", "scopes", "assurance", "networks", "max_age", "acr")


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """What whoever has the role may do, and what it asks of him beside.

    Roles are looked at one by one: never one role's route with another one's models. Left out, `routes`, `models` and `tools` allow
    none, and `operations` every one; a bare `"*"` is everything.

    Attributes:
        routes: Route patterns, such as `POST /v1/chat/completions`, or `group:NAME` of the `route_groups`.
        models: Model patterns, such as `gpt-4o*` or `!gpt-4o-audio*`, or `group:NAME` of the `model_groups`.
        operations: Kinds of requests, as the table of operations names them: "chat", "embeddings", "unlisted".
        tools: What may be run at the provider or at an MCP server: `web_search`, `get_*`, `prompt:*`, `resource:file:///docs/*`,
            `!delete_*`. A resource with a dot segment is allowed by its own name or `*` only.
        tier: The named set of limits of requests that the role allows; the principal's own goes before it.
        inherits: Roles that whoever has this one has too, each with what it asks for itself.
        scopes: OAuth scopes (RFC 6749 §3.3) that the credential must have, all of them.
        assurance: How well the identity must be proven, at least.
        networks: Networks that the caller must come from, one of them.
        max_age: Seconds since the caller last logged in, at most (OIDC Core §2, auth_time).
        acr: Authentication context classes (OIDC Core §2), one of which the login must have had.
        shadow: Whether the role is on trial: what it denies to those who have no other kind of role is recorded and not enforced.

    Raises:
        ConfigurationError: an option is outside its grammar, or would be ignored.
    """

    routes: Names = ()
    models: Names = ()
    operations: Names | None = None
    tools: Names = ()
    tier: str | None = None
    inherits: Names = ()
    scopes: Names = ()
    assurance: Assurance | None = None
    networks: Names | None = None
    max_age: float | None = None
    acr: Names = ()
    shadow: bool = False

    def __post_init__(self) -> None:
        for field in ("routes", "models", "tools", "inherits", "acr"):
            _set(self, field, names(field, getattr(self, field)))
        _set(self, "scopes", name_set("scopes", self.scopes))
        for scope in self.scopes:
            if " " in scope:
                raise ConfigurationError("scopes", f"has {scope!r}, which is several: write them as a list")
        for name in self.acr:
            if " " in name or not name.isascii():
                raise ConfigurationError("acr", f"has {name!r}, which no challenge can ask for: ASCII without blanks (RFC 9470 §3)")
        if self.operations is not None:
            _set(self, "operations", names("operations", self.operations))
            if not self.operations:
                raise ConfigurationError("operations", "allows none; left out, it allows every one")
        if self.networks is not None:
            _set(self, "networks", tuple(str(read("networks", parse_network, text)) for text in names("networks", self.networks)))
            if not self.networks:
                raise ConfigurationError("networks", "names none, so nobody could ever use the role")
        if self.tier is not None:
            check_name("tier", self.tier)
        if self.assurance is not None and (type(self.assurance) is not Assurance or self.assurance is Assurance.ASSERTED):
            raise ConfigurationError("assurance", "takes a level of Assurance above ASSERTED, which every caller has")
        if self.max_age is not None:
            if type(self.max_age) not in (int, float) or not 0 < self.max_age < math.inf:
                raise ConfigurationError("max_age", "is a number of seconds above zero")
            _set(self, "max_age", float(self.max_age))
        if type(self.shadow) is not bool:
            raise ConfigurationError("shadow", "is True or False")
        self._check_patterns()
        if not self.routes:
            self._check_that_something_is_allowed()

    def _check_patterns(self) -> None:
        for text in self.routes:
            if not text.startswith(GROUP):
                read("routes", RoutePattern.parse, text)
        check_reach("models", [read("models", parse_model, text) for text in self.models if not text.startswith(GROUP)])
        check_reach("tools", [read("tools", parse_tool, text) for text in self.tools])

    def _check_that_something_is_allowed(self) -> None:
        for field in _OF_ITS_OWN:
            if getattr(self, field):
                raise ConfigurationError(field, "is given to a role without routes, where it would be ignored: it allows no request")
        if not self.inherits:
            raise ConfigurationError("routes", "names none, and the role inherits none: it allows no request")


def check_name(option: str, name: Any, *, of: str = "") -> None:
    """Refuse what is no usable name.

    Args:
        option: The option.
        name: What was given.
        of: What the option has that name for, where the name is not the option itself.

    Raises:
        ConfigurationError: it is none.
    """
    problem = name_problem(name) if isinstance(name, str) else f"is a text, not {type(name).__name__}"
    if problem is not None:
        raise ConfigurationError(option, f"{of} {problem}".strip())


def parse_model(text: str) -> ModelPattern:
    """Read a model pattern of a role.

    Raises:
        InvalidValueError: it is none, or excludes a group.
    """
    if text.startswith("!" + GROUP):
        raise InvalidValueError(f"{text!r}: a group cannot be excluded as one; exclude its patterns")
    return ModelPattern.parse(text)


def read(option: str, parse: Callable[[str], _T], text: str) -> _T:
    """Return what the parser makes of the text.

    Raises:
        ConfigurationError: the text is outside the parser's grammar.
    """
    try:
        return parse(text)
    except InvalidValueError as error:
        raise ConfigurationError(option, str(error)) from None


def _set(role: Role, field: str, value: Any) -> None:
    msgspec.structs.force_setattr(role, field, value)
