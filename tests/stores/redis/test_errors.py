import pytest
from redis import exceptions

from llm_authmw.errors import StoreCorruptError, StoreError, StoreReadOnlyError, StoreUnavailableError
from llm_authmw.stores.redis.checks import check_server, facts_of
from llm_authmw.stores.redis.errors import store_error

SECRET = "-- what was asked"


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (exceptions.AuthenticationError(SECRET), StoreError, "refuses this user"),
        (exceptions.NoPermissionError(SECRET), StoreError, "does not let this user run scripts"),
        (exceptions.BusyLoadingError(SECRET), StoreUnavailableError, "is loading its data"),
        (exceptions.ConnectionError(SECRET), StoreUnavailableError, "cannot be reached"),
        (exceptions.OutOfMemoryError(SECRET), StoreUnavailableError, "raise its maxmemory"),
        (exceptions.ReadOnlyError(SECRET), StoreReadOnlyError, "is a replica"),
        (exceptions.MasterDownError(SECRET), StoreUnavailableError, "has lost its primary"),
        (exceptions.TryAgainError(SECRET), StoreUnavailableError, "is moving the ledger"),
        (exceptions.MovedError("7 127.0.0.1:1"), StoreUnavailableError, "is moving the ledger"),
        (exceptions.ResponseError(f"BUSY {SECRET}"), StoreUnavailableError, "is busy with a script"),
        (exceptions.ResponseError(f"MISCONF {SECRET}"), StoreUnavailableError, "cannot write to its disk"),
        (exceptions.ResponseError(f"NOREPLICAS {SECRET}"), StoreUnavailableError, "has too few replicas"),
        (exceptions.ResponseError(f"WRONGTYPE {SECRET}"), StoreCorruptError, "holds something else"),
        (
            exceptions.ResponseError(f"Error running script (call to f_0): @user_script:1: -OOM {SECRET}"),
            StoreUnavailableError,
            "maxmemory",
        ),
        (
            exceptions.ResponseError(f"Error running script (call to f_0): @user_script:1: @user_script: 9: -READONLY {SECRET}"),
            StoreReadOnlyError,
            "replica",
        ),
        (exceptions.ResponseError(SECRET), StoreError, "look into its log"),
        (exceptions.ResponseError(""), StoreError, "look into its log"),
        (exceptions.InvalidResponse(SECRET), StoreError, "look into its log"),
        (OSError(5, SECRET), StoreUnavailableError, "cannot be reached"),
    ],
)
def test_each_error_says_what_it_means_and_not_what_was_asked(
    error: exceptions.RedisError | OSError, kind: type[StoreError], text: str
) -> None:
    meaning = store_error(error, "redis at host:1/0")
    assert kind is type(meaning)
    assert str(meaning).startswith("redis at host:1/0 ")
    assert text in str(meaning)
    assert SECRET not in str(meaning)


@pytest.mark.parametrize("info", [b"", b"redis_version:5.0.14\r\nrole:master", b"redis_version:new\r\n", b"\xff\xfe"])
def test_a_server_that_is_too_old_or_none_is_refused(info: bytes) -> None:
    with pytest.raises(StoreUnavailableError, match="is older than Redis 6, or is no Redis"):
        check_server(facts_of(info), "redis at host:1/0", whole=False)


@pytest.mark.parametrize("version", ["6.2.14", "7.2.4", "10.0.0"])
def test_a_server_that_is_new_enough_is_taken(version: str) -> None:
    check_server(facts_of(f"# Server\r\nredis_version:{version}\r\naof_enabled:1\r\n".encode()), "redis at host:1/0", whole=True)


def test_a_replica_is_refused_unless_its_cluster_tells_the_way() -> None:
    alone = {"redis_version": "7.2.4", "role": "slave", "cluster_enabled": "0"}
    with pytest.raises(StoreReadOnlyError, match="is a replica"):
        check_server(alone, "redis at host:1/0", whole=False)
    check_server({**alone, "cluster_enabled": "1"}, "redis at host:1/0", whole=False)
