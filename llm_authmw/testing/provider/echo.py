"""What the mock answers, and how it counts.

It answers `Hello from <model>: <the last text of the user>`. A token is a word: what stands between blanks. The input is
every text of the request, the output is the answer, cut off at the output ceiling if the request names one.
"""

import hashlib
from typing import NamedTuple

from llm_authmw.testing.provider.requests import Message, Part


class Echo(NamedTuple):
    """One answer.

    Attributes:
        words: The answer in pieces: a token each, with the blank in front of it.
        input_tokens: Tokens of the request.
        cut: Whether the output ceiling cut the answer off.
    """

    words: tuple[str, ...]
    input_tokens: int
    cut: bool

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.words)

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.words)


def echo(model: str, messages: str | list[Message], *, instructions: str | list[Part] | None = None, ceiling: int | None = None) -> Echo:
    """Answer a conversation.

    Args:
        model: The model that the request names.
        messages: The conversation, or the only text of the user.
        instructions: What the request says outside the conversation.
        ceiling: The most tokens that the answer may have.
    """
    conversation = [Message("user", messages)] if isinstance(messages, str) else messages
    said = [text_of(message.content) for message in conversation if message.role == "user"]
    words = f"Hello from {model}: {said[-1] if said else ''}".split()
    pieces = tuple(word if place == 0 else f" {word}" for place, word in enumerate(words[:ceiling]))
    everything = [text_of(instructions), *(text_of(message.content) for message in conversation)]
    return Echo(pieces, sum(map(count_tokens, everything)), len(pieces) < len(words))


def count_tokens(text: str) -> int:
    """Return how many tokens a text has."""
    return len(text.split())


def digest(body: bytes) -> str:
    """Return 24 hexadecimal digits that stand for a request; the ids in its answer are made of them."""
    return hashlib.sha256(body).hexdigest()[:24]


def text_of(content: str | list[Part] | None) -> str:
    """Return the text of a content; the texts of several parts are lines."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content or ())
