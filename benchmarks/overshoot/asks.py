"""What the clients ask for, what the upstream does with it, and what that costs: the same for every guard, from one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

MODEL: Final = "mock-large"
INPUT_NANO: Final = 1_250
"""Nano-dollars for a token of input: $1.25 per million."""
OUTPUT_NANO: Final = 10_000
"""Nano-dollars for a token of output: $10 per million."""
CEILINGS: Final = (64, 128, 256)
CHUNK: Final = 16
"""Tokens in one event of a stream."""
TOKEN: Final = "word "
"""One token, five bytes: English has four to five."""

Fault: TypeAlias = Literal["none", "refuse", "break", "silent"]
"""What the upstream does wrong: nothing, an error before it has done anything, one in the middle, an answer without usage."""

FAULTS: Final[tuple[Fault, ...]] = ("none", "refuse", "break", "silent")
WEIGHTS: Final = (82, 6, 6, 6)
LEAVES: Final = 0.12
"""The share of streams whose client leaves, half of them before the first event."""
STREAMED: Final = 0.85


@dataclass(frozen=True)
class Ask:
    """One execution that a client asks for.

    Attributes:
        id: Its name, which the upstream notes.
        ceiling: The most tokens that its answer may have.
        output: The tokens that its answer has.
        fault: What the upstream does wrong.
        stream: Whether the answer is streamed.
        leaves_after: Events after which the client leaves; None where it stays.
        pause: Milliseconds between two events.
        even: Whether the events of a stream are all of one length. Else the first one has a single token, as of most providers.
    """

    id: str
    ceiling: int
    output: int
    fault: Fault = "none"
    stream: bool = True
    leaves_after: int | None = None
    pause: int = 100
    even: bool = False

    @property
    def content(self) -> str:
        """The message: it tells the upstream what to do, through whatever is in between."""
        told = f"id={self.id} output={self.output} fault={self.fault} pause={self.pause}"
        return f"{told} even=1" if self.even else told

    @property
    def body(self) -> dict[str, Any]:
        """The body of the request."""
        body: dict[str, Any] = {"model": MODEL, "max_tokens": self.ceiling, "messages": [{"role": "user", "content": self.content}]}
        return {**body, "stream": True, "stream_options": {"include_usage": True}} if self.stream else body

    @property
    def most(self) -> int:
        """Nano-dollars that it costs at most."""
        return cost(input_tokens(self.content), self.ceiling)


def input_tokens(content: str) -> int:
    """Return how many tokens the upstream takes a message for."""
    return 4 + len(content) // 4


def cost(read: int, written: int) -> int:
    """Return the nano-dollars that tokens of input and output cost."""
    return read * INPUT_NANO + written * OUTPUT_NANO


def largest() -> Ask:
    """Return what the budget is measured in: the dearest ask, which also uses all of its ceiling, and at once."""
    return Ask("largest", max(CEILINGS), max(CEILINGS), pause=0)


def asks(seed: int, stream: int) -> Iterator[Ask]:
    """Yield what one of the clients asks for, one after the other, for ever.

    Args:
        seed: The seed of the run.
        stream: Which of the clients.
    """
    chance = random.Random(f"{seed} {stream}")
    number = 0
    while True:
        number += 1
        ceiling = chance.choice(CEILINGS)
        streamed = chance.random() < STREAMED
        leaves = streamed and chance.random() < LEAVES
        yield Ask(
            id=f"{stream}.{number}",
            ceiling=ceiling,
            output=chance.randint(ceiling // 5, ceiling),
            fault=chance.choices(FAULTS, WEIGHTS)[0],
            stream=streamed,
            leaves_after=chance.choice((0, chance.randint(1, 4))) if leaves else None,
        )


def leaving(seed: int, stream: int) -> Iterator[Ask]:
    """Yield what a client asks for that leaves before each answer says what it used: what it has seen of it is all that can be charged.

    Args:
        seed: The seed of the run.
        stream: Which of the clients.
    """
    chance = random.Random(f"{seed} {stream}")
    number = 0
    while True:
        number += 1
        ceiling = max(CEILINGS)
        last = ceiling // CHUNK
        yield Ask(f"{stream}.{number}", ceiling, ceiling, leaves_after=chance.randint(last // 2, last - 2), pause=30, even=True)
