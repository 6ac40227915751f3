"""What the pages say and the code knows: reason codes, public names, options, rooms, links."""

import inspect
import re
import tomllib
from pathlib import Path

import pytest

import llm_authmw
import llm_authmw.testing
from llm_authmw.accounts.records import AccountFields
from llm_authmw.keys.records import KeyFields
from llm_authmw.metrics.opentelemetry import OpenTelemetry
from llm_authmw.metrics.prometheus import PrometheusMetrics
from llm_authmw.reasons import REASONS
from llm_authmw.sinks.options import SinkOptions

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])

_LINK = re.compile(r"\[[^\]]+\]\((?P<target>[^)#\s]*)(?:#(?P<anchor>[^)\s]+))?\)")
_FENCED = re.compile(r"(?ms)^ *```.*?^ *```$")


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"(?m)^#+ (.+)$", _FENCED.sub("", _text(path)))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_errors_shows_the_table_of_reason_codes() -> None:
    rows = [
        f"| `{code}` | {reason.status} | {'itself' if reason.public is None else f'`{reason.public}`'} | {reason.message} |"
        for code, reason in REASONS.items()
    ]
    expected = "\n".join(["| code | status | told as | text |", "|---|---|---|---|", *rows])
    shown = re.search(r"(?s)differs -->\n\n(.*)\n\n<!-- end of reasons -->", _text(DOCS / "errors.md"))
    assert shown is not None
    assert expected == shown[1], f"docs/errors.md: between the comments, write\n\n{expected}"


def test_the_tree_of_exceptions_has_every_one() -> None:
    drawn = _text(DOCS / "errors.md").partition("AuthmwError\n├")[2].partition("```")[0]
    kinds = [value for value in vars(llm_authmw).values() if inspect.isclass(value) and issubclass(value, llm_authmw.AuthmwError)]
    assert {kind.__name__ for kind in kinds} - {"AuthmwError"} == set(re.findall(r"── (\w+)", drawn))


def test_the_reference_has_every_public_name_once_and_no_other() -> None:
    shown = re.findall(r"(?m)^::: ([\w.]+)$", _text(DOCS / "reference.md"))
    public = {f"llm_authmw.{name}" for name in llm_authmw.__all__ if name != "__version__"}
    public |= {f"llm_authmw.testing.{name}" for name in llm_authmw.testing.__all__}
    public |= {"llm_authmw.fastapi.CurrentPrincipal", "llm_authmw.fastapi.current_caller", "llm_authmw.tokens.verify_jws"}
    public |= {"llm_authmw.metrics.prometheus.PrometheusMetrics", "llm_authmw.metrics.opentelemetry.OpenTelemetry"}
    public |= {f"{fields.__module__}.{fields.__qualname__}" for fields in (KeyFields, AccountFields)}
    assert public == set(shown)
    assert len(public) == len(shown)


def test_the_page_of_the_key_layer_has_every_option() -> None:
    options = set(inspect.signature(llm_authmw.KeyAuthMiddleware).parameters) - {"app"}
    table = _text(DOCS / "layers" / "keys.md").partition("## Options")[2].partition("\n## ")[0]
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", table))


def test_the_page_of_stores_has_every_option() -> None:
    options = set(inspect.signature(llm_authmw.open_store).parameters) - {"url"}
    assert options == set(re.findall(r"(?m)^\| `(\w+)` \|", _text(DOCS / "stores.md")))


@pytest.mark.parametrize(
    ("page", "public"),
    [
        ("layers/audit.md", llm_authmw.AuditMiddleware),
        ("layers/brute-force.md", llm_authmw.BruteForceMiddleware),
        ("sinks.md", llm_authmw.FileSink),
        ("sinks.md", llm_authmw.FunctionSink),
        ("sinks.md", llm_authmw.Only),
        ("sinks-remote.md", llm_authmw.SyslogSink),
        ("sinks-remote.md", llm_authmw.HTTPSink),
        ("sinks-remote.md", llm_authmw.SplunkSink),
        ("metrics.md", PrometheusMetrics),
        ("metrics.md", OpenTelemetry),
        ("alerts.md", llm_authmw.Alerts),
        ("alerts.md", llm_authmw.Webhook),
    ],
)
def test_the_page_of_what_records_and_measures_has_every_option(page: str, public: type) -> None:
    named = {name for row in re.findall(r"(?m)^\|([^|]+)\|", _text(DOCS / page)) for name in re.findall(r"`(\w+)`", row)}
    assert set() == set(inspect.signature(public).parameters) - {"app", "options"} - named


def test_the_page_of_sinks_has_every_option_of_all_of_them() -> None:
    table = _text(DOCS / "sinks.md").partition("## Options")[2].partition("\n\nAnd these")[0]
    named = {name for row in re.findall(r"(?m)^\|([^|]+)\|", table) for name in re.findall(r"`(\w+)`", row)}
    assert set(SinkOptions.__annotations__) == named


def test_the_page_of_keys_has_every_field() -> None:
    table = _text(DOCS / "keys.md").partition("| field | meaning |")[2].partition("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert {*KeyFields.__annotations__, "tenant"} == named


def test_the_house_in_contributing_has_every_room() -> None:
    drawn = _text(ROOT / "CONTRIBUTING.md").partition("llm_authmw/\n")[2].partition("```")[0]
    package = ROOT / "llm_authmw"
    rooms = {path.name for path in package.glob("*.py")} | {f"{path.parent.name}/" for path in package.glob("*/__init__.py")}
    assert rooms - {"__init__.py"} == set(re.findall(r"(?:^ *| {2})([a-z_]+(?:/|\.py))(?= |$)", drawn, re.MULTILINE))


def test_the_two_tables_of_what_is_enforced_say_the_same() -> None:
    def decided(path: Path) -> dict[str, bool]:
        table = _text(path).partition("| what a key or an account carries |")[2].partition("\n\n")[0]
        rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
        return {subject.strip(): "**no**" in answer for subject, answer in rows}

    reporting, threats = decided(ROOT / "SECURITY.md"), decided(DOCS / "security.md")
    assert {subject for subject, refused in reporting.items() if refused} == {subject for subject, refused in threats.items() if refused}
    assert any(reporting.values())


@pytest.mark.parametrize("page", [pytest.param(page, id=page.relative_to(ROOT).as_posix()) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.finditer(_FENCED.sub("", _text(page))):
        if link["target"].startswith("https://"):
            continue
        target = (page.parent / link["target"]).resolve() if link["target"] else page
        assert target.is_file(), link[0]
        if link["anchor"] is not None:
            assert link["anchor"] in _anchors(target), link[0]


def test_no_page_names_a_version_that_is_not_this_one() -> None:
    assert f"## [{llm_authmw.__version__}]" in _text(ROOT / "CHANGELOG.md")
    assert tomllib.loads(_text(ROOT / "pyproject.toml"))["project"]["requires-python"] == ">=3.11"
    assert "Python 3.11" in _text(ROOT / "README.md")
