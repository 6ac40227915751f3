"""Which requests cost money, and which of these can be measured as their answers pass."""

from typing import Final, Literal, TypeAlias

from msgspec import Raw

from llm_authmw.asgi import Scope
from llm_authmw.lens import brings_body
from llm_authmw.llm.body_fields import MERGED
from llm_authmw.llm.json_body import NULL, OBJECT, begins, members_of
from llm_authmw.llm.operation import Found
from llm_authmw.llm.resemblance import resembles_an_api

Kind: TypeAlias = Literal["free", "metered", "unmetered", "unknown"]
"""Whether a request costs nothing; says in its answer what it used; costs what nobody sees here; or is on a route that no table has."""

METERED: Final = frozenset(
    {
        "audio.speech",
        "audio.transcriptions",
        "audio.translations",
        "chat",
        "classify",
        "completions",
        "converse",
        "embed_content",
        "embeddings",
        "generate_content",
        "images",
        "invocations",
        "invoke",
        "messages",
        "moderations",
        "pooling",
        "rerank",
        "responses",
        "score",
    }
)
"""Operations whose answers say what they used, or whose requests bound it."""
FREE: Final = frozenset({"count_tokens", "files", "mcp", "models", "tokenize", "uploads"})
"""Operations that run no model."""

_LATER: Final = ("/async-invoke", ":asyncBatchEmbedContent")
"""How paths end whose answers come when the request is long over."""
_WITHOUT_BODY: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})


_AT_ONCE: Final = (NULL, Raw(b"false"))
_BACKGROUND: Final = "background"


def kind_of(scope: Scope, method: str, path: str, found: Found | None) -> Kind:
    """Return what kind of request this is, as far as its route says so.

    Args:
        scope: The connection.
        method: As `patterns.canonical_route` gives it.
        path: Likewise.
        found: Its operation.
    """
    if found is None:
        # No header of HTTP/2 has to announce a body, so that any method but these may bring one.
        if method in _WITHOUT_BODY and not brings_body(scope):
            return "free"
        # An app's own routes run no model, unless what they are sent says otherwise.
        return "unmetered" if resembles_an_api(path) else "unknown"
    operation = found.operation
    if operation.body == "none" and not operation.needs_model:
        return "free"
    if method == "WS" or path.endswith(_LATER):
        return "unmetered"
    if operation.name in METERED:
        # A request without a body asks these for nothing.
        return "free" if method in _WITHOUT_BODY and not brings_body(scope) else "metered"
    return "free" if operation.name in FREE else "unmetered"


def is_free(kind: Kind, found: Found | None, *, flat: bool) -> bool:
    """Say whether a request costs nothing: a flat price holds for what would, but for what only looks something up."""
    return kind == "free" and (not flat or found is None or found.operation.body == "none")


def comes_later(operation: str, body: bytes) -> bool:
    """Say whether a request asks for an answer that is fetched by another one."""
    # A name may be written in escapes.
    return operation == "responses" and (b"ackground" in body or b"\\u" in body) and _asks_for_later(body)


def _asks_for_later(text: bytes) -> bool:
    for name, value in members_of(text).items():
        if name.casefold() == _BACKGROUND and value not in _AT_ONCE:
            return True
        if name in MERGED and begins(value) == OBJECT and _asks_for_later(bytes(value)):
            return True
    return False
