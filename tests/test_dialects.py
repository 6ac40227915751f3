import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.dialects import Dialect, dialect_of, error_event, error_object, render
from llm_authmw.errors import Denial
from llm_authmw.reasons import REASONS

REQUEST = "00c0ffee00c0ffee"
SPEAKERS: dict[Dialect, str] = {
    "openai": "/v1/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/gemini-2.5-pro:generateContent",
    "problem": "/health",
}
DIALECTS: list[Dialect] = list(SPEAKERS)


def scope(path: str = "/v1/models", *headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "path": path, "headers": list(headers)}


def answer(denial: Denial, dialect: Dialect = "openai") -> tuple[int, dict[str, str], Any]:
    """Return status, single headers and body."""
    status, headers, body = render(denial, scope(SPEAKERS[dialect]), REQUEST)
    return status, {name.decode(): value.decode() for name, value in headers}, msgspec.json.decode(body)


def challenges(denial: Denial) -> list[str]:
    return [value.decode() for name, value in render(denial, scope(), REQUEST)[1] if name == b"www-authenticate"]


# Which dialect.


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", "openai"),
        ("/chat/completions", "openai"),
        ("/v1/responses", "openai"),
        ("/v1/embeddings", "openai"),
        ("/v1/models", "openai"),
        ("/proxy/v1/audio/speech", "openai"),
        ("/openai/deployments/gpt-4o/chat/completions", "openai"),
        ("/v1/anything", "openai"),
        ("/v1/realtime", "openai"),
        ("/v1/messages", "anthropic"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/anthropic/v1/messages", "anthropic"),
        ("/v1beta/models/gemini-2.5-pro:generateContent", "gemini"),
        ("/v1beta/models", "gemini"),
        ("/v1/models/gemini-2.5-pro:streamGenerateContent", "gemini"),
        ("/v1/models/text-embedding-004:embedContent", "gemini"),
        ("/v1/models/gemini-2.5-pro:countTokens", "gemini"),
        ("/", "problem"),
        ("/health", "problem"),
        ("/modelsx", "problem"),
        ("/admin/keys", "problem"),
        ("", "problem"),
    ],
)
def test_the_path_tells_the_dialect(path: str, dialect: Dialect) -> None:
    assert dialect == dialect_of(scope(path))


@pytest.mark.parametrize(
    ("header", "dialect"),
    [
        ((b"anthropic-version", b"2023-06-01"), "anthropic"),
        ((b"Anthropic-Version", b"2023-06-01"), "anthropic"),
        ((b"x-goog-api-key", b"k"), "gemini"),
        ((b"X-Goog-Api-Key", b"k"), "gemini"),
        ((b"accept", b"application/json, application/problem+json"), "problem"),
        ((b"accept", b"application/json"), "openai"),
        ((b"x-api-key", b"k"), "openai"),
    ],
)
def test_a_header_tells_more_than_the_path(header: tuple[bytes, bytes], dialect: Dialect) -> None:
    assert dialect == dialect_of(scope("/v1/models", (b"host", b"example.com"), header))


# What it looks like.


def test_the_error_that_the_openai_sdk_parses() -> None:
    status, headers, body = answer(Denial("key_blocked", layer="keys", challenges=("Bearer",)), "openai")
    assert 401 == status
    assert {
        "error": {"message": "The API key is not valid.", "type": "authentication_error", "param": None, "code": "invalid_api_key"}
    } == body
    assert {
        "content-type": "application/json",
        "content-length": headers["content-length"],
        "cache-control": "no-store",
        "x-authmw-reason": "invalid_api_key",
        "x-request-id": REQUEST,
        "www-authenticate": 'Bearer error="invalid_token"',
    } == headers


def test_the_error_that_the_anthropic_sdk_parses() -> None:
    status, headers, body = answer(Denial("store_unavailable", layer="keys"), "anthropic")
    assert 503 == status
    assert {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "The credential could not be checked just now. Try again shortly."},
        "request_id": REQUEST,
    } == body
    assert ("application/json", "store_unavailable", "1") == (headers["content-type"], headers["x-authmw-reason"], headers["retry-after"])


def test_the_error_that_gemini_clients_parse() -> None:
    status, headers, body = answer(Denial("route_not_allowed", layer="keys"), "gemini")
    assert 403 == status
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "ROUTE_NOT_ALLOWED", "domain": "llm-authmw"}]
    message = "This credential may not be used for this method and path."
    assert {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED", "details": details}} == body
    assert "application/json" == headers["content-type"]


def test_everybody_else_gets_problem_json() -> None:
    status, headers, body = answer(Denial("missing_credential", layer="keys", challenges=("Bearer",)), "problem")
    assert 401 == status
    assert {
        "type": "urn:llm-authmw:reason:missing_credential",
        "title": "Unauthorized",
        "status": 401,
        "detail": "No credential was sent. Send an API key as 'Authorization: Bearer <key>'.",
        "instance": f"urn:llm-authmw:request:{REQUEST}",
        "reason": "missing_credential",
    } == body
    assert "application/problem+json" == headers["content-type"]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_can_be_told_in_every_dialect(reason: str, dialect: Dialect) -> None:
    denial = Denial(reason, challenges=("Bearer",))
    status, headers, body = render(denial, scope(SPEAKERS[dialect]), REQUEST)
    decoded = msgspec.json.decode(body)
    error = decoded if dialect == "problem" else decoded["error"]
    assert denial.status == status
    assert denial.message == error["detail" if dialect == "problem" else "message"]
    lines = dict(headers)
    assert len(lines) == len(headers)
    assert b"%d" % len(body) == lines[b"content-length"]
    assert denial.public_reason.encode() == lines[b"x-authmw-reason"]
    assert b"no-store" == lines[b"cache-control"]
    if denial.public_reason != reason:
        # The exact reason is for the record.
        assert reason.encode() not in body + repr(headers).encode()
        assert reason.upper().encode() not in body


@pytest.mark.parametrize(
    ("status", "openai", "anthropic", "gemini", "title"),
    [
        (400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", "Bad Request"),
        (401, "authentication_error", "authentication_error", "UNAUTHENTICATED", "Unauthorized"),
        (403, "permission_error", "permission_error", "PERMISSION_DENIED", "Forbidden"),
        (404, "invalid_request_error", "not_found_error", "INVALID_ARGUMENT", "Error"),
        (413, "invalid_request_error", "request_too_large", "INVALID_ARGUMENT", "Content Too Large"),
        (429, "rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED", "Too Many Requests"),
        (500, "server_error", "api_error", "INTERNAL", "Error"),
        (503, "server_error", "overloaded_error", "UNAVAILABLE", "Service Unavailable"),
    ],
)
def test_a_status_has_a_word_in_every_dialect(status: int, openai: str, anthropic: str, gemini: str, title: str) -> None:
    def told(dialect: Dialect) -> Any:
        return error_object(dialect, status, "some_reason", "Text.", None)

    assert openai == told("openai")["error"]["type"]
    assert anthropic == told("anthropic")["error"]["type"]
    assert gemini == told("gemini")["error"]["status"]
    assert title == told("problem")["title"]


def test_what_would_have_been_needed_is_told() -> None:
    _, _, body = answer(Denial("insufficient_scope", need="llm:admin"))
    assert "The credential lacks a scope that this operation needs. Needed: llm:admin." == body["error"]["message"]


# Nothing of the request comes back.


@given(
    st.text(max_size=30) | st.sampled_from(list(SPEAKERS.values())),
    st.lists(
        st.tuples(
            st.sampled_from([b"host", b"accept", b"authorization", b"x-api-key", b"x-request-id", b"anthropic-version"]),
            st.binary(max_size=20),
        ),
        max_size=4,
    ),
    st.sampled_from(sorted(REASONS)),
)
def test_the_answer_holds_nothing_of_the_request(path: str, headers: list[tuple[bytes, bytes]], reason: str) -> None:
    request, denial = scope(path, *headers), Denial(reason, challenges=("Bearer",))
    # The dialect is all that the request decides: every request that speaks it gets the same bytes.
    canonical = scope(SPEAKERS[dialect_of(request)])
    assert render(denial, canonical, REQUEST) == render(denial, request, REQUEST)


def test_two_requests_differ_in_their_id_alone() -> None:
    one, other = (render(Denial("key_unknown"), scope("/v1/messages"), request_id) for request_id in (REQUEST, "f" * 16))
    assert one != other
    assert one[2].replace(REQUEST.encode(), b"f" * 16) == other[2]
    assert [line for line in one[1] if line[0] != b"x-request-id"] == [line for line in other[1] if line[0] != b"x-request-id"]


def test_an_answer_that_a_layer_adds_to_is_not_remembered_with_the_addition() -> None:
    render(Denial("key_unknown"), scope(), REQUEST)[1].append((b"x-added", b"1"))
    assert b"x-added" not in dict(render(Denial("key_unknown"), scope(), REQUEST)[1])


# WWW-Authenticate (RFC 6750 §3, RFC 9110 §11.6.1, RFC 9728 §5.1).

LEADING = 'Bearer resource_metadata="https://x.example/about", scope="llm:use"'


@pytest.mark.parametrize(
    ("denial", "expected"),
    [
        pytest.param(Denial("missing_credential", challenges=("Bearer",)), ["Bearer"], id="no error code where no credential was sent"),
        pytest.param(Denial("key_expired", challenges=("Bearer",)), ['Bearer error="invalid_token"'], id="401"),
        pytest.param(Denial("repeated_credential", challenges=("Bearer",)), ['Bearer error="invalid_request"'], id="400"),
        pytest.param(
            Denial("insufficient_scope", need="llm:use llm:admin", challenges=('Bearer realm="llm"',)),
            ['Bearer realm="llm", error="insufficient_scope", scope="llm:use llm:admin"'],
            id="403 with the scopes that are needed",
        ),
        pytest.param(Denial("insufficient_scope", challenges=("Bearer",)), ['Bearer error="insufficient_scope"'], id="403 without them"),
        pytest.param(Denial("route_not_allowed", challenges=("Bearer",)), ["Bearer"], id="403 for another reason than scopes"),
        pytest.param(Denial("store_unavailable", challenges=("Bearer",)), ["Bearer"], id="503 says nothing about the credential"),
        pytest.param(
            Denial("key_expired", challenges=("Bearer", "Basic", "Bearer")), ['Bearer error="invalid_token"', "Basic"], id="each once"
        ),
        pytest.param(
            Denial("missing_credential", challenges=("Bearer", "DPoP", "Bearer")), ["Bearer", "DPoP"], id="each once, without a code"
        ),
        pytest.param(Denial("key_expired"), [], id="none"),
        pytest.param(
            Denial("missing_credential", challenges=("Bearer", LEADING, "Basic", "bearer")), [LEADING, "Basic"], id="one that leads the way"
        ),
        pytest.param(
            Denial("key_expired", challenges=("Bearer", LEADING)),
            ['Bearer resource_metadata="https://x.example/about", scope="llm:use", error="invalid_token"'],
            id="one that leads the way, with the error",
        ),
        pytest.param(
            Denial("insufficient_scope", need="llm:admin", challenges=(LEADING, "Bearer")),
            ['Bearer resource_metadata="https://x.example/about", scope="llm:admin", error="insufficient_scope"'],
            id="the scopes that are needed, in place of those that everybody needs",
        ),
        pytest.param(
            Denial("insufficient_scope", need='role "admin"', challenges=(LEADING,)),
            ['Bearer resource_metadata="https://x.example/about", scope="llm:use", error="insufficient_scope"'],
            id="words that are no scopes take the place of none",
        ),
        pytest.param(
            Denial("key_expired", challenges=('bearer Realm=llm, ERROR="x"',)),
            ['bearer realm="llm", error="invalid_token"'],
            id="no error twice",
        ),
        pytest.param(
            Denial("key_expired", challenges=('Bearer realm="a"', 'Bearer realm="b"')),
            ['Bearer realm="a", error="invalid_token"', 'Bearer realm="b", error="invalid_token"'],
            id="each realm",
        ),
        pytest.param(
            Denial("key_expired", challenges=("Negotiate a==", "Bearer realm=")),
            ["Negotiate a==", "Bearer realm="],
            id="as it is where it cannot be read",
        ),
    ],
)
def test_a_challenge_carries_the_error_of_a_bearer_credential(denial: Denial, expected: list[str]) -> None:
    assert expected == challenges(denial)


TOO_OLD = 'error="insufficient_user_authentication", error_description="The caller logged in too long ago for this request. Log in again."'
OTHER_MEANS = 'error="insufficient_user_authentication", error_description="The caller has to log in by other means for this request."'


@pytest.mark.parametrize(
    ("denial", "expected"),
    [
        pytest.param(
            Denial("authentication_too_old", need="a login 300 seconds ago at most", challenges=('Bearer realm="llm", max_age="300"',)),
            [f'Bearer realm="llm", max_age="300", {TOO_OLD}'],
            id="a login that is too old",
        ),
        pytest.param(
            Denial("authentication_class_not_accepted", challenges=("Bearer", LEADING, "Basic")),
            [f"{LEADING}, {OTHER_MEANS}", "Basic"],
            id="a login by other means",
        ),
        pytest.param(Denial("authentication_too_old", challenges=("TrustedHeader",)), ["TrustedHeader"], id="no bearer"),
    ],
)
def test_a_caller_who_has_to_log_in_anew_is_told_so_and_not_that_the_token_is_bad(denial: Denial, expected: list[str]) -> None:
    # RFC 9470 §3.
    assert expected == challenges(denial)


@pytest.mark.parametrize("need", ['a"b', "a\\b", "größe", "a\r\nset-cookie: x=1", "", " a", "a ", "a  b", 'role "admin"', "a\x7f"])
def test_words_that_are_no_scopes_cannot_end_the_parameter(need: str) -> None:
    assert ['Bearer error="insufficient_scope"'] == challenges(Denial("insufficient_scope", need=need, challenges=("Bearer",)))


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.sampled_from(sorted(REASONS)))
def test_a_challenge_is_always_well_formed(need: str, reason: str) -> None:
    for value in challenges(Denial(reason, need=need, challenges=("Bearer", 'Bearer realm="x"', LEADING, "Basic"))):
        assert re.fullmatch(r'[A-Za-z]+( [a-z_]+="[\x20\x21\x23-\x5b\x5d-\x7e]*"(, [a-z_]+="[\x20\x21\x23-\x5b\x5d-\x7e]*")*)?', value)
        # RFC 9110 §11.2: a parameter occurs once.
        names = re.findall(r'([a-z_]+)="', value)
        assert len(set(names)) == len(names)


# Retry-After.


@pytest.mark.parametrize(("seconds", "told"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (59.999, "60"), (86_400, "86400")])
def test_a_client_waits_for_whole_seconds_and_for_one_at_least(seconds: float, told: str) -> None:
    assert told == answer(Denial("store_unavailable", retry_after=seconds))[1]["retry-after"]


def test_a_client_is_not_told_to_wait_where_that_does_not_help() -> None:
    assert "retry-after" not in answer(Denial("key_revoked"))[1]


# Streams that are cut.


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_stream_ends_with_the_error_as_one_event(dialect: Dialect) -> None:
    denial = Denial("key_revoked", layer="keys")
    event = error_event(denial, scope(SPEAKERS[dialect]), REQUEST)
    name, _, data = event.rpartition(b"data: ")
    assert (b"event: error\n" if dialect == "anthropic" else b"") == name
    assert data.endswith(b"\n\n")
    assert b"\n" not in data[:-2]
    assert answer(denial, dialect)[2] == msgspec.json.decode(data)
