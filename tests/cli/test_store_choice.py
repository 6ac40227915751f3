import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from llm_authmw.stores import Store

Run = Callable[..., Result]

READING = [
    ("keys", "list"),
    ("keys", "show", "x"),
    ("accounts", "list"),
    ("accounts", "show", "team", "x"),
    ("revoke", "list"),
    ("budgets", "show", "team", "x"),
    ("limits", "show", "key", "x"),
    ("ledger", "check"),
]
CHANGING = [
    ("keys", "update", "x", "--name", "y"),
    ("keys", "rotate", "x"),
    ("keys", "block", "x"),
    ("keys", "unblock", "x"),
    ("keys", "revoke", "x"),
    ("accounts", "update", "team", "x", "--role", "y"),
    ("accounts", "block", "team", "x"),
    ("accounts", "unblock", "team", "x"),
    ("revoke", "token", "https://issuer.example", "x"),
    ("revoke", "subject", "https://issuer.example", "x"),
    ("revoke", "key", "https://issuer.example", "x"),
    ("revoke", "lift", "x"),
    ("budgets", "raise", "team", "x", "--by", "1 usd", "--until", "7d"),
    ("budgets", "reset", "key", "x"),
]


@pytest.mark.parametrize("verb", READING + CHANGING, ids=lambda verb: "-".join(verb[:2]))
def test_a_verb_that_makes_nothing_makes_no_store_and_says_where_it_looked(run: Run, directory: Path, verb: tuple[str, ...]) -> None:
    result = run(*verb, "--store", "sqlite:///elsewhere.db", exit_code=1)

    assert f"Error: there is no store at {directory / 'elsewhere.db'}; name another one with --store" in result.stderr
    assert 1 == result.stderr.count("\n")
    assert [] == list(directory.iterdir())


@pytest.mark.parametrize(
    "verb", [("keys", "create"), ("keys", "import", "--sha256", "ab" * 32), ("accounts", "create", "team", "x")], ids=lambda verb: verb[1]
)
def test_a_verb_that_makes_something_says_once_where_it_made_a_store(run: Run, directory: Path, verb: tuple[str, ...]) -> None:
    notice = f"Made a new store: {directory / 'made.db'}\n"

    first = run(*verb, "--store", "sqlite:///made.db", "--json")
    again = run("keys", "create", "--store", "sqlite:///made.db", "--json")

    assert notice == first.stderr
    json.loads(first.stdout)
    assert "" == again.stderr
    assert (directory / "made.db").exists()


def test_the_store_is_the_verbs_option_then_the_groups_then_the_programs_then_the_environments_then_a_file_here(
    run: Run, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def options(*names: str) -> list[list[str]]:
        return [["--store", f"sqlite:///{name}.db"] if name else [] for name in names]

    def made_by(program: str = "", group: str = "", verb: str = "") -> set[str]:
        before = set(directory.iterdir())
        outer, middle, inner = options(program, group, verb)
        run(*outer, "keys", *middle, "create", *inner)
        return {path.name for path in set(directory.iterdir()) - before if path.suffix == ".db" and ".audit" not in path.suffixes}

    assert {"authmw.db"} == made_by()
    monkeypatch.setenv("AUTHMW_STORE", "sqlite:///environment.db")
    assert {"environment.db"} == made_by()
    assert {"program.db"} == made_by(program="program")
    assert {"group.db"} == made_by(program="program", group="group")
    assert {"verb.db"} == made_by(program="program", group="group", verb="verb")
    monkeypatch.setenv("AUTHMW_STORE", "")
    (directory / "authmw.db").unlink()
    assert {"authmw.db"} == made_by()


def test_an_absolute_url_is_that_file(run: Run, directory: Path) -> None:
    path = directory / "deep" / "keys.db"
    path.parent.mkdir()

    assert f"Made a new store: {path}\n" in run("keys", "create", "--store", f"sqlite:////{path}".replace("////", "///", 1)).stderr
    assert path.exists()


@pytest.mark.parametrize(
    ("problem", "url"),
    [
        ("--store or AUTHMW_STORE: 'keys.db' is not a store", "keys.db"),
        ("--store or AUTHMW_STORE: 'mysql' is not a store", "mysql:///x"),
        ("--store or AUTHMW_STORE: cannot be read; expected postgresql://", "postgresql://user:hunter2/x"),
        ("--store or AUTHMW_STORE: '' is not a store", ""),
        ("names no file", "sqlite://"),
        ("takes neither a host nor options", "sqlite://keys.db"),
        ("memory:// would end with this command", "memory://"),
        ("cannot be made: the directory", "sqlite:///missing/keys.db"),
    ],
)
def test_a_store_that_cannot_be_used_is_refused_in_one_line(run: Run, directory: Path, problem: str, url: str) -> None:
    result = run("keys", "create", "--store", url, exit_code=1)

    assert "" == result.stdout
    assert problem in result.stderr
    assert 1 == result.stderr.count("\n")
    assert [] == list(directory.iterdir())


def test_a_password_in_a_url_is_not_printed_back(run: Run) -> None:
    assert "hunter2" not in run("keys", "list", "--store", "postgresql://me:hunter2@db/keys", exit_code=1).output


def test_a_file_that_is_not_ours_is_refused_and_left_as_it_is(run: Run, directory: Path) -> None:
    (directory / "authmw.db").write_text("my shopping list, which is long enough to be looked at: milk, bread and butter\n" * 20)
    before = (directory / "authmw.db").read_bytes()

    for verb in (("keys", "list"), ("keys", "create")):
        result = run(*verb, "--json", exit_code=1)
        assert "store_corrupt" == json.loads(result.stderr)["error"]["code"]
    assert before == (directory / "authmw.db").read_bytes()


def test_keys_are_kept_under_the_pepper_of_the_environment(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTHMW_PEPPER", "short")
    assert "Error: AUTHMW_PEPPER: version 1 is shorter than 32 characters" in run("keys", "create", exit_code=1).stderr

    monkeypatch.setenv("AUTHMW_PEPPER", "0123456789abcdef" * 4)
    run("keys", "create")


def test_the_store_is_closed_whatever_became_of_the_verb(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    aclose = Store.aclose

    async def counted(self: Store) -> None:
        closed.append(self.url)
        await aclose(self)

    monkeypatch.setattr(Store, "aclose", counted)
    run("keys", "create")
    run("keys", "show", "nobody", exit_code=1)

    assert ["sqlite:///authmw.db"] * 2 == closed
