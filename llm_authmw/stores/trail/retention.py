"""Which entries are old enough to be removed."""

from collections.abc import Sequence


def removable(chain: Sequence[tuple[int, str]], before: int) -> int:
    """Return how many of the oldest entries of one writer's chain can be removed.

    What is left begins with a checkpoint that is itself too old: it says what the hash before it was and is signed, and so stands for all
    that is gone. A chain that is old as a whole goes as a whole.

    Args:
        chain: Time and kind of each entry, in the order of the chain. Requests are dated by when they came, and end in another order.
        before: Microseconds since 1970; what is dated from then on is kept.
    """
    old = next((place for place, (time, _) in enumerate(chain) if time >= before), None)
    if old is None:
        return len(chain)
    return max((place for place, (_, kind) in enumerate(chain[:old]) if kind == "checkpoint"), default=0)
