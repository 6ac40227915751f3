from pathlib import Path
from typing import Any

import pytest
import trio

from llm_authmw.errors import ConfigurationError, StoreError
from llm_authmw.secrets import Secret
from llm_authmw.stores.redis import RedisLedger
from tests.peers.valkey import ValkeyPeer


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "http://localhost",
        "redis:/localhost",
        "redis://:hunter2#x@localhost",
        "redis://:hunter2/x@localhost",
        "redis://:hunter2?x@localhost",
        "redis://localhost:hunter2",
        "redis://localhost:99999",
        "redis://localhost/first",
        "redis://[::1",
        "redis://localhost/0#part",
        "redis://localhost?decode_responses=1",
        "redis://localhost?retry_on_timeout=1",
        "rediss://localhost?ssl_cert_reqs=none",
        "redis://localhost/1?db=2",
        "redis://localhost?ssl_ca_certs=ca.pem",
        "redis://localhost//1",
        "unix://host/run/valkey.sock",
        "unix:///run/valkey.sock?db=first",
        "unix:///run/valkey.sock?db=",
        "unix://",
        "unix:///",
    ],
)
def test_a_url_that_is_none_or_has_a_part_that_would_be_ignored_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^counters: (takes|is empty)") as caught:
        RedisLedger(url, option="counters")
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("options", [{"deadline": 0}, {"deadline": -1.0}, {"deadline": float("nan")}, {"connections": 0}])
def test_a_number_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        RedisLedger("redis://localhost", **options)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://", "localhost:6379/0"),
        ("redis://user:hunter2@cache.example:7000/3", "cache.example:7000/3"),
        ("REDISS://:hunter2@cache.example/", "cache.example:6379/0"),
        (Secret("redis://:hunter2@cache.example"), "cache.example:6379/0"),
        ("unix:///run/valkey.sock?db=2", "/run/valkey.sock"),
    ],
)
def test_a_ledger_is_shown_by_its_place_and_never_with_its_password(url: "str | Secret", place: str) -> None:
    ledger = RedisLedger(url)
    assert f"RedisLedger('redis at {place}', whole=False)" == repr(ledger)
    assert "hunter2" not in repr(vars(ledger))


def test_the_url_may_be_a_reference_to_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_URL", "redis://:hunter2@cache.example")
    assert "cache.example" in repr(RedisLedger("env:CACHE_URL"))
    with pytest.raises(ConfigurationError, match=r"^ledger: .*NO_SUCH_URL"):
        RedisLedger("env:NO_SUCH_URL", option="ledger")


def test_tls_is_verified(tmp_path: Path) -> None:
    for url in ("REDISS://cache.example", f"rediss://cache.example?ssl_ca_certs={tmp_path}/ca.pem"):
        connection: Any = RedisLedger(url)._client._make(None)
        context = connection.ssl_context
        assert ("required", True) == (str(context.cert_reqs.name).lower().removeprefix("cert_"), context.check_hostname)


def test_on_trio_it_says_what_it_needs(valkey_server: ValkeyPeer) -> None:
    ledger = RedisLedger(valkey_server.url)
    with pytest.raises(StoreError, match="with asyncio only"):
        trio.run(ledger.start)
