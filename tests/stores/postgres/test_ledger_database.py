"""The ledger's tables and functions: what is over goes, no table is read from end to end, and other people's settings change nothing."""

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from llm_authmw.errors import StoreReadOnlyError, StoreUnavailableError
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim, Span
from llm_authmw.ledger.contract import REMEMBERED, Balance, Ledger, Reservation
from llm_authmw.stores.postgres import PostgresBackend, ledger
from llm_authmw.stores.postgres.ledger import PostgresLedger
from llm_authmw.stores.postgres.pool import Connection
from llm_authmw.testing import ManualClock
from tests.stores.postgres.ledgers import MINUTE, as_json, claims_on, lease, lifetime, one_of_each, rate, reserve_all, used

pytestmark = pytest.mark.anyio

Sql = Callable[..., list[str]]


async def test_what_is_over_is_forgotten_in_steps_and_what_is_not_stays(manual: PostgresLedger, clock: ManualClock, sql: Sql) -> None:
    day = Span(round(clock.now()) * SECOND, round(clock.now()) * SECOND + REMEMBERED)
    daily = Bucket(tenant="t", name="day", kind="window", measure="nano_usd", limit=100, spans=(day,))
    never_settled = [lifetime("kept"), rate("gone"), lease("lost"), daily]
    assert (await manual.reserve("expired", claims_on(*never_settled), ttl=MINUTE)).granted
    for number in range(20):
        assert (await manual.reserve(f"old-{number}", claims_on(*one_of_each(f"{number}")), ttl=MINUTE)).granted
        assert await manual.settle(f"old-{number}", {"tokens": 0}) is not None
    month = rate("in debt for a month", limit=1)
    assert (await manual.reserve("in debt", claims_on(month), ttl=MINUTE)).granted
    assert await manual.settle("in debt", {"requests": 30 * 24 * 60}) is not None
    assert (await manual.reserve("runs on", claims_on(lease("held")), ttl=REMEMBERED)).granted
    for _ in range(4):
        clock.advance(REMEMBERED / SECOND - 1)
        assert frozenset({"runs on"}) == await manual.extend(["runs on"], ttl=REMEMBERED)
    for number in range(ledger._SETTLEMENTS):
        assert (await manual.reserve(f"new-{number}", claims_on(lifetime("new")), ttl=MINUTE)).granted
        assert await manual.settle(f"new-{number}", {}) is not None
    kept = ["kept", "held", "new", month.name, *(f"{number}, budget" for number in range(20))]
    assert sorted(kept) == sql('SELECT name FROM authmw_ledger_counters ORDER BY name COLLATE "C"')
    assert [str(1 + ledger._SETTLEMENTS)] == sql("SELECT count(*) FROM authmw_ledger_reservations")
    assert ["runs on"] == sql("SELECT reservation_id FROM authmw_ledger_leases")
    assert ["kept"] == sql("SELECT name FROM authmw_ledger_counters WHERE look_at IS NULL")
    settled = await manual.settle("runs on", {})
    assert settled is not None
    assert not settled.late
    assert [1, 0] == await used(manual, lifetime("kept"), lease("held"))


async def test_what_cannot_be_forgotten_now_fails_no_settlement_and_is_tried_again_with_the_sixteenth(
    manual: PostgresLedger, sql: Sql
) -> None:
    sql(
        "CREATE SEQUENCE calls",
        """CREATE OR REPLACE FUNCTION authmw_ledger_forget(since bigint, most integer, now_is bigint DEFAULT NULL) RETURNS bigint
        LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('calls'); RAISE EXCEPTION 'not now'; END $$""",
    )
    for number in range(32):
        assert (await manual.reserve(f"r{number}", claims_on(lifetime()), ttl=MINUTE)).granted
        assert await manual.settle(f"r{number}", {}) is not None
    assert ["2"] == sql("SELECT last_value FROM calls")


async def test_an_id_that_is_due_to_be_forgotten_is_known_no_more(manual: PostgresLedger, clock: ManualClock) -> None:
    first = await manual.reserve("r", claims_on(lifetime(), lease()), ttl=MINUTE)
    clock.advance(60 + REMEMBERED / SECOND)
    assert await manual.settle("r", {}) is None
    again = await manual.reserve("r", claims_on(lifetime(), lease()), ttl=MINUTE)
    assert (True, True) == (first.granted, again.granted)
    assert [2, 1] == await used(manual, lifetime(), lease())


async def test_one_step_of_forgetting_is_bounded_and_leaves_alone_what_others_hold(
    manual: PostgresLedger, clock: ManualClock, other: Connection, sql: Sql
) -> None:
    for number in range(10):
        assert (await manual.reserve(f"r{number}", claims_on(rate(f"b{number}")), ttl=MINUTE)).granted
    clock.advance(3 * REMEMBERED / SECOND)
    now = round(clock.now() * SECOND)
    await other.execute("BEGIN; SELECT FROM authmw_ledger_reservations WHERE id = 'r0' FOR UPDATE")
    left = "SELECT count(*) FROM authmw_ledger_reservations UNION ALL SELECT count(*) FROM authmw_ledger_counters"
    since = int(sql(f"SELECT authmw_ledger_forget(0, 4, {now})")[0])
    assert ["6", "6"] == sql(left)
    assert 0 < since < now
    assert [str(since)] == sql(f"SELECT authmw_ledger_forget({since}, 100, {now})")
    assert ["1", "0"] == sql(left)
    await other.execute("COMMIT")
    assert [str(now)] == sql(f"SELECT authmw_ledger_forget({since}, 100, {now})")
    assert ["0", "0"] == sql(left)


async def test_no_call_reads_a_table_from_end_to_end(
    ledgers: list[PostgresLedger], backend: PostgresBackend, other: Connection, sql: Sql
) -> None:
    scans = "SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE relname LIKE 'authmw_ledger%'"
    await ledgers[0].balance([lifetime()])
    # Plans are made where there is next to nothing: that is when reading all of it looks cheap.
    sql("VACUUM ANALYZE")
    before = sql(scans)
    for number in range(2 * ledger._SETTLEMENTS):
        of = backend.ledger
        assert (await of.reserve(f"r{number}", claims_on(*one_of_each("ada")), ttl=MINUTE)).granted
        await of.extend([f"r{number}"], ttl=MINUTE)
        await of.balance(one_of_each("ada"))
        await of.settle(f"r{number}", {})
    await backend.aclose()  # a connection that ends says what it did
    with anyio.fail_after(10):
        while await other.fetchval("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'llm-authmw'") > 1:
            pass
    assert before == sql(scans)


async def test_the_functions_use_what_stands_beside_them_whatever_the_callers_search_path(
    ledgers: list[PostgresLedger], other: Connection
) -> None:
    assert (await ledgers[0].reserve("r", [Claim(lifetime(), 5)], ttl=MINUTE)).granted
    await other.execute("""
        CREATE SCHEMA hostile;
        CREATE TABLE hostile.authmw_ledger_counters (LIKE public.authmw_ledger_counters);
        CREATE TABLE hostile.authmw_ledger_reservations (LIKE public.authmw_ledger_reservations);
        CREATE FUNCTION hostile.greatest_of(bigint, bigint) RETURNS bigint LANGUAGE sql RETURN 0;
        CREATE OPERATOR hostile.+ (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = hostile.greatest_of);
        SET search_path = hostile, pg_catalog;
        CREATE TEMPORARY TABLE authmw_ledger_counters (LIKE public.authmw_ledger_counters);
    """)
    await other.fetchval("SELECT public.authmw_ledger_reserve('s', $1, $2)", as_json(Claim(lifetime(), 4)), MINUTE)
    await other.fetchval("SELECT public.authmw_ledger_settle('s', $1)", '{"tokens": 3}')
    assert [8] == await used(ledgers[0], lifetime())


@pytest.mark.parametrize("setting", ['search_path = "Odd "" schema"', "jit = on"])
async def test_settings_of_the_database_change_nothing(postgres_url: str, database: str, sql: Sql, setting: str) -> None:
    sql('CREATE SCHEMA "Odd "" schema"', f"ALTER DATABASE {database} SET {setting}")
    backend = PostgresBackend(postgres_url)
    try:
        granted = await reserve_all([backend.ledger], [claims_on(*one_of_each("ada", limit=25)) for _ in range(50)])
        assert 25 == len(granted)
        assert await backend.ledger.settle(f"r{granted[0]}", {"tokens": 0}) is not None
        assert [24, 25] == (await used(backend.ledger, *one_of_each("ada", limit=25)))[:2]
    finally:
        await backend.aclose()


@pytest.mark.usefixtures("no_second_try")
@pytest.mark.parametrize("isolation", ["repeatable read", "serializable"])
async def test_whoever_waited_sees_what_was_done_meanwhile_whatever_the_databases_default(
    postgres_url: str, database: str, sql: Sql, other: Connection, waiting_for_locks: Callable[[int], Any], isolation: str
) -> None:
    sql(f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")
    backend = PostgresBackend(postgres_url)
    answers: list[Reservation] = []

    async def wait() -> None:
        answers.append(await backend.ledger.reserve("r", claims_on(lifetime()), ttl=MINUTE))

    try:
        assert (await backend.ledger.reserve("before", claims_on(lifetime()), ttl=MINUTE)).granted
        await other.execute("BEGIN")
        await other.fetchval("SELECT authmw_ledger_reserve('s', $1, $2)", as_json(*claims_on(lifetime())), MINUTE)
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await waiting_for_locks(1)
            await other.execute("COMMIT")
        assert [3] == [balance.used for answer in answers for balance in answer.balances]
    finally:
        await backend.aclose()


async def test_a_pooler_that_lends_a_connection_for_a_transaction_is_served(postgres_url: str, sql: Sql) -> None:
    backend = PostgresBackend(f"{postgres_url}?pooler=transaction")
    try:
        assert 25 == len(await reserve_all([backend.ledger], [claims_on(*one_of_each("ada", limit=25)) for _ in range(50)]))
        assert [25, 25] == (await used(backend.ledger, *one_of_each("ada", limit=25)))[:2]
        assert await _tries_until_done(backend.ledger, sql, failures=4)
    finally:
        await backend.aclose()


async def test_a_collision_is_tried_again_but_not_for_ever(ledgers: list[PostgresLedger], sql: Sql) -> None:
    assert (await ledgers[0].reserve("r", claims_on(lifetime()), ttl=MINUTE)).granted
    assert await _tries_until_done(ledgers[0], sql, failures=4)
    assert not await _tries_until_done(ledgers[0], sql, failures=5)


async def _tries_until_done(of: Ledger, sql: Sql, *, failures: int) -> bool:
    """Let the function that extends collide with others so many times, and say whether the call was answered all the same."""
    sql(
        "DROP SEQUENCE IF EXISTS calls; CREATE SEQUENCE calls",
        f"""CREATE OR REPLACE FUNCTION authmw_ledger_extend(ids text[], ttl bigint, now_is bigint DEFAULT NULL) RETURNS text[]
        LANGUAGE plpgsql AS $$ BEGIN
            IF nextval('calls') <= {failures} THEN RAISE EXCEPTION 'again' USING ERRCODE = 'serialization_failure'; END IF;
            RETURN ids;
        END $$""",
    )
    try:
        return frozenset({"r"}) == await of.extend(["r"], ttl=MINUTE)
    except StoreUnavailableError:
        return False


async def test_a_standby_tells_what_buckets_stand_at_and_books_nothing(postgres_url: str, database: str, sql: Sql) -> None:
    first = PostgresBackend(postgres_url)
    assert (await first.ledger.reserve("r", claims_on(lifetime(limit=3), lease(limit=3)), ttl=1)).granted
    await first.aclose()
    sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    standby = PostgresBackend(postgres_url)
    try:
        assert (Balance(1, 3, 2, None), Balance(0, 3, 3, None)) == await standby.ledger.balance([lifetime(limit=3), lease(limit=3)])
        with pytest.raises(StoreReadOnlyError):
            await standby.ledger.reserve("s", claims_on(lifetime(limit=3)), ttl=MINUTE)
        with pytest.raises(StoreReadOnlyError):
            await standby.ledger.settle("r", {})
    finally:
        await standby.aclose()
