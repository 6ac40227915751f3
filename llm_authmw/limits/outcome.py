"""What a request is charged for, whichever way it ended: the truth, what was seen of it, or what had been estimated. No I/O."""

from typing import Final, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import replace

from llm_authmw.call import COUNTS, Usage

ClientGone: TypeAlias = Literal["bill_seen", "drain", "bill_estimate"]
"""What is done where a client leaves in the middle: see `BudgetMiddleware`."""

CLIENT_GONE: Final[tuple[str, ...]] = get_args(ClientGone)

NOTHING: Final = Usage(requests=0, complete=True)
"""Of a request that is known to have come to nothing."""

_COUNTED: Final = tuple(name for name in COUNTS if name != "requests")
_REDIRECTS: Final = 300
SERVER_ERRORS: Final = 500
"""The first status that says that an error was the server's (RFC 9110 §15.6)."""
_OF_THE_ANSWER: Final[dict[str, int]] = dict.fromkeys(("output", "reasoning", "audio_output", "image_output", "searches", "images"), 0)


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a request that is over.

    Attributes:
        status: The status of the answer; None where none has begun.
        flowing: Whether some of the answer's body has passed.
        ended: Whether the app has sent its answer to the end.
        left: Whether the client left before that.
        raised: Whether the app raised an error, or was cancelled.
        failed: Whether the answer says that the call failed.
        seen: Tokens of the answer that have passed, estimated.
        usage: What the meter says; None where nothing was metered.
    """

    status: int | None = None
    flowing: bool = False
    ended: bool = False
    left: bool = False
    raised: bool = False
    failed: bool = False
    seen: int = 0
    usage: Usage | None = None


def final(facts: Facts, most: Usage, *, client_gone: ClientGone = "bill_seen", capped: bool = True) -> Usage | None:
    """Return what a request is charged for.

    Args:
        facts: How it ended.
        most: The most that it could use, which is what was reserved.
        client_gone: What is done where the client left and the app did not run on to the end.
        capped: Whether the answer cannot be longer than `most` has it. Else that was a guess, and more of it may have been seen.

    Returns:
        The usage, `complete` where it is the truth; `NOTHING` where nothing was used; None where nobody knows, so that the estimate stands.
    """
    usage = facts.usage
    if usage is not None and usage.complete and _counts_something(usage):
        return usage
    if facts.status is not None and facts.status >= _REDIRECTS:
        # An error of the app itself may have come after the request was sent on.
        if _says_something(facts) or (facts.raised and facts.status >= SERVER_ERRORS):
            return _broken_off(facts, most, capped=capped)
        return NOTHING
    if facts.left and client_gone == "bill_estimate":
        return None
    if not facts.ended or facts.left or facts.failed:
        return _broken_off(facts, most, capped=capped)
    if not capped and usage is not None and usage.output > most.output:
        return replace(most, output=usage.output, model=usage.model)
    return None


def combined(one: Usage, other: Usage) -> Usage:
    """Return what two answers used, `complete` if both are.

    Raises:
        InvalidValueError: a sum is beyond all sense.
    """
    counts = {name: getattr(one, name) + getattr(other, name) for name in COUNTS}
    return Usage(**counts, model=other.model or one.model, complete=one.complete and other.complete)


def _counts_something(usage: Usage) -> bool:
    """Say whether there is any count: a model was shown something, so that an answer in which all is zero has not said what was used."""
    return usage.input > 0 or usage.output > 0 or any(getattr(usage, name) for name in _COUNTED)


def _says_something(facts: Facts) -> bool:
    """Say whether the answer has counts of its own, and not only text that was counted here."""
    usage = facts.usage
    return usage is not None and (usage.input > 0 or usage.output > facts.seen)


def _broken_off(facts: Facts, most: Usage, *, capped: bool) -> Usage:
    """Return the input, and what was seen of the answer: the provider's own counts as far as it has given them."""
    usage = facts.usage
    if usage is None:
        # What cannot be read may have been all of it, once some of it has passed.
        return most if facts.flowing else replace(most, **_OF_THE_ANSWER)
    output = usage.output
    if capped and output == facts.seen:
        # Only an estimate, which the answer's own ceiling corrects.
        output = min(output, most.output)
    if usage.input > 0:
        return replace(usage, output=output)
    seen: dict[str, int] = {**_OF_THE_ANSWER, "output": output, "searches": usage.searches, "images": usage.images}
    return replace(most, **seen, model=usage.model)
