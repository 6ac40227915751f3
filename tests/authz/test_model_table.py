import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.authz.models import MAX_REMEMBERED, NameTable, ambiguous_resource, parse_tool
from llm_authmw.errors import InvalidValueError
from llm_authmw.patterns import ModelPattern, model_allowed

# Few letters: prefixes of prefixes, and names that sort between a prefix and what begins with it.
NAMES = st.text(alphabet="ab-", min_size=1, max_size=5)
PATTERNS = st.just("*") | st.tuples(st.sampled_from(["", "", "!"]), NAMES, st.sampled_from(["", "*"])).map("".join)
ROLES = st.lists(st.lists(PATTERNS, max_size=6), max_size=6)


def table(roles: list[list[str]]) -> NameTable:
    return NameTable([[ModelPattern.parse(text) for text in texts] for texts in roles])


@given(ROLES, NAMES | st.just(""))
def test_the_table_says_of_each_role_what_its_patterns_say(roles: list[list[str]], name: str) -> None:
    expected = [model_allowed([ModelPattern.parse(text) for text in texts], name) for texts in roles]
    compiled = table(roles)
    for _ in range(2):  # found, and remembered
        mask = compiled.mask(name)
        assert expected == [bool(mask >> number & 1) for number in range(len(roles))]
        assert mask < 1 << len(roles)


@given(ROLES, NAMES)
def test_a_role_without_restriction_allows_every_name(roles: list[list[str]], name: str) -> None:
    compiled = table(roles)
    assert compiled.unrestricted & compiled.mask(name) == compiled.unrestricted


@pytest.mark.parametrize(
    ("patterns", "unrestricted"),
    [(["*"], True), (["gpt-4o", "*"], True), (["*", "!o3"], False), (["gpt*"], False), ([], False), (["!*", "*"], False)],
)
def test_only_a_bare_star_that_nothing_is_excluded_from_is_no_restriction(patterns: list[str], unrestricted: bool) -> None:
    assert unrestricted == bool(table([patterns]).unrestricted)


def test_of_nested_prefixes_each_one_that_matches_counts() -> None:
    compiled = table([["gpt*"], ["gpt-4*"], ["gpt-4o*"], ["gpt-4o"], ["gpt-4*", "!gpt-4o*"]])
    assert compiled.mask("gpt-4o-mini") == 0b00111
    assert compiled.mask("gpt-4o") == 0b01111
    assert compiled.mask("gpt-4.1") == 0b10011
    assert compiled.mask("gpt-5") == 0b00001
    assert compiled.mask("gp") == 0


def test_names_are_compared_exactly() -> None:
    compiled = table([["gpt-4o"], ["openai/*"]])
    for name in ("GPT-4o", "gpt-4o ", " gpt-4o", "gpt-4o\n", "openai", "OpenAI/gpt-4o", "x/openai/gpt-4o", ""):
        assert compiled.mask(name) == 0, name


def test_a_client_who_makes_up_names_fills_no_memory() -> None:
    compiled = table([["m*"]])
    for number in range(2 * MAX_REMEMBERED + 10):
        assert compiled.mask(f"m{number}") == 1
    compiled.mask("m" * 10_000)
    assert len(compiled._remembered) <= MAX_REMEMBERED
    assert max(map(len, compiled._remembered)) <= 512


@pytest.mark.parametrize(
    ("text", "name", "matches"),
    [
        ("web_search", "web_search", True),
        ("web_search", "web_search_preview", False),
        ("get_*", "get_weather", True),
        ("get_*", "GET_weather", False),
        ("prompt:*", "prompt:greeting", True),
        ("prompt:*", "greeting", False),
        ("resource:file:///docs/*", "resource:file:///docs/a.md", True),
        ("resource:file:///docs/*", "resource:file:///etc/passwd", False),
        ("*", "anything", True),
    ],
)
def test_the_grammar_of_tools(text: str, name: str, matches: bool) -> None:
    assert matches == parse_tool(text).matches(name)


@pytest.mark.parametrize("text", ["", "!", "get*all", "**", "!!search", "a!b", " search", "search ", "a\nb", "x" * 600])
def test_a_text_that_is_no_pattern_of_tools_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        parse_tool(text)


@pytest.mark.parametrize(
    ("tool", "ambiguous"),
    [
        ("resource:file:///docs/a.md", False),
        ("resource:file:///docs/.hidden", False),
        ("resource:file:///docs/a..b", False),
        ("resource:file:///docs/a%20b", False),
        ("resource:file:///docs/../etc/passwd", True),
        ("resource:file:///docs/..", True),
        ("resource:file:///docs/./a", True),
        ("resource:file:///docs/..;x/a", True),
        ("resource:file:///docs/..?x", True),
        ("resource:file:///docs/%2e%2E/etc", True),
        ("resource:file:///docs/..%2Fetc", True),
        ("resource:file:///docs/%252e/etc", True),
        ("resource:file:///docs/..\\etc", True),
        ("resource:../etc", True),
        ("prompt:../x", False),
        ("get_../x", False),
    ],
)
def test_a_resource_that_leads_elsewhere_than_it_begins_is_told(tool: str, ambiguous: bool) -> None:
    assert ambiguous == ambiguous_resource(tool)
