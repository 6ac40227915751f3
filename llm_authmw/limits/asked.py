"""What a limit is counted by: who asks, and for what."""

import msgspec

from llm_authmw.call import UNLISTED, LLMCall
from llm_authmw.network import Address
from llm_authmw.principal import Principal


class Asked(msgspec.Struct, frozen=True, gc=False):
    """Who asks, and for what: all that a limit can be counted by.

    Attributes:
        principal: Who is calling.
        tier: The tier that applies, the principal's own or the one that its role gives.
        call: What is asked for; None where it was not read.
        method: As `patterns.canonical_route` gives it.
        path: Likewise.
        operation: The kind of request, as the table of operations calls it.
        address: The client's address; None where it is not known.
    """

    principal: Principal
    tier: str | None
    call: LLMCall | None
    method: str
    path: str
    operation: str = UNLISTED
    address: Address | None = None
