"""What a URL may be, and that nothing ever shows its password."""

import sys
from typing import Any

import pytest

from llm_authmw.errors import ConfigurationError, MissingExtraError, StoreError
from llm_authmw.stores import open_store
from llm_authmw.stores.postgres.address import Address
from llm_authmw.stores.urls import without_password
from llm_authmw.testing import ManualClock

PASSWORD = "hunter2"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:",
        "postgresql:db",
        "postgresql:/db",
        "postgresql://",
        "postgresql://host",
        "postgresql://host/",
        "postgresql://host/one/two",
        "postgresql://host/db#part",
        "postgresql://host:port/db",
        "postgresql://host:123456/db",
        "postgresql://[::1/db",
        "postgresql://ho]st/db",
        "postgresql://user:hunter2@host:/x:1/db",
        "postgresql://user:hunter2/with/slashes@host/db",
        "postgresql://user:hunter2#with-hash@host/db",
        "postgresql://user:hunter2?with-question@host/db",
        "postgresql://user:hunter2[with-bracket@host/db",
        "postgresql://user:hunter2\u2100@host/db",
        "postgresql://user:hunter2@host/db?pooler=session",
        "postgresql://user:hunter2@host/db?pooler=",
        "postgres://user:hunter2@host/db",
    ],
)
def test_a_url_that_names_no_database_or_cannot_be_read_is_refused_at_once_without_showing_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^url: ") as caught:
        open_store(url)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "dsn", "place"),
    [
        ("postgresql://host/db", "postgresql://host/db?application_name=llm-authmw", "PostgreSQL at host/db"),
        ("POSTGRESQL://u:p%40@h:6432/d", "postgresql://u:p%40@h:6432/d?application_name=llm-authmw", "PostgreSQL at h:6432/d"),
        ("postgresql://u@[::1]:1/d", "postgresql://u@[::1]:1/d?application_name=llm-authmw", "PostgreSQL at [::1]:1/d"),
        ("postgresql://a:1,b:2/d", "postgresql://a:1,b:2/d?application_name=llm-authmw", "PostgreSQL at a:1,b:2/d"),
        (
            "postgresql:///d?host=/run/postgresql",
            "postgresql:///d?application_name=llm-authmw&host=%2Frun%2Fpostgresql",
            "PostgreSQL at /run/postgresql/d",
        ),
        ("postgresql://h/d?application_name=x&sslmode=require", "postgresql://h/d?application_name=x&sslmode=require", "PostgreSQL at h/d"),
        (
            "postgresql://h/d?sslmode=disable&pooler=transaction",
            "postgresql://h/d?application_name=llm-authmw&sslmode=disable",
            "PostgreSQL at h/d",
        ),
    ],
)
def test_a_url_goes_to_the_client_without_what_is_ours(url: str, dsn: str, place: str) -> None:
    address = Address(url)
    assert (dsn, place, "pooler" in url) == (address.dsn.reveal(), address.place, address.pooled)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///authmw.db", "sqlite:///authmw.db"),
        ("postgresql://user@host/db", "postgresql://user@host/db"),
        ("postgresql://user:hunter2@host/db", "postgresql://user:***@host/db"),
        ("postgresql://:hunter2@host/db", "postgresql://:***@host/db"),
        ("redis://:hunter2@host:6379/0", "redis://:***@host:6379/0"),
        ("postgresql://user:a/b@hunter2@host/db?sslmode=require", "postgresql://user:***@host/db?sslmode=require"),
        ("postgresql://host/db?user=u&password=hunter2&sslmode=require", "postgresql://host/db?user=u&password=***&sslmode=require"),
        ("postgresql://u:hunter2@h/d?sslpassword=hunter2", "postgresql://u:***@h/d?sslpassword=***"),
    ],
)
def test_a_url_is_shown_with_stars_for_its_passwords(url: str, shown: str) -> None:
    assert shown == without_password(url)


def test_nothing_that_prints_a_store_prints_its_password() -> None:
    store = open_store(f"postgresql://user:{PASSWORD}@host/db?password={PASSWORD}", clock=ManualClock())
    backend: Any = store._backend
    database: Any = backend._database
    inner: list[Any] = [vars(store), vars(backend), vars(database), vars(database._address)]
    shown = [repr(store), store.url, repr(backend), *map(repr, inner)]
    assert "Store('postgresql://user:***@host/db?password=***')" == repr(store)
    assert "PostgresBackend('PostgreSQL at host/db')" == repr(backend)
    assert [] == [text for text in shown if PASSWORD in text]


def test_without_asyncpg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("llm_authmw.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(MissingExtraError, match=r"^url: needs an optional dependency: pip install 'llm-authmw\[postgres\]'$"):
        open_store("postgresql://host/db")


def test_a_fault_of_our_own_is_not_taken_for_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("llm_authmw.stores.postgres")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "llm_authmw.stores.postgres.keys", None)
    with pytest.raises(ModuleNotFoundError, match=r"llm_authmw\.stores\.postgres\.keys"):
        open_store("postgresql://host/db")


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_another_event_loop_than_asyncios_is_refused_in_words(anyio_backend: str) -> None:
    store = open_store("postgresql://host/db")
    with pytest.raises(StoreError, match="PostgreSQL at host/db can be used with asyncio only, since asyncpg knows no trio"):
        await store.start()
    await store.aclose()
