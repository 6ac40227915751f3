"""What a record shows of a path, and of a trace."""

import secrets
import string
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.audit.paths import MASK, MAX_PATH, masked, masked_path
from llm_authmw.audit.record_of import without_person
from llm_authmw.audit.trace_parent import trace_id_of
from llm_authmw.keys.format import mint_key

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"

CREDENTIALS = [
    JWT,
    "eyJhbGciOiJSUzI1NiJ9",
    "sk-1234",
    "sk-proj-abcdefgh",
    "sk-ant-api03-AbCdEf",
    "pk_live_abcdefgh",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "github_pat_11ABCDEFG",
    "glpat-20charsofsecrets",
    "xoxb-1234567890-abc",
    "AKIAIOSFODNN7EXAMPLE",
    "AIzaSyA-1234567890abcdef",
    "hf_abcdefghijklmnop",
    "Bearer abcdef",
    "token=abc",
    "api_key:abc",
    "access_token=x",
    "user:password@host",
    "d41d8cd98f00b204e9800998ecf8427e",
    "x" * 129,
]
HARMLESS = [
    "v1",
    "chat",
    "completions",
    "gpt-4o-mini-2024-07-18",
    "anthropic.claude-3-5-sonnet-20241022-v2:0",
    "gemini-2.5-pro-preview-05-06:streamGenerateContent",
    "InvokeModelWithResponseStream",
    "550e8400-e29b-41d4-a716-446655440000",
    "fine_tuning",
    "text-embedding-3-large",
    "meta-llama",
    "Llama-3.3-70B-Instruct-Turbo",
    "team-blue",
    "",
]


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_a_segment_that_looks_like_a_credential_is_masked(credential: str) -> None:
    assert f"/v1/{MASK}/models" == masked_path(f"/v1/{credential}/models")


@pytest.mark.parametrize("segment", HARMLESS)
def test_a_segment_of_a_route_is_shown(segment: str) -> None:
    assert f"/v1/{segment}" == masked_path(f"/v1/{segment}")


def test_every_key_of_ours_is_masked() -> None:
    for prefix in ("sk-", "acme-prod-", "a-"):
        for _ in range(50):
            key = mint_key(prefix=prefix).text
            assert MASK == masked_path(key) == masked(key)
            assert MASK == masked_path(f"x{key}y")


def test_nearly_every_random_text_is_masked() -> None:
    letters = string.ascii_letters + string.digits
    texts = [secrets.token_urlsafe(32) for _ in range(500)]
    texts += [secrets.token_hex(16) for _ in range(500)]
    texts += ["".join(secrets.choice(letters) for _ in range(40)) for _ in range(500)]
    assert sum(masked_path(text) != MASK for text in texts) <= 15


@given(st.text(max_size=5000))
def test_whatever_comes_is_shown_within_bounds(path: str) -> None:
    shown = masked_path(path)
    assert len(shown) <= MAX_PATH + 1 + len(MASK) * path.count("/") + len(MASK)
    assert masked(path) in (path, MASK)


def test_a_path_of_a_megabyte_is_looked_at_no_further_than_stated() -> None:
    assert masked_path("/a" * 500_000).endswith("…")
    assert MAX_PATH + 1 == len(masked_path("/a" * 500_000))
    assert f"/{MASK}…" == masked_path("/" + "a" * 1_000_000)


@pytest.mark.parametrize("model", ["gpt-4o", "ft:gpt-4o-mini-2024-07-18:acme::9AbCdEfGh1", "anthropic/claude-3-5-sonnet@20241022"])
def test_a_model_is_shown_unless_it_has_the_shape_of_a_credential(model: str) -> None:
    assert (model, MASK) == (masked(model), masked(f"{model}-sk-1234"))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("user:home/ada / requests / minute", "user / requests / minute"),
        ("caller:home/client%3Aapp / concurrent", "caller / concurrent"),
        ("team:blue+end_user:ada lovelace / tokens / day", "team:blue+end_user / tokens / day"),
        ("member:blue/ada+model:gpt-4o / tokens / day", "member+model:gpt-4o / tokens / day"),
        ("address:192.0.2.7", "address"),
        ("team:user:x / concurrent", "team:user:x / concurrent"),
        ("member", "member"),
    ],
)
def test_the_name_of_a_bucket_is_told_without_the_person_that_it_is_about(name: str, shown: str) -> None:
    assert shown == without_person(name)


TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [f"00-{TRACE}-{PARENT}-01".encode()] * 2,
        [f"00-{TRACE.upper()}-{PARENT}-01".encode()],
        [f"00-{'0' * 32}-{PARENT}-01".encode()],
        [f"00-{TRACE}-{'0' * 16}-01".encode()],
        [f"ff-{TRACE}-{PARENT}-01".encode()],
        [f"00-{TRACE}-{PARENT}-01-more".encode()],
        [f"00-{TRACE}-{PARENT}-01\n".encode()],
        [f" 00-{TRACE}-{PARENT}-01".encode()],
        [f"00-{TRACE[:-1]}-{PARENT}-01".encode()],
        [f"00-{TRACE}-{PARENT}".encode()],
        [f"00-{TRACE}-{PARENT}-0g".encode()],
        [f"01-{TRACE}-{PARENT}-01more".encode()],
        [f"01-{TRACE}-{PARENT}-01-".encode() + b"x" * 1_000_000],
        [b"\xff" * 55],
    ],
)
def test_what_is_no_trace_parent_names_no_trace(values: list[bytes]) -> None:
    assert trace_id_of(values) is None


@pytest.mark.parametrize(
    "value", [f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-ff", f"01-{TRACE}-{PARENT}-01", f"cc-{TRACE}-{PARENT}-01-what-will-be"]
)
def test_a_trace_parent_names_its_trace(value: str) -> None:
    assert TRACE == trace_id_of([value.encode()])


@given(st.binary(max_size=80))
def test_no_bytes_are_too_strange(value: bytes) -> None:
    found = trace_id_of([value])
    assert found is None or found.encode() == value[3:35]


@pytest.mark.parametrize(
    "text", ["x" * 2_048, "a" * 1_000 + ":" + "b" * 1_000, "a-" * 1_024, "a:b" * 680, "-0123456789abcdef" * 120, "ab:" * 680]
)
def test_a_long_name_is_looked_at_once_and_not_from_each_of_its_characters(text: str) -> None:
    def spent() -> float:
        began = time.process_time()
        for _ in range(20):
            masked(text)
        return time.process_time() - began

    # The square of its length takes more than ten times that.
    assert min(spent() for _ in range(3)) < 0.04


@pytest.mark.parametrize(
    "text", ["ada:secret@host", "x/ada:secret@host", "http://ada:secret@host", "a:b:c@d", "ada:se:cret@host", " a:b@c", "::a:b@c"]
)
def test_a_user_and_a_password_are_found_wherever_they_begin(text: str) -> None:
    assert MASK == masked(text)


@pytest.mark.parametrize("text", ["ada@host", "ada:@host", ":secret@host", "ada:secret", "ada:se/cret@host", "a b:@c"])
def test_half_of_a_user_and_a_password_is_none(text: str) -> None:
    assert text == masked(text)
