from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_authmw.errors import InvalidValueError
from llm_authmw.patterns import METHODS, ModelPattern, RoutePattern, canonical_route, is_canonical, model_allowed, route_allowed

SEGMENTS = st.text(alphabet="abv1.-_~ü", min_size=1, max_size=4).filter(lambda segment: segment not in {".", ".."})
PATHS = st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments)) | st.just("/")
METHOD_LISTS = st.lists(st.sampled_from(sorted(METHODS)), unique=True, max_size=3)


@st.composite
def routes(draw: st.DrawFn) -> tuple[str, list[str], list[str], bool]:
    """A pattern's text, and what it says: methods, segments, whether the rest is covered."""
    methods = draw(METHOD_LISTS)
    segments = draw(st.lists(SEGMENTS | st.just("*"), max_size=3))
    rest = draw(st.booleans()) or not segments
    path = "".join(f"/{segment}" for segment in segments) + ("/**" if rest else "")
    return (f"{','.join(methods)} {path}" if methods else path), methods, segments, rest


def covers(methods: list[str], segments: list[str], rest: bool, method: str, path: str) -> bool:
    """Say the same as `RoutePattern.matches`, segment after segment."""
    if methods and method not in methods and not (method == "HEAD" and "GET" in methods):
        return False
    given = path[1:].split("/")
    while segments:
        if not given or not (segments[0] == given[0] or (segments[0] == "*" and given[0])):
            return False
        segments, given = segments[1:], given[1:]
    return rest or not given


@given(routes(), st.sampled_from(sorted(METHODS)), PATHS, st.booleans())
def test_a_route_covers_exactly_what_its_text_says(
    route: tuple[str, list[str], list[str], bool], method: str, path: str, trailing_slash: bool
) -> None:
    text, methods, segments, rest = route
    path += "/" if trailing_slash and path != "/" else ""
    assert covers(methods, segments, rest, method, path) == RoutePattern.parse(text).matches(method, path)


@given(routes(), st.data())
def test_a_route_covers_the_paths_that_are_made_from_it(route: tuple[str, list[str], list[str], bool], data: st.DataObject) -> None:
    text, methods, segments, rest = route
    made = [data.draw(SEGMENTS) if segment == "*" else segment for segment in segments]
    made += data.draw(st.lists(SEGMENTS, max_size=2)) if rest else []
    method = data.draw(st.sampled_from(methods or sorted(METHODS)))
    assert RoutePattern.parse(text).matches(method, "/" + "/".join(made))


@given(st.lists(routes(), max_size=3), routes(), st.sampled_from(sorted(METHODS)), PATHS)
def test_one_more_route_takes_nothing_away(
    some: list[tuple[str, list[str], list[str], bool]], another: tuple[str, list[str], list[str], bool], method: str, path: str
) -> None:
    patterns = [RoutePattern.parse(text) for text, *_ in some]
    more = [*patterns, RoutePattern.parse(another[0])]
    assert route_allowed(more, method, path) >= route_allowed(patterns, method, path)


@pytest.mark.parametrize(
    ("text", "method", "path", "covered"),
    [
        ("*", "POST", "/v1/chat/completions", True),
        ("*", "WS", "/", True),
        ("/**", "DELETE", "/", True),
        ("/", "GET", "/", True),
        ("/", "GET", "/v1", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions", True),
        ("POST /v1/chat/completions", "GET", "/v1/chat/completions", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completions/", False),
        ("POST /v1/chat/completions", "POST", "/v1/chat/completionsx", False),
        ("POST /v1/chat/completions", "POST", "/v1/Chat/completions", False),
        ("POST /v1/chat/completions", "POST", "/x/v1/chat/completions", False),
        ("GET /v1/models", "HEAD", "/v1/models", True),
        ("HEAD /v1/models", "GET", "/v1/models", False),
        ("GET,POST /v1/files", "POST", "/v1/files", True),
        ("GET,POST /v1/files", "PUT", "/v1/files", False),
        ("/v1/files/*", "GET", "/v1/files/abc", True),
        ("/v1/files/*", "GET", "/v1/files/", False),
        ("/v1/files/*", "GET", "/v1/files", False),
        ("/v1/files/*", "GET", "/v1/files/abc/content", False),
        ("/v1/files/*/content", "GET", "/v1/files/abc/content", True),
        ("/v1/**", "GET", "/v1", True),
        ("/v1/**", "GET", "/v1/", True),
        ("/v1/**", "GET", "/v1/a/b/c", True),
        ("/v1/**", "GET", "/v10", False),
        ("/v1/", "GET", "/v1/", True),
        ("/v1/", "GET", "/v1", False),
        ("WS /v1/realtime", "WS", "/v1/realtime", True),
        ("WS /v1/realtime", "GET", "/v1/realtime", False),
        ("GET /v1/realtime", "WS", "/v1/realtime", False),
        ("/v1/models", "BREW", "/v1/models", True),
        ("GET /v1/models", "BREW", "/v1/models", False),
    ],
)
def test_the_grammar_of_routes(text: str, method: str, path: str, covered: bool) -> None:
    assert covered == RoutePattern.parse(text).matches(method, path)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "v1/models", "GET", "GET ", "GET *", "* /v1", "**", "GET v1", "http://host/v1", "//", "//v1", "/v1//models"),
        *("get /v1", "Get /v1", "BREW /v1", "CONNECT /v1", "TRACE /v1", "GET, POST /v1", "GET,,POST /v1", ",GET /v1", "GET, /v1", " /v1"),
        *("GET  /v1", "GET POST /v1", "GET\t/v1", "GET /v1 ", "GET /v1 x", "GET|POST /v1", "!GET /v1"),
        *("/v1/gpt*", "/v1/*x", "/v1/***", "/**/v1", "/v1/**/", "/**/**", "/v1/**x", "/v1//**", "/v1*"),
        *(
            "/v1/.",
            "/v1/..",
            "/../v1",
            "/./v1",
            "/v1?x=1",
            "/v1#top",
            "/v1;x",
            "/v1%2fmodels",
            "/v1\\models",
            "/v1\x00",
            "/v1\n",
            "/v1\u2028",
            "/v1\ufffd",
        ),
        "/{id}\u202e",
    ],
)
def test_a_text_that_is_no_route_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        RoutePattern.parse(text)


AMBIGUOUS = {
    "nothing": "",
    "no leading slash": "v1/models",
    "absolute form": "http://host/v1/models",
    "asterisk form": "*",
    "empty segment": "/v1//models",
    "empty segment in front": "//v1/models",
    "only slashes": "//",
    "empty segment behind": "/v1/models//",
    "dot segment": "/v1/./models",
    "dot segment behind": "/v1/.",
    "two dots": "/v1/../admin",
    "two dots behind": "/v1/..",
    "two dots in front": "/../v1/models",
    "dots with a parameter": "/v1/..;/admin",
    "parameter": "/v1/models;x=1",
    "backslash": "/v1\\models",
    "fragment": "/v1/models#x",
    "query": "/v1/models?x=1",
    "percent that is left after decoding": "/v1%2fmodels",
    "NUL": "/v1/models\x00",
    "line break": "/v1/models\r\nx: y",
    "tabulator": "/v1\t/models",
    "delete": "/v1/models\x7f",
    "bytes that are no UTF-8": "/v1/\ufffd",
    "line separator": "/v1/models\u2028",
    "writing direction": "/v1/\u202emodels",
    "another blank": "/v1/models\u00a0",
}


def scope(path: str, **changes: Any) -> dict[str, Any]:
    return {"type": "http", "method": "GET", "path": path, **changes}


@pytest.mark.parametrize("path", AMBIGUOUS.values(), ids=AMBIGUOUS.keys())
def test_a_path_that_two_readers_may_read_in_two_ways_is_refused(path: str) -> None:
    assert not is_canonical(path)
    assert canonical_route(scope(path)) is None
    assert canonical_route(scope(path, root_path="/v1")) is None


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/models", "/v1/a b", "/v1/größe", "/v1/models/gpt-4o:generate", "/...", "/.x/x.", "/@a,b=c&d!"]
)
def test_a_path_with_one_reading_is_taken_as_it_is(path: str) -> None:
    assert is_canonical(path)
    assert ("GET", path) == canonical_route(scope(path))


@pytest.mark.parametrize("raw", [b"/v1%2fmodels", b"/v1%2Fmodels", b"/v1/%5cmodels", b"/v1/%5Cmodels", b"/v1/models%00"])
def test_an_encoded_separator_is_seen_although_servers_decode_it(raw: bytes) -> None:
    assert canonical_route(scope("/v1/models", raw_path=raw)) is None


@pytest.mark.parametrize("raw", [None, b"", b"/v1/models", b"/v1/%6dodels", b"/v1/%C3%BC"])
def test_other_encodings_are_what_they_decode_to(raw: bytes | None) -> None:
    assert ("GET", "/v1/models") == canonical_route(scope("/v1/models", raw_path=raw))


@pytest.mark.parametrize(
    ("path", "root", "below"),
    [
        ("/proxy/v1/models", "/proxy", "/v1/models"),
        ("/proxy", "/proxy", "/"),
        ("/proxy/", "/proxy", "/"),
        ("/proxyv1/models", "/proxy", "/proxyv1/models"),
        ("/v1/models", "/proxy", "/v1/models"),
        ("/v1/models", "", "/v1/models"),
        ("/v1/models", None, "/v1/models"),
        ("/a/b/c", "/a/b", "/c"),
        ("/a/a/c", "/a", "/a/c"),
        ("/proxy/v1", "/proxy/", "/proxy/v1"),
    ],
)
def test_a_mount_is_taken_off_the_path_as_starlette_does(path: str, root: str | None, below: str) -> None:
    assert ("GET", below) == canonical_route(scope(path, root_path=root))


@pytest.mark.parametrize("root", ["/t/..", "/t/.", "/t/a;b", "/t/a\\b", "/t//x", "/t/%2e"])
def test_what_a_client_sends_as_a_parameter_of_a_mount_is_judged_too(root: str) -> None:
    assert canonical_route(scope(f"{root}/v1/models", root_path=root)) is None


def test_the_method_is_in_upper_case_and_a_websocket_has_its_own() -> None:
    assert ("POST", "/v1") == canonical_route(scope("/v1", method="post"))
    assert ("WS", "/v1") == canonical_route({"type": "websocket", "path": "/v1"})


@pytest.mark.parametrize("method", ["WS", "ws", "Ws"])
def test_a_client_cannot_invent_the_method_of_a_websocket(method: str) -> None:
    route = canonical_route(scope("/v1/realtime", method=method))
    assert route is not None
    assert not route_allowed([RoutePattern.parse("WS /v1/realtime"), RoutePattern.parse("GET,WS /v1/**")], *route)


@given(st.text(max_size=12).map("/".__add__))
def test_a_canonical_path_has_no_segment_that_a_router_would_resolve(path: str) -> None:
    if is_canonical(path):
        segments = path[1:].split("/")
        assert not {"", ".", ".."} & set(segments[:-1])
        assert segments[-1] not in {".", ".."}
        assert not set(path) & set("\\#?;%\ufffd")
        assert path.isprintable()


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ((), "gpt-4o", False),
        (("*",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o", True),
        (("gpt-4o",), "gpt-4o-mini", False),
        (("gpt-4o",), "GPT-4o", False),
        (("gpt-4o",), "openai/gpt-4o", False),
        (("gpt-4o*",), "gpt-4o", True),
        (("gpt-4o*",), "gpt-4o-mini", True),
        (("gpt-4o*",), "gpt-4", False),
        (("gpt-4o*", "claude-3"), "claude-3", True),
        (("*", "!gpt-4o"), "gpt-4o", False),
        (("!gpt-4o", "*"), "gpt-4o", False),
        (("!gpt-4o", "gpt-4o"), "gpt-4o", False),
        (("*", "!gpt-4o"), "gpt-4o-mini", True),
        (("*", "!o1*"), "o1-preview", False),
        (("!o1*",), "gpt-4o", False),
        (("*", "!*"), "gpt-4o", False),
    ],
)
def test_a_model_is_allowed_when_some_pattern_includes_it_and_none_excludes_it(
    patterns: tuple[str, ...], model: str, allowed: bool
) -> None:
    assert allowed == model_allowed([ModelPattern.parse(text) for text in patterns], model)


@pytest.mark.parametrize(
    "text",
    ["", "!", "!!gpt", "gpt*o", "*gpt", "gpt**", "**", "gpt!", "g!pt", "! gpt", " gpt", "gpt ", "gpt *", "gpt\n", "x" * 513, "\x00*"],
)
def test_a_text_that_is_no_model_pattern_is_refused(text: str) -> None:
    with pytest.raises(InvalidValueError):
        ModelPattern.parse(text)


MODEL_NAMES = st.text(alphabet="abo14-./:", min_size=1, max_size=6)


@given(st.lists(st.tuples(st.booleans(), MODEL_NAMES, st.booleans()), max_size=4), MODEL_NAMES)
def test_model_patterns_agree_with_what_their_text_says(patterns: list[tuple[bool, str, bool]], model: str) -> None:
    texts = [("!" if excludes else "") + name + ("*" if prefix else "") for excludes, name, prefix in patterns]
    hits = [excludes for excludes, name, prefix in patterns if model == name or (prefix and model[: len(name)] == name)]
    assert (bool(hits) and not any(hits)) == model_allowed([ModelPattern.parse(text) for text in texts], model)
