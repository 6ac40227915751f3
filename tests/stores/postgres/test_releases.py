"""The oldest server that the tests' package has."""

from collections.abc import Callable

import pytest

from llm_authmw.history import HistoryEntry
from llm_authmw.keys.records import StoredKey
from llm_authmw.ledger.buckets import SECOND, Bucket, Claim
from llm_authmw.stores.postgres import PostgresBackend
from tests.peers.postgres import RELEASES, postgres

pytestmark = pytest.mark.anyio


async def test_an_older_server_keeps_records_and_counts(key: Callable[..., StoredKey], entry: HistoryEntry) -> None:
    with postgres(release=min(RELEASES)) as server:
        assert [str(min(RELEASES))] == server.execute("SELECT current_setting('server_version_num')::int / 10000")
        backend = PostgresBackend(server.url("postgres"))
        cursor = (await backend.feed.changes(None)).cursor
        assert await backend.keys.write(key(tags=("a",)), entry, None) is True
        assert key(tags=("a",)) == await backend.keys.find("k1")
        assert frozenset({"k1"}) == (await backend.feed.changes(cursor)).keys
        assert {} == await backend.revocations.live()
        claims = [Claim(Bucket(tenant="default", name="team:blue / requests", kind="lifetime", measure="requests", limit=1), 1)]
        assert (await backend.ledger.reserve("r1", claims, ttl=SECOND)).granted
        assert not (await backend.ledger.reserve("r2", claims, ttl=SECOND)).granted
        await backend.aclose()
