from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from llm_authmw.errors import ConfigurationError, StoreCorruptError
from llm_authmw.stores import open_store
from llm_authmw.stores.sqlite import SQLiteBackend

pytestmark = pytest.mark.anyio

PEPPER = "a pepper of more than thirty-two characters"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "authmw.db",
        "/var/lib/authmw.db",
        "file:///authmw.db",
        "postgres://host/db",
        "sqlite3:///authmw.db",
        "sqlite",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite:////",
        "sqlite:///directory/",
        "sqlite://authmw.db",
        "sqlite://host/authmw.db",
        "sqlite://user:hunter2@host/authmw.db",
        "sqlite:///authmw.db?mode=ro",
        "sqlite:///authmw.db#part",
        "sqlite:///:memory:",
        "sqlite:///file::memory:",
        "memory://name",
        "memory:///name",
        "memory://?shared=1",
        "memory:name",
        "sqlite:///a\0b",
    ],
)
def test_a_url_that_names_no_store_or_has_a_part_that_would_be_ignored_is_refused(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"^url: ") as caught:
        open_store(url)
    assert "hunter2" not in str(caught.value)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("url", ["redis://localhost", "mysql://localhost/db", "http:///x"])
def test_an_unknown_scheme_is_named(url: str) -> None:
    with pytest.raises(ConfigurationError, match="url"):
        open_store(url)


@pytest.mark.parametrize("url", ["memory:", "memory://", "MEMORY://"])
async def test_a_store_in_memory_needs_no_more_than_its_scheme(url: str) -> None:
    async with open_store(url) as store:
        created = await store.keys.create()
        assert created.record == await store.keys.get(created.id)


async def test_a_relative_path_is_taken_from_where_the_process_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "then").mkdir()
    (tmp_path / "now").mkdir()
    monkeypatch.chdir(tmp_path / "then")
    store = open_store("sqlite:///inner.db")
    monkeypatch.chdir(tmp_path / "now")
    async with store:
        assert (tmp_path / "then" / "inner.db").exists()
    assert [] == list((tmp_path / "now").iterdir())


async def test_an_absolute_path_has_a_fourth_slash(path: Path) -> None:
    async with open_store(f"sqlite:///{path}"):
        assert path.exists()


def test_a_backend_prints_its_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert f"SQLiteBackend({str(tmp_path / 'a.db')!r})" == repr(SQLiteBackend("a.db"))


async def test_opening_reads_and_writes_nothing(path: Path) -> None:
    path.write_text("no database")
    with blockbuster_ctx():
        store = open_store(f"sqlite:///{path}")
        open_store(f"sqlite:///{path.parent}/missing/store.db")
    assert {path: "no database"} == {found: found.read_text() for found in path.parent.iterdir()}
    with pytest.raises(StoreCorruptError):
        await store.start()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_time_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match=r"^bound: "):
        open_store("memory://", bound=seconds)
    with pytest.raises(ConfigurationError, match=r"^deadline: "):
        open_store("memory://", deadline=seconds)


@pytest.fixture
def no_pepper(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("AUTHMW_PEPPER", raising=False)
    return monkeypatch


async def kept_by(url: str, path: Path, pepper: str | None = None) -> tuple[str, int]:
    async with open_store(url, pepper=pepper) as store:
        created = await store.keys.create()
    backend = SQLiteBackend(str(path))
    stored = await backend.keys.find(created.id)
    await backend.aclose()
    assert stored is not None
    return stored.secrets[0].digest.scheme, stored.secrets[0].digest.pepper_version


async def test_without_a_pepper_keys_are_kept_as_their_sha_256(path: Path, no_pepper: pytest.MonkeyPatch) -> None:
    assert ("sha256", 0) == await kept_by(f"sqlite:///{path}", path)
    no_pepper.setenv("AUTHMW_PEPPER", "")
    assert ("sha256", 0) == await kept_by(f"sqlite:///{path}", path)


async def test_the_pepper_comes_from_the_environment(path: Path, no_pepper: pytest.MonkeyPatch) -> None:
    no_pepper.setenv("AUTHMW_PEPPER", PEPPER)
    assert ("hmac-sha256", 1) == await kept_by(f"sqlite:///{path}", path)
    no_pepper.setenv("AUTHMW_PEPPER", f"2:{PEPPER.replace(' ', '-')}")
    assert ("hmac-sha256", 2) == await kept_by(f"sqlite:///{path}", path)


async def test_a_pepper_that_is_given_goes_before_the_environment(path: Path, no_pepper: pytest.MonkeyPatch) -> None:
    no_pepper.setenv("AUTHMW_PEPPER", "short")
    assert ("hmac-sha256", 1) == await kept_by(f"sqlite:///{path}", path, pepper=PEPPER)


def test_a_pepper_that_is_too_short_is_refused_without_being_printed(path: Path, no_pepper: pytest.MonkeyPatch) -> None:
    no_pepper.setenv("AUTHMW_PEPPER", "hunter2")
    with pytest.raises(ConfigurationError, match=r"^pepper: ") as caught:
        open_store(f"sqlite:///{path}")
    assert "hunter2" not in str(caught.value)
