"""A worker of ours: an authentication layer, a limit on what runs at once, a budget, and the upstream inside."""

import os
from pathlib import Path
from typing import Final

from starlette.middleware import Middleware

from benchmarks.overshoot.asks import CEILINGS, INPUT_NANO, MODEL, OUTPUT_NANO
from benchmarks.overshoot.client import ASK_HEADER
from benchmarks.overshoot.noted import ASK, NotedLedger
from benchmarks.overshoot.stores import opened
from benchmarks.overshoot.upstream import Upstream
from llm_authmw import BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, Stack, StaticKey, StaticKeys
from llm_authmw.accounts.quotas import AccountQuotas
from llm_authmw.asgi import ASGIApp, Receive, Scope, Send
from llm_authmw.changes import ChangeFollower
from llm_authmw.ledger.handle import LedgerHandle
from llm_authmw.ledger.service import LedgerService
from llm_authmw.quota import NANO_USD
from llm_authmw.resource import Resource
from llm_authmw.stores.redis import RedisLedger

DEADLINE: Final = 0.25
BOUND: Final = 1.0


class _Opened(Resource):
    """What the app starts and closes: as `Store` does, which makes no room for a ledger that notes."""

    def __init__(self, place: str, folder: Path, lease: float) -> None:
        self._backend, self._counters = opened(place)
        follower = ChangeFollower(self._backend.feed, bound=BOUND, deadline=DEADLINE)
        self.ledger: Final = LedgerService(
            LedgerHandle(NotedLedger(self._counters, folder), deadline=DEADLINE, lease=lease),
            accounts=AccountQuotas(self._backend.accounts, follower=follower, deadline=DEADLINE),
            resource=self,
        )

    async def start(self) -> None:
        await self._backend.start()

    async def aclose(self) -> None:
        await self.ledger.aclose()
        if isinstance(self._counters, RedisLedger):
            await self._counters.aclose()
        await self._backend.aclose()


def app() -> ASGIApp:
    """Return the app, as the environment says: `OVERSHOOT_FOLDER`, `_STORE`, `_NANO` (the budget), `_LEASE` (seconds) and `_KEY`."""
    folder = Path(os.environ["OVERSHOOT_FOLDER"])
    whole, part = divmod(int(os.environ["OVERSHOOT_NANO"]), NANO_USD)
    ledger = _Opened(os.environ["OVERSHOOT_STORE"], folder, float(os.environ["OVERSHOOT_LEASE"])).ledger
    price = Price(input=f"{INPUT_NANO / 1000:.9f}", output=f"{OUTPUT_NANO / 1000:.9f}", max_output=max(CEILINGS))
    guarded = Stack(
        Middleware(KeyAuthMiddleware, keys=StaticKeys({"load": StaticKey("env:OVERSHOOT_KEY")})),
        # Its leases are reservations too: one that is left behind would hold a slot.
        Middleware(RateLimitMiddleware, ledger=ledger, limits={"key": ["10_000 concurrent"]}),
        Middleware(BudgetMiddleware, ledger=ledger, prices={MODEL: price}, limits={"key": [f"{whole}.{part:09d} usd"]}),
    )(Upstream(folder))

    async def naming(scope: Scope, receive: Receive, send: Send) -> None:
        ASK.set(dict(scope.get("headers", ())).get(ASK_HEADER.encode(), b"-").decode())
        await guarded(scope, receive, send)

    return naming
