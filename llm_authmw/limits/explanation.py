"""Which limits and budgets a request falls under, told without counting anything."""

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from llm_authmw.accounts.records import AccountRecord
from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.errors import Denial
from llm_authmw.ledger.buckets import BucketRef
from llm_authmw.limits.budget import BudgetMiddleware
from llm_authmw.limits.counted import Counted
from llm_authmw.limits.metered import Kind, is_free, kind_of
from llm_authmw.limits.plan import Asked
from llm_authmw.limits.rate import RateLimitMiddleware
from llm_authmw.limits.tokens import TOKENS
from llm_authmw.llm.extent import Extent
from llm_authmw.llm.operation import Found
from llm_authmw.network import Address
from llm_authmw.principal import Principal

_NOTHING: Final = Extent(input=0, answers=0, draws=False, caches=False, caches_1h=False)


class AppliedLimit(msgspec.Struct, frozen=True, kw_only=True):
    """A limit or a budget that a request falls under.

    Attributes:
        layer: The name of the layer that counts it.
        limit: How much there may be, as a `Limit` or a `Budget` is written.
        scope: By what it is counted.
        subject: Whose, or of what, that is.
        tenant: The tenant of its bucket; `*` where all tenants share it.
        bucket: The name of its bucket.
    """

    layer: str
    limit: str
    scope: str
    subject: str
    tenant: str
    bucket: str


class Inquiry(msgspec.Struct, frozen=True):
    """Who asks for what.

    Attributes:
        principal: Who is calling.
        tier: The tier that its role gives.
        method: As `patterns.canonical_route` gives it.
        path: Likewise.
        address: The client's address.
        accounts: The accounts that the caller belongs to.
        found: The kind of request, as the layer's lens finds it.
        call: Reads what it asks for, as the layer's lens does; raises a `Denial` where it cannot be read.
    """

    principal: Principal
    tier: str | None
    method: str
    path: str
    address: Address | None
    accounts: Sequence[AccountRecord]
    found: Found | None
    call: Callable[[], LLMCall]

    @property
    def operation(self) -> str:
        """The kind of request, as the table of operations calls it."""
        return UNLISTED if self.found is None else self.found.operation.name


def limits_of(layer: RateLimitMiddleware, request: Inquiry) -> tuple[Counted, ...]:
    """Return the rate limits that a layer holds a request to.

    Raises:
        Denial: the layer denies it, whatever was counted before.
    """
    holder = layer.plan.holder(request.principal, request.tier, request.accounts)
    tokens = not TOKENS.isdisjoint(holder.measures)
    call = request.call() if tokens or holder.needs_call else None
    counts = call is not None and tokens and _costs(request, call)
    found = holder.counted(_asked(request, call))
    return found if counts else tuple(one for one in found if one.bucket.measure not in TOKENS)


def budgets_of(layer: BudgetMiddleware, request: Inquiry) -> tuple[Counted, ...]:
    """Return the budgets that a layer takes the cost of a request from.

    Raises:
        Denial: the layer denies it, whatever was spent before.
    """
    flat = layer.pricing.flat(request.operation) is not None
    if is_free(_kind(request), request.found, flat=flat):
        return ()
    call = request.call()
    if not flat:
        if not _costs(request, call):
            return ()
        # For its refusals only: how much it can use, its body would have to say.
        layer.pricing.estimate(call, _NOTHING)
    return layer.plan.holder(request.principal, request.tier, request.accounts).counted(_asked(request, call))


def applied(layer: RateLimitMiddleware | BudgetMiddleware, request: Inquiry, earlier: set[tuple[int, BucketRef]]) -> list[AppliedLimit]:
    """Return the limits, or budgets, of a layer that a request falls under. What a layer further out counts is not counted again.

    Args:
        layer: The layer.
        request: The request.
        earlier: The buckets that were counted in, and by whose counters; those of this layer are added.

    Raises:
        Denial: the layer denies the request, whatever was counted before.
    """
    rates = isinstance(layer, RateLimitMiddleware)
    found = limits_of(layer, request) if isinstance(layer, RateLimitMiddleware) else budgets_of(layer, request)
    handle = id(layer.ledger.rates if rates else layer.ledger.money)
    new = [one for one in found if (handle, one.bucket.ref) not in earlier]
    earlier.update((handle, one.bucket.ref) for one in new)
    return [
        AppliedLimit(
            layer=layer.name,
            limit=str(one.quota),
            scope=one.scope.text,
            subject=one.subject,
            tenant=one.bucket.tenant,
            bucket=one.bucket.name,
        )
        for one in new
    ]


def _asked(request: Inquiry, call: LLMCall | None) -> Asked:
    return Asked(request.principal, request.tier, call, request.method, request.path, request.operation, request.address)


def _costs(request: Inquiry, call: LLMCall) -> bool:
    """Say whether what a request uses is counted.

    Raises:
        Denial: it runs a model, and what it uses cannot be seen.
    """
    kind = _kind(request)
    if kind == "free" or (kind == "unknown" and not call.models):
        return False
    if kind != "metered":
        raise Denial("operation_unmetered", rule=request.operation)
    return True


def _kind(request: Inquiry) -> Kind:
    headers = [] if request.method in {"GET", "HEAD", "DELETE", "OPTIONS", "WS"} else [(b"content-length", b"2")]
    return kind_of({"headers": headers}, request.method, request.path, request.found)
