"""How many tokens a request is counted as before it runs, and how many afterwards."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from llm_authmw.asgi import Scope
from llm_authmw.call import MAX_COUNT, LLMCall, Usage
from llm_authmw.errors import Denial
from llm_authmw.ledger.buckets import Claim, Measure
from llm_authmw.limits.counted import Counted
from llm_authmw.limits.exchange import Exchange
from llm_authmw.limits.metered import comes_later, kind_of
from llm_authmw.limits.outcome import final
from llm_authmw.llm.extent import Extent, most
from llm_authmw.llm.operation import Found
from llm_authmw.quota import Limit

TOKENS: Final[frozenset[Measure]] = frozenset({"tokens", "input tokens", "output tokens"})
"""The measures that only the answer tells the truth of."""


class Estimate(msgspec.Struct, frozen=True, gc=False):
    """The tokens of one request before it runs.

    Attributes:
        bound: The most that it can use, as far as what it names and what is assumed in its place bound it.
        firm: The most that it can use by what it holds and names itself, so without what is only assumed.
        capped: Whether it names its ceiling.
    """

    bound: Usage
    firm: Usage
    capped: bool

    def claims(self, counted: Sequence[Counted]) -> list[Claim]:
        """Return the claims on the buckets, of tokens and of everything else.

        What is only the bound of a request waits for a full bucket at most, and what it uses beyond that is debt, which later requests
        wait for.

        Raises:
            Denial: what the request itself asks for is more than a limit ever lets through at once.
        """
        claims: list[Claim] = []
        for one in counted:
            measure = one.bucket.measure
            if measure not in TOKENS:
                claims.append(one.one)
                continue
            ever = one.bucket.limit if isinstance(one.quota, Limit) and one.quota.burst is None else one.bucket.capacity
            if tokens_of(self.firm, measure) > ever:
                raise Denial("request_exceeds_limit", rule=one.bucket.name, need=f"at most {ever} {measure} in one request")
            claims.append(Claim(one.bucket, min(tokens_of(self.bound, measure), one.bucket.capacity)))
        return claims

    def truth(self, claims: Sequence[Claim]) -> Callable[[Exchange], Mapping[Measure, int]]:
        """Return what says at what the claims are settled, once the request is over."""
        largest = max(claim.amount for claim in claims if claim.bucket.measure in TOKENS)
        # Of what was only assumed, never more than was claimed.
        shown = max(self.firm.input, min(self.bound.input, largest - min(self.bound.output, largest)))
        expected = Usage(input=shown, output=self.bound.output)

        def settled_at(exchange: Exchange) -> Mapping[Measure, int]:
            usage = final(exchange.facts, expected, capped=self.capped)
            return {} if usage is None else {measure: tokens_of(usage, measure) for measure in TOKENS}

        return settled_at


def runs_model(scope: Scope, method: str, path: str, found: Found | None, call: LLMCall, body: bytes) -> bool:
    """Say whether a request runs a model, so that its tokens are counted.

    Args:
        scope: The connection.
        method: As `patterns.canonical_route` gives it.
        path: Likewise.
        found: Its operation.
        call: What it asks for.
        body: Its body, as it was read.

    Raises:
        Denial: what it uses cannot be seen here (`operation_unmetered`).
    """
    kind = kind_of(scope, method, path, found)
    if kind == "free" or (kind == "unknown" and not call.models):
        return False
    if kind != "metered" or comes_later(call.operation, body):
        raise Denial("operation_unmetered", rule=call.operation)
    return True


def estimated(extent: Extent, call: LLMCall, *, default_output: int, context_window: int) -> Estimate:
    """Return the tokens of a request that runs a model.

    Args:
        extent: How much it can use.
        call: What it asks for.
        default_output: Tokens of each answer, where it names no ceiling.
        context_window: Tokens of input that is not in the body.
    """
    ceiling = call.max_output_tokens
    bound = most(extent, call, ceiling=default_output if ceiling is None else ceiling, context_window=context_window)
    if ceiling is not None and not extent.elsewhere:
        # Nothing is assumed.
        return Estimate(bound, bound, capped=True)
    firm = most(msgspec.structs.replace(extent, elsewhere=False), call, ceiling=1 if ceiling is None else ceiling)
    return Estimate(bound, firm, capped=ceiling is not None)


def tokens_of(usage: Usage, measure: Measure) -> int:
    """Return how many tokens of a measure that is."""
    if measure == "input tokens":
        return usage.input
    return usage.output if measure == "output tokens" else min(usage.input + usage.output, MAX_COUNT)
