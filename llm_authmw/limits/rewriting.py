"""What a budget writes into a request, where it is told to: a ceiling that can be paid for, a wish to hear what was used.

Whoever signed the body, or sent a digest of it, gets it on as it is: another one would be taken for a forged one.
"""

from typing import Final

import msgspec

from llm_authmw.asgi import Receive, Scope
from llm_authmw.call import LLMCall
from llm_authmw.context import RequestContext
from llm_authmw.errors import Denial
from llm_authmw.lens import Replay, RequestLens
from llm_authmw.limits.pricing import Estimate, Pricing
from llm_authmw.llm.extent import Extent
from llm_authmw.llm.operation import Found
from llm_authmw.llm.rewriting import with_ceiling, with_usage_asked

_HIDING: Final = frozenset({"chat", "completions"})
"""Operations of OpenAI's whose streams say what was used only when asked."""
_OF_THE_BODY: Final = frozenset({b"content-length", b"content-encoding"})
_SEALS: Final = frozenset({b"content-digest", b"content-md5", b"digest", b"repr-digest", b"signature", b"x-amz-content-sha256"})


class Written(msgspec.Struct, frozen=True, eq=False):
    """A request that goes on otherwise than it came.

    Attributes:
        call: What it asks for now.
        body: Its body.
        estimate: The most that it can cost.
        adds_usage: Whether the answer will have counts that the caller did not ask for.
    """

    call: LLMCall
    body: bytes
    estimate: Estimate
    adds_usage: bool

    def scope(self, scope: Scope) -> Scope:
        """Return the connection as the app is to see it."""
        headers = [line for line in scope["headers"] if line[0].lower() not in _OF_THE_BODY]
        return {**scope, "headers": [*headers, (b"content-length", b"%d" % len(self.body))]}

    async def replay(self, receive: Receive, lens: RequestLens, found: Found | None, context: RequestContext) -> Replay:
        """Return where the app receives the body from; all of what came was read before."""
        while (await receive()).get("more_body"):
            pass
        context.call = self.call
        message = {"type": "http.request", "body": self.body, "more_body": False}
        return Replay(receive, [message], lens, found, self.call, self.body)


class Rewriter:
    """Writes into requests.

    Args:
        pricing: Says what they cost.
        clamps: Whether the ceiling of what is generated is written in, and lowered to what is left.
        asks: Whether usage is asked for in streams.

    Attributes:
        clamps: As given.
        writes: Whether there is anything to do.
    """

    __slots__ = ("_asks", "_pricing", "clamps", "writes")

    def __init__(self, pricing: Pricing, *, clamps: bool, asks: bool) -> None:
        self._pricing: Final = pricing
        self._asks: Final = asks
        self.clamps: Final = clamps
        self.writes: Final = clamps or asks

    def rewrite(
        self, scope: Scope, found: Found, call: LLMCall, body: bytes, *, extent: Extent, estimate: Estimate, left: int | None
    ) -> Written | None:
        """Return the request as it is to go on, or None where it goes on as it came.

        Args:
            scope: The connection.
            found: The request's operation.
            call: What it asks for.
            body: Its body, not compressed.
            extent: How much it can use.
            estimate: The most that it can cost.
            left: Nano-dollars that are left for it; None where there is no budget.
        """
        if not body or any(name.lower() in _SEALS for name, _ in scope["headers"]):
            return None
        written = body
        if self.clamps and estimate.ceiling:
            ceiling = self._affordable(call, extent, estimate, left)
            if ceiling < (call.max_output_tokens or ceiling + 1):
                clamped = with_ceiling(found, body, ceiling)
                if clamped is not None:
                    written = clamped
                    call = msgspec.structs.replace(call, max_output_tokens=ceiling)
                    estimate = self._pricing.estimate(call, extent, ceiling=ceiling)
        asks = self._asks and call.dialect == "openai" and call.operation in _HIDING
        asked = with_usage_asked(written) if asks else None
        if asked is None and written is body:
            return None
        return Written(call, written if asked is None else asked, estimate, asked is not None)

    def _affordable(self, call: LLMCall, extent: Extent, estimate: Estimate, left: int | None) -> int:
        """Return the highest ceiling that what is left can pay for; where that is none, the one that there is."""
        if left is None or estimate.charge.amount <= left:
            return estimate.ceiling
        least, above = 0, estimate.ceiling
        while above - least > 1:
            middle = (least + above) // 2
            try:
                pays = self._pricing.estimate(call, extent, ceiling=middle).charge.amount <= left
            except Denial:
                pays = False
            least, above = (middle, above) if pays else (least, middle)
        return least or estimate.ceiling
