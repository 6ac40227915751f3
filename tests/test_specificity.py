from itertools import product

import pytest
from hypothesis import example as such_as
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.patterns import METHODS, RoutePattern
from llm_authmw.specificity import Specificity, conflict, example

SEGMENTS = st.sampled_from(["a", "b", "*"])
METHOD_LISTS = st.sampled_from(["", "GET ", "POST ", "GET,POST ", "HEAD ", "WS "])


@st.composite
def patterns(draw: st.DrawFn) -> RoutePattern:
    segments = draw(st.lists(SEGMENTS, max_size=3))
    end = draw(st.sampled_from(["", "/", "/**"])) if segments else draw(st.sampled_from(["/", "/**"]))
    return RoutePattern.parse(draw(METHOD_LISTS) + "".join(f"/{segment}" for segment in segments) + end)


METHODS_SENT = st.sampled_from(["GET", "HEAD", "POST", "WS", "OPTIONS", "PURGE"])
PATHS_SENT = st.lists(st.sampled_from(["a", "b", "c"]), max_size=5).map(lambda segments: "/" + "/".join(segments))

EVERY_REQUEST = [
    (method, "/" + "/".join(segments) + end)
    for method in ("GET", "HEAD", "POST", "WS", "PURGE")
    for length in range(5)
    for segments in product("abc", repeat=length)
    for end in (["", "/"] if segments else [""])
]
"""Requests in which whatever two patterns of the strategy have to do with each other shows."""


def covered(pattern: RoutePattern) -> set[tuple[str, str]]:
    return {request for request in EVERY_REQUEST if pattern.matches(*request)}


@given(patterns(), patterns())
def test_what_two_patterns_meet_in_is_what_both_cover(one: RoutePattern, other: RoutePattern) -> None:
    both = one.meet(other)
    assert covered(one) & covered(other) == (set() if both is None else covered(both))
    assert both == other.meet(one)


@given(patterns(), patterns())
def test_two_patterns_conflict_where_they_overlap_and_neither_is_within_the_other_one(one: RoutePattern, other: RoutePattern) -> None:
    first, second = covered(one), covered(other)
    clear = not first & second or first < second or second < first
    both = conflict(one, other)
    assert clear == (both is None)
    if both is not None:
        assert one.matches(*example(both))
        assert other.matches(*example(both))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("GET /a/*", "/a/b", "GET /a/b"),
        ("/a/*", "/*/b", "/a/b"),
        ("GET /**", "/v1/**", "GET /v1/**"),
        ("GET,POST /x", "POST,PUT /x", "POST /x"),
        ("/x", "/x", "/x"),
        ("GET /x", "GET,HEAD /x", "GET /x"),
        ("*", "/**", "/**"),
    ],
)
def test_of_two_that_only_overlap_neither_is_the_more_specific_one(one: str, other: str, both: str) -> None:
    assert both == str(conflict(RoutePattern.parse(one), RoutePattern.parse(other)))


@pytest.mark.parametrize(
    ("inner", "outer"),
    [
        ("/a/b", "/a/*"),
        ("/a", "/a/**"),
        ("/a/", "/a/**"),
        ("/a/*/**", "/a/**"),
        ("/a/**", "/**"),
        ("GET /a", "/a"),
        ("HEAD /a", "GET /a"),
        ("GET /a/b", "GET,POST /a/**"),
        ("/", "*"),
        ("/*", "/**"),
    ],
)
def test_the_inner_one_of_two_decides_in_either_order(inner: str, outer: str) -> None:
    one, other = RoutePattern.parse(inner), RoutePattern.parse(outer)
    assert conflict(one, other) is None
    assert 0 == Specificity([one, other]).find(*example(one))
    assert 1 == Specificity([other, one]).find(*example(one))


@pytest.mark.parametrize(("one", "other"), [("/a", "/a/"), ("/a/*", "/a"), ("/a/*", "/a/"), ("GET /a", "POST /a"), ("WS /a", "GET /a")])
def test_routes_that_have_nothing_in_common_do_not_conflict(one: str, other: str) -> None:
    assert RoutePattern.parse(one).meet(RoutePattern.parse(other)) is None


@given(st.lists(patterns(), max_size=6), METHODS_SENT, PATHS_SENT, st.booleans())
def test_no_pattern_that_covers_a_request_is_within_the_one_that_decides(
    some: list[RoutePattern], method: str, path: str, slash: bool
) -> None:
    path += "/" if slash and path != "/" else ""
    found = Specificity(some).find(method, path)
    covering = [pattern for pattern in some if pattern.matches(method, path)]
    assert (found is None) == (not covering)
    if found is not None:
        assert some[found] in covering
        assert not [pattern for pattern in covering if pattern != some[found] and pattern.meet(some[found]) == pattern]


# What the others leave of the first: "/a/"; paths of one segment more than any pattern has; nothing.
@such_as([RoutePattern.parse(text) for text in ("GET /a/**", "GET /a", "GET /a/*/**")])
@such_as([RoutePattern.parse(text) for text in ("GET /**", "GET /", "GET /*", "GET /*/")])
@such_as([RoutePattern.parse(text) for text in ("GET /a/**", "GET /a", "GET /a/", "GET /a/*/**")])
@given(st.lists(patterns(), min_size=1, max_size=5))
def test_a_pattern_that_decides_about_any_request_decides_about_one_of_its_samples(some: list[RoutePattern]) -> None:
    table = Specificity(some)
    decided = {table.find(*request) for request in EVERY_REQUEST} - {None}
    for number, pattern in enumerate(some):
        samples = list(table.requests_of(pattern))
        assert all(pattern.matches(*sample) for sample in samples)
        if number in decided:
            assert number in {table.find(*sample) for sample in samples}


@given(st.lists(patterns(), min_size=2, max_size=5))
def test_the_order_puts_a_pattern_before_every_one_that_it_is_within(some: list[RoutePattern]) -> None:
    order = Specificity(some).order
    assert sorted(order) == list(range(len(some)))
    for earlier, first in enumerate(order):
        for second in order[earlier + 1 :]:
            assert some[first] == some[second] or some[second].meet(some[first]) != some[second]


def test_without_patterns_nothing_is_found() -> None:
    assert Specificity([]).find("GET", "/") is None


@given(patterns(), st.lists(st.sampled_from(sorted(METHODS)), unique=True, min_size=1, max_size=3))
def test_a_pattern_is_what_it_prints(pattern: RoutePattern, methods: list[str]) -> None:
    assert pattern == RoutePattern.parse(str(pattern))
    text = f"{','.join(methods)} /a/*"
    assert RoutePattern.parse(text) == RoutePattern.parse(str(RoutePattern.parse(text)))
