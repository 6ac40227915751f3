"""Whether a route that no table of operations has looks like one of an LLM API all the same: a new one, or somebody's own."""

import re
from typing import Final

from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.endings import Ending

_VERSION: Final = re.compile(r"v\d+(?:[.p]\d+)*(?:(?:alpha|beta)\d*)?")
_JOINT: Final = re.compile(r"[-_.]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words of the table that any app has routes of.
_EVERYDAY: Final = _words(
    "accept agents api calls cancel characters complete content endpoints events extensions files jobs messages parts pause refer reject"
    " results resume runs search sessions steps threads uploads utils videos"
)
# What servers of models call their routes beside those of the table.
_OF_SERVERS: Final = _words(
    "ai collective_rpc completion encode generation infer inference llm lora pipeline predict prediction predictions prompts transcribe"
)
# What gateways put in front of whatever a provider has, and kinds of requests that only some of them know.
_OF_GATEWAYS: Final = _words(
    "a2a assemblyai azure azure_ai azure_speech bedrock bespoke cohere comprehendmedical cursor eu.assemblyai fal_ai gemini gigachat"
    " langfuse laya milvus mistral nvidia_nim openai openai_passthrough openrouter rag systemone tinyfish transform_request typesafe vertex"
    " vertex-ai vertex_ai vllm watsonx"
)
_OF_THE_TABLE: Final = frozenset(
    segment for operation in BUILT_IN for route in operation.routes for segment in Ending.parse(route).segments if segment
)
_WORDS: Final = (_OF_THE_TABLE - _EVERYDAY) | _OF_SERVERS | _OF_GATEWAYS
# Ollama's ways to fetch models, and to give one the name of another.
_OF_OLLAMA: Final = ("/api/copy", "/api/create", "/api/pull", "/api/push")
_OF_TOOLS: Final = frozenset({"mcp", "mcp-rest", "tools"})
_ALL: Final = _WORDS | _OF_TOOLS


def resembles_an_api(path: str) -> bool:
    """Say whether a path has a version, an action, or a word in it as the routes of LLM APIs do.

    What such a route does with a request that names no model nobody knows, so that callers whose models are restricted need a role which
    names the route itself. Any other route is the app's own business: what its body names in the usual places is looked at, and no more.

    Args:
        path: A canonical path (`llm_authmw.patterns.canonical_route`).
    """
    lowered = path.lower().rstrip("/")
    segments = lowered.split("/")
    if ":" in segments[-1] or lowered.endswith(_OF_OLLAMA):
        return True
    return any(_speaks(segment, _ALL) or _VERSION.fullmatch(segment) is not None for segment in segments)


def resembles_tools(path: str) -> bool:
    """Say whether a path has a word in it as routes have on which tools are run.

    Args:
        path: A canonical path.
    """
    return any(_speaks(segment, _OF_TOOLS) for segment in path.lower().split("/"))


def _speaks(segment: str, words: frozenset[str]) -> bool:
    """Say whether a segment is one of the words, or is put together with one: `generate_stream`, `github-mcp`."""
    return segment in words or not words.isdisjoint(_JOINT.split(segment))
