"""Which requests cost money, and which of these can be measured as their answers pass."""

from typing import Any, Final, Literal, TypeAlias

import msgspec

from llm_authmw.asgi import Scope
from llm_authmw.lens import brings_body
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


class _Deferred(msgspec.Struct):
    """The member of a body that has the answer come later."""

    background: Any = None


_deferred: Final = msgspec.json.Decoder(_Deferred).decode


def kind_of(scope: Scope, method: str, path: str, found: Found | None) -> Kind:
    """Return what kind of request this is, as far as its route says so.

    Args:
        scope: The connection.
        method: As `patterns.canonical_route` gives it.
        path: Likewise.
        found: Its operation.
    """
    if found is None:
        if method != "WS" and not brings_body(scope):
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


def comes_later(operation: str, body: bytes) -> bool:
    """Say whether a request asks for an answer that is fetched by another one."""
    return operation == "responses" and b"background" in body and _deferred(body).background is not None
