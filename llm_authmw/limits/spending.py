"""What one request may spend, and what it did: from its estimate to its charge."""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from llm_authmw.call import Charge, Usage
from llm_authmw.context import logger
from llm_authmw.ledger.buckets import Measure
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.outcome import NOTHING, ClientGone, final
from llm_authmw.limits.pricing import Estimate, Pricing

_TELLING: Final = frozenset({"generate_content", "messages", "rerank", "responses"})
"""Operations whose answers say at their end how many searches there were."""
_ABSURD: Final = 10
"""How many times its estimate an answer may say that it cost, before somebody is told."""


class Spending:
    """The money of one request.

    Args:
        pricing: Says what usage costs.
        estimate: The most that was thought that it can cost.
        client_gone: What is charged where the client left in the middle.

    Attributes:
        estimate: The most that it can cost, as far as that is reserved: it grows where more is.
        charge: What it did cost, once it is over.
    """

    __slots__ = ("_client_gone", "_over", "_pricing", "charge", "estimate")

    def __init__(self, pricing: Pricing, estimate: Estimate, client_gone: ClientGone) -> None:
        self._pricing: Final = pricing
        self._client_gone: Final[ClientGone] = client_gone
        self._over = False
        self.estimate: Estimate = estimate
        self.charge: Charge | None = None

    def actual(self, exchange: Exchange) -> Mapping[Measure, int]:
        """Say what the request's hold is settled at; see `exchange.Actual`."""
        self._find_out(exchange)
        return {} if self.charge is None else {"nano_usd": self.charge.amount}

    def slice_actual(self, exchange: Exchange) -> Mapping[Measure, int]:
        """Say the same of what was held beside it while it ran, since all of the charge is booked on the first hold."""
        self._find_out(exchange)
        return {} if self.charge is None else {"nano_usd": 0}

    def _find_out(self, exchange: Exchange) -> None:
        if self._over:
            return
        self._over = True
        estimate, context = self.estimate, exchange.context
        facts = exchange.facts
        usage = final(facts, estimate.most, client_gone=self._client_gone, capped=estimate.capped)
        if usage is not None and usage is not NOTHING and facts.flowing:
            usage = self._with_searches(usage, exchange)
        self.charge = self._pricing.charge(estimate, usage)
        context.charge = estimate.charge if self.charge is None else self.charge
        if usage is not None and facts.usage is None:
            context.usage = usage
        if context.charge.amount > _ABSURD * estimate.charge.amount > 0:
            logger.warning(
                "request %s cost %d nano-dollars, and %d were thought to be the most",
                context.request_id,
                context.charge.amount,
                estimate.charge.amount,
            )

    def _with_searches(self, usage: Usage, exchange: Exchange) -> Usage:
        """Return the usage with as many searches as were thought to be the most, where the answer does not say how many there were."""
        call = exchange.context.call
        known = usage.complete and call is not None and call.operation in _TELLING
        return usage if known else replace(usage, searches=max(usage.searches, self.estimate.most.searches))


def most_output(estimate: Estimate) -> int:
    """Return how many tokens may pass before more has to be reserved, or the answer cut.

    What passes is counted by its bytes, which is an estimate: where the request itself ends it, that gets a quarter of leeway.
    """
    usage: Usage = estimate.most
    return usage.output + (usage.output // 4 + 64 if estimate.capped else 0)
