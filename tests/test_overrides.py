from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.header_names import ORDINARY, fold
from llm_authmw.overrides import OVERRIDES, remove_overrides

# Spelt out here, so that a name that is dropped from the table is missed.
NAMES = [
    *("x-http-method", "x-http-method-override", "x-method-override", "x-original-method"),
    *("x-original-url", "x-original-uri", "x-rewrite-url"),
]
BESIDE = [(b"host", b"llm.example"), (b"x-stainless-lang", b"python"), (b"X-Request-Id", b"7"), (b"x-http", b"kept")]


def scope_with(*lines: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http", "headers": [*BESIDE, *lines]}


@pytest.mark.parametrize("name", NAMES)
def test_a_header_that_rewrites_the_request_is_taken_out_in_every_spelling(name: str) -> None:
    for spelt in (name, name.upper(), name.title(), name.replace("-", "_"), f" {name}."):
        line = (spelt.encode(), b"DELETE")
        scope = scope_with(line, line)
        remove_overrides(scope)
        assert BESIDE == scope["headers"]


def test_the_servers_own_list_of_headers_is_not_touched() -> None:
    scope = scope_with((b"x-rewrite-url", b"/admin"))
    held = scope["headers"]
    remove_overrides(scope)
    assert [*BESIDE, (b"x-rewrite-url", b"/admin")] == held


def test_a_request_without_one_keeps_the_very_list_that_it_has() -> None:
    scope = scope_with()
    held = scope["headers"]
    remove_overrides(scope)
    assert held is scope["headers"]


def test_no_ordinary_header_is_one() -> None:
    assert {name for name in ORDINARY if fold(name) in OVERRIDES} == set()


@given(st.lists(st.tuples(st.binary(max_size=30) | st.sampled_from(sorted(OVERRIDES | ORDINARY)), st.just(b"x")), max_size=6))
def test_what_is_left_is_every_other_line_in_its_order(lines: list[tuple[bytes, bytes]]) -> None:
    scope: dict[str, Any] = {"headers": lines}
    remove_overrides(scope)
    assert [line for line in lines if fold(line[0]) not in OVERRIDES] == scope["headers"]
