"""Sets of paths against the patterns and routers that they stand for."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import compile_path

from llm_authmw.inventory.earlier import Earlier
from llm_authmw.inventory.entries import Entry
from llm_authmw.inventory.paths import (
    ANY,
    EVERY_PATH,
    REST,
    One,
    Paths,
    covers,
    is_literal,
    literal,
    of_pattern,
    overlap,
    sample,
    shown,
)
from llm_authmw.patterns import METHODS, RoutePattern

NUMBER: Final = One("[0-9]+", "1")
SEGMENTS: Final = ("v1", "chat", "7", "")


def pattern(text: str) -> Paths:
    return of_pattern(RoutePattern.parse(text))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (pattern("/v1/**"), literal("/v1"), True),
        (pattern("/v1/**"), literal("/v1/a/b"), True),
        (pattern("/v1/*"), literal("/v1/a"), True),
        (pattern("/v1/*"), literal("/v1/"), False),
        (pattern("/v1/*"), literal("/v2/a"), False),
        (("v1", NUMBER), literal("/v1/7"), True),
        (("v1", NUMBER), literal("/v1/seven"), False),
        (("v1", ANY, REST), literal("/v1"), False),
        (("v1", ANY, REST), literal("/v1/"), True),
        ((REST, "chat", "completions"), ("v1", ANY, REST), True),
        ((REST, "chat", "completions"), ("v1", REST, "completions"), True),
        ((REST, "chat", "completions"), ("v1", REST, "embeddings"), False),
        (EVERY_PATH, literal("/"), True),
    ],
)
def test_two_sets_overlap_where_some_path_is_in_both(one: Paths, other: Paths, expected: bool) -> None:
    assert expected is overlap(one, other)
    assert expected is overlap(other, one)


@pytest.mark.parametrize(
    ("sets", "paths", "expected"),
    [
        ([pattern("/v1/**")], ("v1", ANY, REST), True),
        ([pattern("/v1/*")], ("v1", ANY, REST), False),
        ([pattern("/v1/*")], ("v1", One()), True),
        ([("v1", NUMBER)], ("v1", One()), False),
        ([("v1", NUMBER)], ("v1", NUMBER), True),
        ([("v1", One())], ("v1", NUMBER), True),
        ([("v1", NUMBER)], ("v1", "7"), True),
        ([literal("/a"), ("a", One(), REST)], ("a", REST), False),
        ([literal("/a"), ("a", ANY, REST)], ("a", REST), True),
        ([("a", One()), ("a", One(), ANY, REST)], ("a", One(), REST), True),
        ([(REST, "b")], (REST, "a", "b"), True),
        ([(REST, "a", "b")], (REST, "b"), False),
        ([EVERY_PATH], ("x", REST), True),
        ([], ("x",), False),
    ],
)
def test_sets_cover_paths_where_every_one_is_in_some_of_them(sets: list[Paths], paths: Paths, expected: bool) -> None:
    assert expected is covers(sets, paths)


def test_a_set_is_shown_as_a_pattern_and_by_one_of_its_paths() -> None:
    paths: Paths = ("v1", NUMBER, One(), "x", REST)

    assert "/v1/*/*/x/**" == shown(paths)
    assert "/v1/1/x/x" == sample(paths)
    assert not is_literal(paths)
    assert is_literal(literal("/v1/x"))


tokens = st.lists(st.sampled_from(["v1", "chat", "7", One(), NUMBER, ANY, REST]), max_size=4).map(tuple)
paths_given = st.lists(st.sampled_from(SEGMENTS), min_size=0, max_size=4).map(tuple)


def holds(paths: Paths, given_path: tuple[str, ...]) -> bool:
    """Say by trying every split whether a path is in a set; slow, and plain to see."""
    if not paths:
        return not given_path
    head, *tail = paths
    if head is REST:
        return any(holds(tuple(tail), given_path[cut:]) for cut in range(len(given_path) + 1))
    if not given_path:
        return False
    first = given_path[0]
    if head == NUMBER:
        fits = first.isdigit()
    elif isinstance(head, One):
        fits = first != ""
    else:
        fits = head in (ANY, first)
    return fits and holds(tuple(tail), given_path[1:])


@given(tokens, tokens, paths_given)
def test_what_is_in_both_makes_them_overlap(one: Paths, other: Paths, path: tuple[str, ...]) -> None:
    if holds(one, path) and holds(other, path):
        assert overlap(one, other)
    assert holds(one, path) == overlap(one, path)


@given(st.lists(tokens, max_size=3), tokens, paths_given)
def test_what_is_covered_has_no_path_outside(sets: list[Paths], paths: Paths, path: tuple[str, ...]) -> None:
    if covers(sets, paths) and holds(paths, path):
        assert any(holds(one, path) for one in sets)
    assert any(holds(one, path) for one in sets) == covers(sets, path)


@given(tokens, tokens)
def test_the_quick_look_never_passes_over_a_set_that_has_a_part_in_it(one: Paths, paths: Paths) -> None:
    earlier = Earlier()
    entry = Entry(methods=METHODS, paths=(one,), text="")
    earlier.add(entry)
    if overlap(one, paths) and covers([one], paths):
        assert [entry] == earlier.that_may_cover(paths)


@given(st.sampled_from(["/v1/{x}", "/v1/{x:path}", "/{x:int}/chat", "/v1/{x}/chat"]), paths_given.filter(bool))
def test_a_set_holds_what_starlette_matches(text: str, path: tuple[str, ...]) -> None:
    kinds: dict[str, Paths] = {
        "/v1/{x}": ("v1", One()),
        "/v1/{x:path}": ("v1", ANY, REST),
        "/{x:int}/chat": (NUMBER, "chat"),
        "/v1/{x}/chat": ("v1", One(), "chat"),
    }
    regex, _, _ = compile_path(text)
    assert (regex.match("/" + "/".join(path)) is not None) == covers([kinds[text]], path)
