"""The tools that a body declares: which of them are run at the provider or an MCP server, and which the caller runs himself."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec
from msgspec import Raw

from llm_authmw.errors import Denial
from llm_authmw.llm.json_body import ARRAY, NULL, OBJECT, begins, elements_of, members_of, refuse_other_spelling
from llm_authmw.names import name_problem

_RUN_BY_THE_CALLER: Final = frozenset(
    {
        "apply_patch",
        "bash",
        "computer",
        "computer_use",
        "computer_use_preview",
        "custom",
        "function",
        "local_shell",
        "memory",
        "text_editor",
    }
)
_FUNCTIONS: Final = frozenset({"functionDeclarations", "function_declarations"})
_CALLED: Final = frozenset(
    {
        "connector_id",
        "function",
        "id",
        "mcp_server_name",
        "model",
        "models",
        "name",
        "parameters",
        "server_label",
        "server_url",
        "toolSpec",
        "type",
        "url",
    }
)
_SPELLINGS: Final = {name.lower() for name in _CALLED} | {name.lower() for name in _FUNCTIONS}
# Anthropic's `web_search_20250305` and OpenAI's `web_search_2025_08_26` are versions of one tool.
_VERSION: Final = re.compile(r"_(?:\d{8}|\d{4}_\d{2}_\d{2})$", re.ASCII)
_CAPITAL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_WEB_SEARCH: Final = "web_search"

_decode: Final = msgspec.json.Decoder().decode


class Tools:
    """The tools that were declared so far.

    Attributes:
        run: What is run at the provider or at an MCP server.
        functions: What the caller runs himself.
        models: Members of tools that name models: some tools are models themselves.
    """

    __slots__ = ("_servers", "_toolsets", "functions", "models", "run")

    def __init__(self) -> None:
        self.run: Final[list[str]] = []
        self.functions: Final[list[str]] = []
        self.models: Final[list[tuple[str, Raw]]] = []
        self._servers: Final[dict[str, str]] = {}
        self._toolsets: Final[list[str]] = []

    def names(self) -> tuple[str, ...]:
        """Return the names of what is run at the provider or at an MCP server, each once and sorted."""
        if not (self.run or self._servers or self._toolsets):
            return ()
        # A toolset whose server the request does not bring along is one that the service knows by that name.
        known = {f"mcp:{name}" for name in self._toolsets if name not in self._servers}
        return tuple(sorted({*self.run, *self._servers.values(), *known}))

    def take(self, name: str, value: Raw) -> None:
        """Read a member of a body that declares tools.

        Raises:
            ValueError: it cannot be read in one way only.
            Denial: it is of another form than such a member has (`request_field_invalid`).
        """
        if name == "web_search_options":
            # By which OpenAI's chat models search the web.
            self.run.append(_WEB_SEARCH)
            return
        for tool in _objects(value):
            members = _members(tool)
            if name == "tools":
                self._take_tool(members)
            elif name == "functions":
                self.functions.append(_function_name(members))
            elif name == "mcp_servers":
                self._servers[_text(members, "name") or ""] = _server(members)
            else:
                # OpenRouter's plugins.
                self.run.append(_required(members, "id"))
                self._take_models(members)

    def _take_tool(self, members: Mapping[str, Raw]) -> None:
        # OpenAI's, Anthropic's and Gemini's differ in form: an entry says by its members whose it is.
        kind = _text(members, "type")
        if kind is None:
            if "name" in members or "function" in members:
                self.functions.append(_function_name(members))
            else:
                self._take_by_member(members)
            return
        kind = _VERSION.sub("", kind)
        if kind in _RUN_BY_THE_CALLER:
            self.functions.append(_function_name(members) if kind in {"custom", "function"} else _text(members, "name") or kind)
        elif kind == "mcp":
            self.run.append(_server(members))
        elif kind == "mcp_toolset":
            self._toolsets.append(_required(members, "mcp_server_name"))
        else:
            self.run.append(kind)
            self._take_models(members)

    def _take_by_member(self, members: Mapping[str, Raw]) -> None:
        # And Bedrock's, which are of the same form.
        for name, value in members.items():
            if name in _FUNCTIONS:
                self.functions.extend(_function_name(_members(function)) for function in _objects(value))
            elif name == "toolSpec":
                self.functions.append(_function_name(_members(value)))
            elif value != NULL and name != "cachePoint":
                # Both spellings of `googleSearch` are accepted there, so rules need not name both.
                self.run.append(_CAPITAL.sub("_", _checked(name)).lower())

    def _take_models(self, members: Mapping[str, Raw]) -> None:
        for name, value in members.items():
            if name == "model" or name.endswith("models"):
                self.models.append((name, value))
            elif name == "parameters" and begins(value) == OBJECT:
                self._take_models(_members(value))


def _server(members: Mapping[str, Raw]) -> str:
    # What a server is called is the caller's own choice where he also says where it is, so then its address is its name.
    for member in ("server_url", "url", "connector_id", "server_label", "name"):
        reached = _text(members, member)
        if reached is not None:
            return f"mcp:{reached}"
    raise Denial("request_field_invalid", need="server_label of each MCP server")


def _function_name(members: Mapping[str, Raw]) -> str:
    inner = members.get("function", members.get("custom"))
    return _required(members if inner is None or begins(inner) != OBJECT else _members(inner), "name")


def _objects(value: Raw) -> Iterator[Raw]:
    if begins(value) != ARRAY:
        raise Denial("request_field_invalid", need="tools as a list of objects")
    for element in elements_of(value):
        if begins(element) != OBJECT:
            raise Denial("request_field_invalid", need="tools as a list of objects")
        yield element


def _members(value: Raw) -> dict[str, Raw]:
    members = members_of(bytes(value))
    for name in members:
        if name not in _CALLED and name not in _FUNCTIONS:
            refuse_other_spelling(name, _SPELLINGS)
    return members


def _required(members: Mapping[str, Raw], name: str) -> str:
    text = _text(members, name)
    if text is None:
        raise Denial("request_field_invalid", need=f"{name} of each tool")
    return text


def _text(members: Mapping[str, Raw], name: str) -> str | None:
    value = members.get(name)
    return None if value is None or value == NULL else _checked(_decode(value))


def _checked(name: object) -> str:
    if type(name) is not str or name_problem(name) is not None:
        raise Denial("request_field_invalid", need="names of tools that print, of 512 characters at most")
    return name
