"""The table of the page on operations is the table of the code."""

from pathlib import Path

from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.operation import Operation

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
READ_AS = {"json": "JSON", "multipart": "a form, or JSON", "mcp": "JSON-RPC", "none": "–"}
BELOW = ("deployments/{model...}/", "engines/{model...}/")


def row(operation: Operation) -> str:
    routes = [
        f"`{route}` ◇" if f"{BELOW[0]}{route}" in operation.routes else f"`{route}`"
        for route in operation.routes
        if not route.startswith(BELOW)
    ]
    model = "needed" if operation.needs_model else "–"
    answer = "a stream" if operation.streams else ""
    return f"| `{operation.name}` | {', '.join(routes)} | {READ_AS[operation.body]} | {model} | {answer} |".replace("|  |", "| |")


def test_the_page_shows_every_built_in_operation_and_no_other() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = lines.index("| operation | routes | body | a model is | answer |")
    end = lines.index("", start)

    assert [row(operation) for operation in BUILT_IN] == lines[start + 2 : end]


def test_what_the_page_marks_is_found_below_a_deployment_and_below_an_engine() -> None:
    below = {prefix: {route.removeprefix(prefix) for it in BUILT_IN for route in it.routes if route.startswith(prefix)} for prefix in BELOW}

    assert below[BELOW[0]] == below[BELOW[1]]
    assert "chat/completions" in below[BELOW[0]]
    assert below[BELOW[0]] <= {route for operation in BUILT_IN for route in operation.routes}
