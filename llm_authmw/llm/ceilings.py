"""By which members an API lets a caller bound what is generated.

A ceiling that the API does not know bounds nothing: `max_gen_len` in a chat with OpenAI is passed over, and would make an estimate
small that is not. So one that is known has to be there, and of all that are there the largest counts.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Raw

from llm_authmw.call import ApiDialect
from llm_authmw.llm.json_body import NULL, OBJECT, begins, members_of

_GEMINI: Final = tuple(
    f"{settings}.{member}" for settings in ("generationConfig", "generation_config") for member in ("maxOutputTokens", "max_output_tokens")
)

CEILINGS: Final[Mapping[ApiDialect, tuple[str, ...]]] = {
    "openai": ("max_completion_tokens", "max_tokens", "max_output_tokens"),
    "anthropic": ("max_tokens",),
    "gemini": _GEMINI,
    "bedrock": ("inferenceConfig.maxTokens",),
    "rerank": (),
    "mcp": (),
    "other": ("max_tokens", "max_completion_tokens"),
}
"""Those of an operation that does not say which it has, by its dialect."""


def names_ceiling(members: Mapping[str, Raw], ceilings: Iterable[str]) -> bool:
    """Say whether one of some ceilings is there.

    Args:
        members: The members of a body.
        ceilings: Names of members, within others with a dot between.

    Raises:
        ValueError: an object on the way holds a member twice.
    """
    return any(_is_there(members, *path.split(".")) for path in ceilings)


def _is_there(members: Mapping[str, Raw], name: str, *inside: str) -> bool:
    value = members.get(name)
    if value is None or value == NULL:
        return False
    return not inside or (begins(value) == OBJECT and _is_there(members_of(bytes(value)), *inside))
