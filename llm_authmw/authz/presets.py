"""Roles that are ready, under the four names that every LLM proxy has.

They say which requests are the LLM's, and leave the models to the credential's own list. No route by which a proxy manages its keys, users
or models is anybody's but the admin's: behind this package a proxy sees one credential, its own, and would serve them all.
"""

from typing import Final

from llm_authmw.authz.roles import Role

_BASES: Final = ("", "/v1", "/openai/v1", "/openai/deployments/*", "/engines/*")
_STORED_BASES: Final = ("", "/v1", "/openai/v1")

_GENERATING: Final = (
    *("chat/completions", "completions", "responses", "embeddings", "moderations", "rerank"),
    *("images/generations", "images/edits", "images/variations"),
    *("audio/speech", "audio/transcriptions", "audio/translations"),
)
_STORED: Final = (
    *("chat/completions", "responses", "conversations", "files", "uploads", "batches", "vector_stores", "assistants", "threads"),
    *("videos", "fine_tuning/jobs"),
)

_GENERATE: Final = (
    *(f"POST {base}/{ending}" for base in _BASES for ending in _GENERATING),
    *(f"GET {base}/models" for base in ("", "/v1", "/openai/v1", "/v1beta")),
    *("GET /v1/models/*", "POST /v1/messages", "POST /v1/messages/count_tokens", "POST /v1/models/*", "POST /v1beta/models/*"),
    *("POST /model/*/invoke", "POST /model/*/invoke-with-response-stream", "POST /model/*/converse", "POST /model/*/converse-stream"),
)
_KEEP: Final = (
    *(f"GET,POST,DELETE {base}/{ending}/**" for base in _STORED_BASES for ending in _STORED),
    *("GET,POST,DELETE /v1/messages/batches/**", "WS /v1/realtime", "WS /v1/responses", "POST /v1/realtime/**"),
    *("GET,POST,DELETE /mcp", "GET,POST,DELETE /mcp/*"),
)


def proxy_roles() -> dict[str, Role]:
    """Return the roles "proxy_admin", "team", "internal_user" and "customer".

    `proxy_admin` may do everything; the master key has it. `customer` may have models generate something, and list them; it has no
    files, batches, stored answers or sockets, and no tools that others run. `team`, for services, and `internal_user`, for people, have
    all that a customer has and those too, and MCP servers.

    Each but the first is for the routes at the root or under `/v1`, and Azure's, Gemini's and Bedrock's own. A role that is to be
    otherwise goes after them: `{**proxy_roles(), "customer": Role(…)}`.
    """
    member = Role(routes=(*_GENERATE, *_KEEP), models=["*"], tools=["*"])
    return {
        "proxy_admin": Role(routes=["*"], models=["*"], tools=["*"]),
        "team": member,
        "internal_user": member,
        "customer": Role(routes=_GENERATE, models=["*"]),
    }
