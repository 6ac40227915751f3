from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import ConfigurationError
from llm_authmw.names import name_problem, name_set, names

USABLE = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=20)


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("", id="nothing"),
        pytest.param("x" * 513, id="too long"),
        pytest.param("blue\nred", id="line break"),
        pytest.param("blue\u2028red", id="line separator"),
        pytest.param("blue\x00", id="NUL"),
        pytest.param("\x1b[31mblue", id="terminal escape"),
        pytest.param("blue\u202ered", id="writing direction"),
        pytest.param("blue\u200b", id="zero width"),
        pytest.param("blue\ud800", id="half a surrogate pair"),
        pytest.param(" blue", id="blank in front"),
        pytest.param("blue ", id="blank behind"),
        pytest.param("blue\u00a0", id="another blank behind"),
    ],
)
def test_a_name_that_could_be_taken_for_another_one_is_refused(value: str) -> None:
    assert name_problem(value) is not None
    with pytest.raises(ConfigurationError, match=r"^roles: has an entry that "):
        names("roles", [value])


@pytest.mark.parametrize("value", ["a", "x" * 512, "blue team", "größe", "日本", "🙂", "https://sso.example.com/realms/corp"])
def test_a_name_may_hold_anything_that_prints(value: str) -> None:
    assert name_problem(value) is None


def test_a_bare_string_is_never_read_letter_by_letter() -> None:
    with pytest.raises(ConfigurationError) as caught:
        names("models", "gpt-4o*")
    assert "models" == caught.value.option
    assert "models: takes a list of strings, and 'gpt-4o*' is a single one: write ['gpt-4o*']" == str(caught.value)


@pytest.mark.parametrize("value", [None, 7, b"blue", {"blue": 1}, iter(["blue"])])
def test_what_is_no_collection_of_strings_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes a list of strings, not "):
        names("roles", value)


@pytest.mark.parametrize("entry", [None, 7, b"blue", ["blue"]])
def test_an_entry_that_is_no_string_is_refused(entry: Any) -> None:
    with pytest.raises(ConfigurationError, match="takes strings only, not "):
        names("roles", ["red", entry])


@given(st.lists(USABLE))
def test_a_list_keeps_its_order_and_loses_its_repetitions(entries: list[str]) -> None:
    found = names("roles", [*entries, *entries])
    assert len(set(entries)) == len(found)
    assert sorted(set(entries), key=entries.index) == list(found)
    assert found == names("roles", tuple(entries))


@given(st.frozensets(USABLE))
def test_equal_sets_give_equal_tuples(entries: frozenset[str]) -> None:
    assert tuple(sorted(entries)) == names("roles", entries) == names("roles", set(entries)) == name_set("roles", list(entries))
