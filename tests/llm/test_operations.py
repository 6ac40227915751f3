import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw import ConfigurationError, Denial
from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.model_names import model_name
from llm_authmw.llm.operation import Found
from llm_authmw.llm.operations import Operation, Operations
from llm_authmw.llm.requests import read_request


def found(operations: Operations, route: str) -> tuple[str, tuple[str, ...]] | None:
    """The name of the operation, and the models that the path names."""
    method, _, path = route.partition(" ")
    it = operations.find(method, path)
    return None if it is None else (it.operation.name, it.models)


def refused(operations: Operations, route: str) -> str:
    with pytest.raises(Denial) as caught:
        found(operations, route)
    return caught.value.reason


def outcome(operations: Operations, method: str, path: str) -> tuple[str | None, tuple[str, ...]]:
    """The reason of a denial, and the models that the path names."""
    try:
        it = operations.find(method, path)
    except Denial as denial:
        return denial.reason, ()
    return None, () if it is None else it.models


@pytest.mark.parametrize(
    ("route", "problem"),
    [
        ("", "is empty"),
        ("get tool", "is not a method"),
        ("HEAD tool", "is not a method"),
        ("GET,,POST tool", "is not a method"),
        ("POST  tool", "is not a method"),
        ("/tool", "none empty"),
        ("tool/", "none empty"),
        ("a//b", "none empty"),
        ("a/../b", "none empty"),
        ("a/./b", "none empty"),
        ("a;b", "none empty"),
        ("a%2fb", "none empty"),
        ("a?b", "none empty"),
        ("a\\b", "none empty"),
        ("tool*", "whole segments"),
        ("**", "whole segments"),
        ("tool/{name}", "whole segments"),
        ("tool/{model", "whole segments"),
        ("tool/x{model}", "whole segments"),
        ("tool/{model....}", "whole segments"),
        ("tool/{model}:", "whole segments"),
        ("tool/{model}:1x", "whole segments"),
        ("*", "literal"),
        ("{model}", "literal"),
        ("*/{model}", "literal"),
        ("{model}:run", "literal"),
        ("{model...}", "literal"),
        ("{model...}/run", "follows a literal"),
        ("*/{model...}/run", "follows a literal"),
        ("models/{model}:run/now", "in the last segment"),
        ("models/{model}/by/{model}", "at most names the model"),
    ],
)
def test_an_ending_outside_the_grammar_is_an_error_that_shows_it(route: str, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem) as caught:
        Operation(name="tool", routes=[route])

    assert "routes" == caught.value.option
    assert repr(route) in str(caught.value) or route == ""


@pytest.mark.parametrize(
    ("ceilings", "body", "read"),
    [
        (None, {"max_tokens": 5, "max_length": 7}, 5),
        (["max_tokens"], {"max_completion_tokens": 5}, None),
        (["max_tokens"], {"max_completion_tokens": 5, "max_tokens": 4}, 5),
        (["options.num_predict"], {"options": {"num_predict": 9}}, 9),
        (["options.num_predict"], {"num_predict": 9}, None),
        ([], {"max_tokens": 5}, None),
    ],
)
def test_a_ceiling_counts_where_the_operation_says_that_its_api_looks_for_one(
    ceilings: list[str] | None, body: dict[str, Any], read: int | None
) -> None:
    tool = Found(Operation(name="tool", routes=["tool"], ceilings=ceilings), ())
    assert read == read_request(tool, content_type=None, body=json.dumps(body).encode()).max_output_tokens


def test_an_operation_whose_body_is_not_looked_at_has_no_ceilings() -> None:
    operation = Operation(name="tool", routes=["tool"], body="none")
    assert [] == list(operation.ceilings or ())
    assert operation == msgspec.structs.replace(operation, name="tool")


@pytest.mark.parametrize(
    ("option", "changes"),
    [
        ("name", {"name": ""}),
        ("name", {"name": " tool"}),
        ("name", {"name": None}),
        ("name", {"name": "unlisted"}),
        ("routes", {"routes": []}),
        ("routes", {"routes": "tool"}),
        ("routes", {"routes": [1]}),
        ("dialect", {"dialect": "open"}),
        ("body", {"body": "xml"}),
        ("needs_model", {"needs_model": "no"}),
        ("streams", {"streams": 1}),
        ("model_fields", {"model_fields": "engine"}),
        ("model_fields", {"model_fields": ["engine"], "body": "none"}),
        ("model_fields", {"model_fields": ["engine"], "body": "mcp"}),
        ("ceilings", {"ceilings": "max_tokens"}),
        ("ceilings", {"ceilings": ["options."]}),
        ("ceilings", {"ceilings": ["max_tokens"], "body": "none"}),
    ],
)
def test_an_option_of_an_operation_that_is_wrong_or_would_be_ignored_is_an_error(option: str, changes: dict[str, Any]) -> None:
    options: dict[str, Any] = {"name": "tool", "routes": ["tool"]} | changes
    with pytest.raises(ConfigurationError) as caught:
        Operation(**options)

    assert option == caught.value.option


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("tool/run", "tool/run"),
        ("tool/run", "GET,POST tool/run"),
        ("tool/*", "tool/{model}"),
        ("tool/{model}/run", "tool/*/run"),
        ("tool/{model...}:run", "tool/{model...}:run"),
    ],
)
def test_two_operations_of_ones_own_with_one_ending_are_an_error_that_names_both(first: str, second: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Operations(Operation(name="mine", routes=[first]), Operation(name="yours", routes=[second]))

    assert "operations" == caught.value.option
    assert "'mine' and 'yours' both" in str(caught.value)


def test_an_operation_that_has_an_ending_twice_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="both"):
        Operations(Operation(name="tool", routes=["tool/*", "tool/{model}"]))


def test_something_else_than_an_operation_is_an_error() -> None:
    wrong: Any = "chat"
    with pytest.raises(ConfigurationError, match="not str"):
        Operations(wrong)


@pytest.mark.parametrize(
    "route",
    [
        "POST /",
        "POST /v1",
        "POST /v1/chatting",
        "POST /completions/chat",
        "POST /v1/chat/completions/more",
        "POST /v1/chatcompletions",
        "POST /v1/xchat/xcompletions",
        "POST /v1/chat_completions",
        "POST /v1/Chat/Completions",
        "POST /V1/CHAT/COMPLETIONS",
        "PUT /v1/chat/completions",
        "PATCH /v1/chat/completions",
        "WS /v1/chat/completions",
        "OPTIONS /v1/chat/completions",
        "post /v1/chat/completions",
        "ws /v1/realtime",
        "GET /v1/realtime",
        "BREW /v1/chat/completions",
        "POST chat",
        "POST ",
    ],
)
def test_a_path_that_ends_in_another_way_is_no_operation(route: str) -> None:
    assert found(Operations(), route) is None


def test_ones_own_operation_counts_where_it_has_the_ending_of_a_built_in_one() -> None:
    mine = Operation(name="mine", routes=["chat/completions"], body="none", needs_model=False)
    operations = Operations(mine)

    assert ("mine", ()) == found(operations, "POST /v1/chat/completions")
    # The others of the built-in operation stay, and so does what names a model in the path.
    assert ("chat", ("m",)) == found(operations, "POST /openai/deployments/m/chat/completions")
    assert ("completions", ()) == found(operations, "POST /v1/completions")


def test_an_operation_of_ones_own_takes_the_place_of_a_built_in_one_whatever_its_free_segments_are_called() -> None:
    mine = Operation(name="mine", routes=["GET responses/{model}"])

    assert ("mine", ("r1",)) == found(Operations(mine), "GET /v1/responses/r1")


def test_the_table_yields_ones_own_operations_and_then_the_built_in_ones() -> None:
    mine = Operation(name="mine", routes=["mine"])

    assert [mine, *BUILT_IN] == list(Operations(mine))


def test_routes_and_fields_are_lists_or_tuples_alike() -> None:
    lists = Operation(name="tool", routes=["POST tool/{model}"], model_fields=["engine"])

    assert Operation(name="tool", routes=("POST tool/{model}",), model_fields=("engine",)) == lists
    assert (("POST tool/{model}",), ("engine",)) == (lists.routes, lists.model_fields)


OWN = Operations(
    Operation(name="one", routes=["run/{model}", "GET run/{model}"]),
    Operation(name="several", routes=["go/{model...}/now", "GET go/{model...}", "go/{model...}:now"]),
    Operation(name="any", routes=["things/*/parts/*", "GET,DELETE,WS things/*"]),
    Operation(name="part", routes=["parts/last"]),
    Operation(name="colon", routes=["things:run", "runs/{model}:run", "GET run/{model}:status"]),
)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("POST /run/m", ("one", ("m",))),
        ("POST /x/y/run/m", ("one", ("m",))),
        ("POST /run/m/n", None),
        ("POST /run", None),
        ("GET /run/llama:8b", ("one", ("llama:8b",))),
        ("HEAD /run/llama:8b", ("one", ("llama:8b",))),
        ("POST /go/m/now", ("several", ("m",))),
        ("POST /go/a/b/c/now", ("several", ("a/b/c",))),
        ("POST /go/now", None),
        ("POST /go/now/now", ("several", ("now",))),
        ("GET /x/go/a/b", ("several", ("a/b",))),
        ("GET /go", None),
        ("POST /go/a/b:c:now", ("several", ("a/b:c",))),
        ("POST /go/a:now/b", None),
        ("POST /things/1/parts/2", ("any", ())),
        ("POST /x/parts/last", ("part", ())),
        ("GET /things/1", ("any", ())),
        ("HEAD /things/1", ("any", ())),
        ("DELETE /things/1", ("any", ())),
        ("WS /things/1", ("any", ())),
        ("POST /things/1", None),
        ("POST /v1/things:run", ("colon", ())),
        ("POST /x/y:z/things:run", ("colon", ())),
        ("POST /things/1/parts/things:run", ("colon", ())),
        ("POST /runs/things:run", ("colon", ())),
        ("POST /runs/a:run", ("colon", ("a",))),
        ("POST /runs/a:run:run", ("colon", ("a:run",))),
        ("GET /run/m:status", ("colon", ("m",))),
        ("GET /run/m:states", ("one", ("m:states",))),
        ("GET /x/m:status", None),
        ("GET /go/m:status", ("several", ("m:status",))),
        ("POST /runs/a/b:run", None),
        ("POST /runs/:run", None),
        # What stands before the first slash is no segment.
        ("POST things:run", None),
        ("POST run/m", None),
        ("POST go/m/now", None),
        ("POST go/a/m/now", None),
        ("GET go/m", None),
    ],
)
def test_what_stands_for_one_segment_is_one_and_what_stands_for_several_is_one_or_more(
    route: str, expected: tuple[str, tuple[str, ...]] | None
) -> None:
    assert expected == found(OWN, route)


PRECEDENCE = Operations(
    Operation(name="short", routes=["end"]),
    Operation(name="free", routes=["*/kind/*"]),
    Operation(name="literal", routes=["x/kind/end"]),
    Operation(name="model", routes=["by/{model...}/end", "at/{model}/kind/end"]),
)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("POST /end", ("short", ())),
        ("POST /other/end", ("short", ())),
        # A longer one goes before one that is literal further to the right, but not before one that is as long.
        ("POST /a/kind/end", ("free", ())),
        ("POST /x/kind/end", ("literal", ())),
        # One that finds a model goes before both.
        ("POST /by/kind/end", ("model", ("kind",))),
        ("POST /by/x/kind/end", ("model", ("x/kind",))),
        ("POST /at/x/kind/end", ("model", ("x",))),
    ],
)
def test_of_several_endings_that_fit_one_counts(route: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert expected == found(PRECEDENCE, route)


def test_two_endings_that_find_models_at_different_places_are_refused() -> None:
    assert "ambiguous_path" == refused(PRECEDENCE, "POST /by/at/x/kind/end")


@pytest.mark.parametrize(
    "route",
    ["POST /go/a/go/b/now", "POST /go/go/a/now", "GET /go/a/go/b", "POST /go/a/go/b:now"],
)
def test_a_path_with_two_places_where_the_models_name_may_begin_is_refused(route: str) -> None:
    assert "ambiguous_path" == refused(OWN, route)


@pytest.mark.parametrize("model", ["a b", "-a", "\uff41", "a,b", "a*", "{model}", "m" * 513, "a/" + "m" * 512])
def test_what_is_no_name_of_a_model_is_refused_in_a_path(model: str) -> None:
    assert "model_malformed" == refused(OWN, f"POST /go/{model}/now")


@pytest.mark.parametrize("action", ["", "Now", "now2", "stop", "now:"])
@pytest.mark.parametrize("path", ["/run/m", "/runs/m", "/go/m", "/go/a/m", "/things/1/parts/2"])
def test_an_action_that_is_not_known_is_not_taken_for_part_of_a_name(path: str, action: str) -> None:
    assert found(OWN, f"POST {path}:{action}") is None


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/openai/deployments/m/chat/completions", "/v1/models/a/b"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE", "WS"])
def test_one_slash_at_the_end_means_nothing(method: str, path: str) -> None:
    assert found(Operations(), f"{method} {path}") == found(Operations(), f"{method} {path}/")


METHODS = st.sampled_from(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS", "ws", "", "CHAT"])
WORDS = ["", "v1", "models", "go", "run", "now", "m:now", "a:b", ":", "things", "parts", "last", "chat", "completions", "deployments"]


@given(METHODS, st.text() | st.lists(st.sampled_from(WORDS) | st.text(max_size=3)).map(lambda segments: "/".join(["", *segments])))
def test_any_text_is_found_or_not_or_denied_and_models_that_are_found_have_the_grammar_of_names(method: str, path: str) -> None:
    for operations in (OWN, Operations()):
        reason, models = outcome(operations, method, path)
        assert reason in {None, "ambiguous_path", "model_malformed"}
        assert all(model == model_name(model) and model in path for model in models)


@pytest.mark.parametrize(
    "path", ["/" + "a" * 10_000, "/a" * 10_000, "/go" * 5_000 + "/x", "/v1/models/" + "m" * 10_000, "/" + ":" * 10_000, "/models" * 5_000]
)
@pytest.mark.parametrize("method", ["GET", "POST", "WS"])
def test_a_long_path_ends_in_an_answer_or_a_denial(method: str, path: str) -> None:
    reason, models = outcome(OWN, method, path)
    assert reason in {None, "ambiguous_path", "model_malformed"}
    assert () == models
