import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.authz.routes import MAX_REMEMBERED, RouteTable
from llm_authmw.patterns import METHODS, RoutePattern, route_allowed

SEGMENTS = ["a", "b", "v1", "*"]
METHOD_LISTS = ["", "GET ", "POST ", "GET,POST ", "WS ", "HEAD "]


def pattern(methods: str, segments: list[str], end: str) -> str:
    path = "".join(f"/{segment}" for segment in segments)
    return f"{methods}{path}{end or ('' if path else '/')}"


def path_of(segments: list[str], end: str) -> str:
    return f"/{'/'.join(segments)}{end if segments else ''}"


PATTERNS = st.just("*") | st.builds(
    pattern, st.sampled_from(METHOD_LISTS), st.lists(st.sampled_from(SEGMENTS), max_size=3), st.sampled_from(["", "/**"])
)
# A slash at the end is a segment of its own; before the rest it would be none.
ENDING_IN_A_SLASH = st.builds(
    pattern, st.sampled_from(METHOD_LISTS), st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=2), st.just("/")
)
# A client may send a star as well, which is a name like any other.
PATHS = st.builds(path_of, st.lists(st.sampled_from(["a", "b", "v1", "c", "*", "**"]), max_size=4), st.sampled_from(["", "/"]))
ROLES = st.lists(st.lists(PATTERNS | ENDING_IN_A_SLASH, max_size=4), max_size=5)


def table(roles: list[list[str]]) -> RouteTable:
    return RouteTable([[RoutePattern.parse(text) for text in texts] for texts in roles])


@given(ROLES, st.sampled_from([*sorted(METHODS), "BREW"]), PATHS)
def test_the_table_says_of_each_role_what_its_patterns_say(roles: list[list[str]], method: str, path: str) -> None:
    expected = [route_allowed([RoutePattern.parse(text) for text in texts], method, path) for texts in roles]
    compiled = table(roles)
    for _ in range(2):  # found, and remembered
        mask = compiled.mask(method, path)
        assert expected == [bool(mask >> number & 1) for number in range(len(roles))]
        assert mask < 1 << len(roles)


@given(ROLES, st.sampled_from([*sorted(METHODS), "BREW"]), PATHS)
def test_a_route_is_named_literally_by_patterns_without_a_wildcard_only(roles: list[list[str]], method: str, path: str) -> None:
    literal = [[RoutePattern.parse(text) for text in texts if "*" not in text] for texts in roles]
    mask = table(roles).literal(method, path)
    assert [route_allowed(patterns, method, path) for patterns in literal] == [bool(mask >> number & 1) for number in range(len(roles))]


def test_a_role_further_on_is_a_bit_further_left() -> None:
    compiled = table([["/a"], ["/b"], ["/*"]])
    assert compiled.mask("GET", "/a") == 0b101
    assert compiled.mask("GET", "/b") == 0b110
    assert compiled.mask("GET", "/") == 0


@pytest.mark.parametrize("path", ["/a/**", "/a/*"])
def test_a_star_that_a_client_sends_is_no_wildcard(path: str) -> None:
    assert table([["/a/b"], ["/a/b/**"]]).mask("GET", path) == 0


def test_a_path_much_deeper_than_any_pattern_is_answered() -> None:
    assert table([["/a/**"], ["/*/*"]]).mask("GET", "/a" * 30_000) == 0b01


def test_a_client_who_makes_up_paths_and_methods_fills_no_memory() -> None:
    compiled = table([["/a/**"]])
    for number in range(2 * MAX_REMEMBERED + 10):
        assert compiled.mask("GET", f"/a/{number}") == 1
    compiled.mask("GET", "/a/" + "x" * 10_000)
    compiled.mask("X" * 10_000, "/a")
    assert len(compiled._remembered) <= MAX_REMEMBERED
    assert max(len(method) + len(path) for method, path in compiled._remembered) < 300
