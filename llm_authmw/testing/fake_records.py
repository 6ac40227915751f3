"""Records for tests, as the layers would have made them."""

from typing import Any

import msgspec

from llm_authmw.call import Charge, Usage
from llm_authmw.context import Decision
from llm_authmw.trail.record import Person, Record, Reserved, Who


def fake_record(**fields: Any) -> Record:
    """Return the record of a request that five layers let through, and that used and cost something: `fake_record(status=502)`.

    Args:
        fields: Fields of `Record` that are otherwise.
    """
    return msgspec.structs.replace(_REQUEST, **fields)


_REQUEST = Record(
    time=1_795_000_000_123_456,
    kind="request",
    id="0123456789abcdef",
    trace_id="0af7651916cd43dd8448eb211c80319c",
    who=Who(
        tenant="default",
        realm="corp",
        team="blue",
        org="acme",
        roles=("member",),
        tier="gold",
        method="jwt",
        issuer="https://id.example.com",
        credential_id="2030-01",
        assurance="signed",
    ),
    outcome="allowed",
    protocol="http",
    verb="POST",
    path="/v1/chat/completions",
    operation="chat",
    models=("gpt-4o",),
    served="gpt-4o-2024-11-20",
    streaming=True,
    decisions=(
        Decision("KeyAuthMiddleware", "passed"),
        Decision("JWTAuthMiddleware", "allowed", credential_id="2030-01"),
        Decision("RBACMiddleware", "allowed", rule="member"),
        Decision("RateLimitMiddleware", "allowed", rule="60 requests/minute"),
        Decision("BudgetMiddleware", "allowed", rule="50 usd/month"),
    ),
    spent=(3, 20, 31, 200, 410),
    status=200,
    first_byte=120_000,
    duration=2_400_000,
    end="complete",
    usage=Usage(input=1200, cached_input=400, output=345, total=1545, model="gpt-4o-2024-11-20", complete=True),
    charge=Charge(amount=6_450_000, model="gpt-4o", rule="gpt-4o", version="2026-11"),
    reservations=(
        Reserved(id="r1", estimate={"requests": 1, "tokens": 4000}, left={"key:2030-01 / requests / minute": 51}, settled=True),
        Reserved(id="r2", estimate={"nano_usd": 12_000_000}, left={"team:blue / nano_usd / month": -12_345}, settled=True),
    ),
    person=Person(user="ada", email="ada@example.com", address="192.0.2.7", end_user="customer-1"),
)
