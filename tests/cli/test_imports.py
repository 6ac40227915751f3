import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from click.testing import Result

from llm_authmw.cli.rows import COLUMNS
from llm_authmw.errors import StoreUnavailableError
from llm_authmw.keys.format import mint_key
from llm_authmw.keys.records import KeyFields
from llm_authmw.keys.service import KeyService

Run = Callable[..., Result]

KEY = "sk-litellm-3f9a8b7c6d5e4f3a2b1c"
SHA256 = hashlib.sha256(KEY.encode()).hexdigest()
ANOTHER = hashlib.sha256(b"another").hexdigest()
THIRD = hashlib.sha256(b"third").hexdigest()


def listed(run: Run) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("keys", "list", "--json").stdout)["keys"]
    return found


def test_a_digest_is_imported_with_its_fields(run: Run) -> None:
    answer = json.loads(
        run("keys", "import", "--sha256", SHA256.upper(), "--last-four", "2b1c", "--tenant", "acme", "--team", "blue", "--json").stdout
    )

    assert {
        "tenant": "acme",
        "team": "blue",
        "last_four": "2b1c",
        "imported": True,
        "key": None,
        "replayed": False,
    }.items() <= answer.items()
    assert SHA256 not in json.dumps(answer)
    assert [answer["id"]] == [key["id"] for key in listed(run)]


def test_a_key_is_imported_from_standard_input_and_never_printed(run: Run) -> None:
    result = run("keys", "import", "--read-key", "--name", "old", input=f"{KEY}\n")

    (key,) = listed(run)
    assert f"{key['id']} (old) is imported\n" == result.stdout
    assert (True, "2b1c") == (key["imported"], key["last_four"])
    for secret in (KEY, SHA256):
        assert secret not in result.output
        assert secret not in run("keys", "show", key["id"]).output
        assert secret not in run("keys", "show", key["id"], "--json").output


def test_a_text_and_its_digest_are_the_same_key(run: Run) -> None:
    first = run("keys", "import", "--read-key", "--quiet", input=KEY).stdout.strip()

    again = run("keys", "import", "--sha256", SHA256)

    assert [first] == [key["id"] for key in listed(run)]
    assert f"{first} was imported before; nothing changed\n" == again.stdout


def test_a_key_of_another_tenant_is_not_taken_over(run: Run) -> None:
    run("keys", "import", "--sha256", SHA256, "--tenant", "acme")

    assert "another tenant has imported this key" in run("keys", "import", "--sha256", SHA256, exit_code=1).stderr


@pytest.mark.parametrize(
    ("problem", "options", "given"),
    [
        ("64 hexadecimal digits", ("--sha256", KEY), ""),
        ("64 hexadecimal digits", ("--sha256", "zz" * 32), ""),
        ("at most four characters", ("--sha256", SHA256, "--last-four", "12345"), ""),
        ("16 to 512 printable ASCII characters", ("--read-key",), "short"),
        ("16 to 512 printable ASCII characters", ("--read-key",), ""),
        ("16 to 512 printable ASCII characters", ("--read-key",), "k" * 513),
        ("16 to 512 printable ASCII characters", ("--read-key",), "k" * 10_000),
        ("16 to 512 printable ASCII characters", ("--read-key",), f"{KEY}\n{KEY}\n"),
        pytest.param("of our own form", ("--read-key",), mint_key().text, id="of our own form"),
    ],
)
def test_what_cannot_be_imported_is_refused_without_repeating_it(
    run: Run, directory: Path, problem: str, options: tuple[str, ...], given: str
) -> None:
    result = run("keys", "import", *options, exit_code=1, input=given)

    assert problem in result.stderr
    assert KEY not in result.output
    assert given[:40] == "" or given[:40] not in result.output
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--sha256", SHA256, "--read-key"),
        ("--read-key", "--last-four", "2b1c"),
        ("--file", "-", "--quiet"),
        ("--file", "missing.jsonl"),
    ],
)
def test_an_import_of_nothing_or_of_two_things_is_a_wrong_command_line(run: Run, options: tuple[str, ...]) -> None:
    run("keys", "import", *options, exit_code=2)


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_a_key_given_as_an_argument_is_not_printed_back(run: Run, as_json: tuple[str, ...]) -> None:
    result = run("keys", "import", KEY, *as_json, exit_code=2)

    assert KEY not in result.output
    assert "unexpected extra argument" in result.stderr


def test_json_lines_are_imported_and_each_line_is_reported(run: Run, directory: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"sha256": SHA256, "name": "a\u2028b", "roles": ["x"]},
        {"sha256": ANOTHER, "name": "ok", "models": None, "routes": [], "expires_at": "2030-01-31", "not_before": 1_893_456_000},
        {"sha256": ANOTHER},
        {"sha256": THIRD, "limits": ["60 requests/minute", "4 concurrent"], "metadata": {"a": "b"}, "tenant": "other"},
    ]
    text = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (directory / "keys.jsonl").write_text(f"\ufeff{text}\n{{broken\n", encoding="utf-8")

    result = run("keys", "import", "--file", "keys.jsonl", "--tenant", "acme", "--model", "gpt-4o", exit_code=1)

    lines = result.stdout.splitlines()
    third, second = listed(run)
    assert "line 1: refused (name holds a character that does not print)" == lines[0]
    assert [f"line 3: imported {second['id']}", f"line 5: replayed {second['id']}", f"line 7: imported {third['id']}"] == lines[1:4]
    assert lines[4].startswith("line 8: refused (JSON is malformed")
    assert "2 imported, 1 replayed, 2 refused" == result.stderr.splitlines()[-1]
    # A row that says something wins over the option, also by saying null.
    assert ("acme", None, [], 1_896_048_000.0, 1_893_456_000.0) == tuple(
        second[field] for field in ("tenant", "models", "routes", "expires_at", "not_before")
    )
    assert ("other", ["gpt-4o"], {"a": "b"}) == (third["tenant"], third["models"], third["metadata"])


def test_csv_is_imported_with_lists_in_cells(run: Run, directory: Path) -> None:
    (directory / "keys.csv").write_text(
        "sha256,name,limits,tags,metadata,expires_at,models\r\n"
        f'{SHA256},first,"60 requests/minute, burst 5;4 concurrent",b; a,a=1;b=2,2030-01-31,\r\n'
        "\r\n"
        f"{ANOTHER},second,,,,never,gpt-4o\r\n",
        encoding="utf-8-sig",
    )

    result = run("keys", "import", "--file", "keys.csv")

    second, first = listed(run)
    assert [f"line 2: imported {first['id']}", f"line 4: imported {second['id']}"] == result.stdout.splitlines()
    assert ["60 requests/minute, burst 5", "4 concurrent"] == first["limits"]
    assert (["a", "b"], {"a": "1", "b": "2"}, 1_896_048_000.0, None) == tuple(
        first[field] for field in ("tags", "metadata", "expires_at", "models")
    )
    assert ([], [], {}, None, ["gpt-4o"]) == tuple(second[field] for field in ("limits", "tags", "metadata", "expires_at", "models"))


def test_a_bulk_import_answers_in_one_json_object(run: Run) -> None:
    rows = f'{{"sha256": "{SHA256}"}}\n{{"sha256": "nonsense"}}\n'

    result = run("keys", "import", "--file", "-", "--json", exit_code=1, input=rows)
    again = run("keys", "import", "--file", "-", "--json", input=rows.splitlines()[0])

    (key,) = listed(run)
    refusal = {"code": "invalid_value", "message": "a SHA-256 is 64 hexadecimal digits"}
    assert {
        "imported": 1,
        "replayed": 0,
        "refused": 1,
        "rows": [
            {"line": 1, "result": "imported", "id": key["id"], "error": None},
            {"line": 2, "result": "refused", "id": None, "error": refusal},
        ],
    } == json.loads(result.stdout)
    assert (0, 1, 0) == tuple(json.loads(again.stdout)[word] for word in ("imported", "replayed", "refused"))


@pytest.mark.parametrize(
    ("problem", "content"),
    [
        ("holds no rows", "sha256,name\n"),
        ("column 2 is none of them", f"sha256,key\n{SHA256},{KEY}\n"),
        ("column 1 is none of them", f"{KEY},{SHA256}\n"),
        ("sha256 is missing", "name,team\na,b\n"),
        ("a column comes twice", "sha256,sha256\na,b\n"),
        ("sha256 is missing", ""),
        ("one object a line", f'[{{"sha256": "{SHA256}"}}]'),
        ("is not CSV", f'sha256,name\n{SHA256},"unclosed\n'),
        ("byte 8 is not text", b"sha256,\xff\n"),
    ],
)
def test_a_file_that_is_neither_is_refused_as_a_whole(run: Run, directory: Path, problem: str, content: str | bytes) -> None:
    result = run("keys", "import", "--file", "-", exit_code=1, input=content)

    assert problem in result.stderr
    assert KEY not in result.output
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize(
    ("problem", "row"),
    [
        ("unknown field `key`", {"sha256": SHA256, "key": KEY}),
        ("unknown field `status`", {"sha256": SHA256, "status": "blocked"}),
        ("missing required field `sha256`", {"name": KEY}),
        ("Expected `str`", {"sha256": 7}),
        ("Expected `array", {"sha256": SHA256, "roles": KEY}),
        ("is not a network", {"sha256": SHA256, "networks": [KEY]}),
        ("expires_at: 'sk-l…' is not a moment", {"sha256": SHA256, "expires_at": KEY}),
        ("64 hexadecimal digits", {"sha256": KEY}),
        ("at most four characters", {"sha256": SHA256, "last_four": KEY}),
    ],
)
def test_a_row_that_cannot_be_imported_is_refused_without_quoting_a_key(run: Run, problem: str, row: dict[str, object]) -> None:
    result = run("keys", "import", "--file", "-", exit_code=1, input=json.dumps(row))

    assert "line 1: refused (" in result.stdout
    assert problem in result.stdout
    assert KEY not in result.output


@pytest.mark.parametrize(
    ("problem", "cells"), [("has 1 cells", SHA256), ("has 3 cells", f"{SHA256},a=1,x"), ("metadata is NAME=VALUE", f"{SHA256},a")]
)
def test_a_csv_row_that_does_not_fit_its_header_is_refused_and_the_next_one_imported(run: Run, problem: str, cells: str) -> None:
    result = run("keys", "import", "--file", "-", exit_code=1, input=f"sha256,metadata\n{cells}\n{ANOTHER},\n")

    first, second = result.stdout.splitlines()
    assert problem in first
    assert second.startswith("line 3: imported ")


@pytest.mark.parametrize("as_json", [(), ("--json",)])
def test_an_import_stops_where_the_store_fails_and_says_where(run: Run, monkeypatch: pytest.MonkeyPatch, as_json: tuple[str, ...]) -> None:
    rows = "".join(f'{{"sha256": "{digest}"}}\n' for digest in (SHA256, ANOTHER, THIRD))
    import_key = KeyService.import_key

    async def fails_on_the_second(self: KeyService, **options: Any) -> Any:
        if options["sha256_hex"] == ANOTHER:
            raise StoreUnavailableError("the disk is full")
        return await import_key(self, **options)

    with monkeypatch.context() as patch:
        patch.setattr(KeyService, "import_key", fails_on_the_second)
        result = run("keys", "import", "--file", "-", *as_json, exit_code=1, input=rows)
    again = run("keys", "import", "--file", "-", input=rows)

    assert "the disk is full; stopped at line 2; run the file again" in result.stderr
    assert ["replayed", "imported", "imported"] == [line.split()[2] for line in again.stdout.splitlines()]


def test_a_row_may_say_whatever_a_key_has() -> None:
    assert {"sha256", "last_four", "tenant", *get_type_hints(KeyFields)} == set(COLUMNS)
