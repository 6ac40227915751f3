"""Render a denial in the dialect that the client speaks. This is the only place that does.

OpenAI, Anthropic and Gemini error bodies are what their SDKs parse into typed errors; everybody else gets RFC 9457
problem+json. The reason code goes out as a header too, in every dialect, since some SDKs drop what a body says.
"""

import functools
import math
import re
from typing import Any, Final, Literal, TypeAlias

import msgspec

from llm_authmw.challenges import for_bearers
from llm_authmw.errors import Denial

Dialect: TypeAlias = Literal["openai", "anthropic", "gemini", "problem"]
Headers: TypeAlias = list[tuple[bytes, bytes]]

REASON_HEADER: Final = b"x-authmw-reason"
REQUEST_ID_HEADER: Final = b"x-request-id"
PROBLEM_TYPE: Final = "urn:llm-authmw:reason:"

_ANY_REQUEST: Final = b"0" * 16
_TOO_MANY: Final = 429

_encode: Final = msgspec.json.Encoder().encode

_TELLING_HEADERS: Final[dict[bytes, Dialect]] = {b"anthropic-version": "anthropic", b"x-goog-api-key": "gemini", b"accept": "problem"}
_OPENAI_SEGMENTS: Final = frozenset(
    {
        "v1",
        "openai",
        "chat",
        "completions",
        "responses",
        "embeddings",
        "models",
        "moderations",
        "images",
        "audio",
        "files",
        "batches",
        "realtime",
    }
)
_OPENAI_TYPES: Final = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_GEMINI_STATUS: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}
_TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    429: "Too Many Requests",
    503: "Service Unavailable",
}
# RFC 6750 §3.1; a 401 without any credential carries no error code (§3).
_BEARER_ERRORS: Final = {400: "invalid_request", 401: "invalid_token", 403: "insufficient_scope"}
# RFC 9470 §3: the token is good, but the login behind it will not do.
_STEP_UP: Final = frozenset({"authentication_too_old", "authentication_class_not_accepted"})
# RFC 6749 §3.3: neither quotation marks nor backslashes.
_SCOPES: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")


def dialect_of(scope: Any) -> Dialect:
    """Guess from path and headers which dialect the client speaks."""
    path: str = scope["path"]
    for name, value in scope["headers"]:
        lowered = name.lower()
        if lowered in _TELLING_HEADERS:
            if lowered != b"accept":
                return _TELLING_HEADERS[lowered]
            if b"application/problem+json" in value:
                return "problem"
    if path.endswith(("/v1/messages", "/v1/messages/count_tokens")):
        return "anthropic"
    if "/v1beta/" in path or path.rpartition(":")[2] in ("generateContent", "streamGenerateContent", "embedContent", "countTokens"):
        return "gemini"
    return "problem" if _OPENAI_SEGMENTS.isdisjoint(path.split("/")) else "openai"


def render(denial: Denial, scope: Any, request_id: str) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer to a denied request."""
    known, body = _rendered(dialect_of(scope), denial.status, denial.public_reason, denial.message, denial.need, denial.challenges)
    headers = [*known, *_when_to_retry(denial), *denial.headers, (REQUEST_ID_HEADER, request_id.encode())]
    return denial.status, headers, body.replace(_ANY_REQUEST, request_id.encode())


def _when_to_retry(denial: Denial) -> Headers:
    """Say when trying again can help. SDKs try a 429 again whatever it says, and some of them wait for weeks, unless told not to."""
    wait = denial.retry_after
    if wait is None:
        return [(b"x-should-retry", b"false")] if denial.status == _TOO_MANY else []
    # Rounded up: whoever comes back a moment too early is refused once more.
    headers = [(b"retry-after", b"%d" % max(1, math.ceil(wait)))]
    return [*headers, (b"retry-after-ms", b"%d" % max(1, math.ceil(wait * 1000)))] if denial.status == _TOO_MANY else headers


@functools.lru_cache(maxsize=1024)
def _rendered(
    dialect: Dialect, status: int, reason: str, message: str, need: str | None, challenges: tuple[str, ...]
) -> tuple[Headers, bytes]:
    """Render what does not differ from one request to the next; a flood of denials costs no more than a flood of answers."""
    body = _encode(error_object(dialect, status, reason, message, need))
    headers: Headers = [
        (b"content-type", b"application/problem+json" if dialect == "problem" else b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        (REASON_HEADER, reason.encode()),
    ]
    told = for_bearers(challenges, _error(status, reason, message, need))
    headers += [(b"www-authenticate", challenge.encode(errors="replace")) for challenge in told]
    return headers, body


def error_object(dialect: Dialect, status: int, reason: str, message: str, need: str | None) -> dict[str, Any]:
    """Return the error as that dialect's JSON object, with a stand-in of the same length for the request's id."""
    # What is needed may quote the request, and a server may have put half a character where it found a byte that is none.
    text = message if need is None else f"{message} Needed: {need}.".encode(errors="replace").decode()
    request_id = _ANY_REQUEST.decode()
    if dialect == "openai":
        kind = _OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": text, "type": kind, "param": None, "code": reason}}
    if dialect == "anthropic":
        kind = _ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": text}, "request_id": request_id}
    if dialect == "gemini":
        details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason.upper(), "domain": "llm-authmw"}]
        name = _GEMINI_STATUS.get(status, "INTERNAL" if status >= 500 else "INVALID_ARGUMENT")
        return {"error": {"code": status, "message": text, "status": name, "details": details}}
    return {
        "type": PROBLEM_TYPE + reason,
        "title": _TITLES.get(status, "Error"),
        "status": status,
        "detail": text,
        "instance": f"urn:llm-authmw:request:{request_id}",
        "reason": reason,
    }


def error_event(denial: Denial, scope: Any, request_id: str) -> bytes:
    """Return the server-sent event that ends a stream which was cut, as the client's SDK expects it."""
    dialect = dialect_of(scope)
    _, body = _rendered(dialect, denial.status, denial.public_reason, denial.message, denial.need, ())
    name = b"event: error\n" if dialect == "anthropic" else b""
    return name + b"data: " + body.replace(_ANY_REQUEST, request_id.encode()) + b"\n\n"


def _error(status: int, reason: str, message: str, need: str | None) -> dict[str, str]:
    """Return what a challenge for bearer tokens says of the one that was sent, and of the one that would do."""
    if reason in _STEP_UP:
        return {"error": "insufficient_user_authentication", "error_description": message}
    error = _BEARER_ERRORS.get(status)
    if error is None or reason == "missing_credential" or (error == "insufficient_scope") != (reason == "insufficient_scope"):
        return {}
    # What is needed may be said in other words, which are no scopes.
    scopes = {"scope": need} if error == "insufficient_scope" and need is not None and _SCOPES.fullmatch(need) is not None else {}
    return {"error": error, **scopes}
