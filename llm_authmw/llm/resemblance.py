"""Whether a route that no table of operations has looks like one of an LLM API all the same: a new one, or somebody's own."""

import re
from typing import Final

from llm_authmw.llm.apis import BUILT_IN
from llm_authmw.llm.endings import Ending

_VERSION: Final = re.compile(r"v\d+(?:[.p]\d+)*(?:(?:alpha|beta)\d*)?")
_JOINT: Final = re.compile(r"[-_.]")
_EVERYDAY: Final = frozenset(
    {
        *(
            "accept",
            "api",
            "calls",
            "cancel",
            "characters",
            "complete",
            "content",
            "endpoints",
            "events",
            "extensions",
            "files",
            "jobs",
            "messages",
            "parts",
        ),
        *("pause", "refer", "reject", "results", "resume", "runs", "search", "sessions", "steps", "threads", "uploads", "utils", "videos"),
    }
)
"""Words of the table that any app has routes of."""
_WORDS: Final = (
    frozenset(segment for operation in BUILT_IN for route in operation.routes for segment in Ending.parse(route).segments if segment)
    | {
        *("completion", "encode", "generation", "infer", "inference", "llm", "lora", "predict", "prediction", "predictions", "prompts"),
        # What gateways put in front of whatever a provider has, and kinds of requests that only some of them know.
        *(
            "a2a",
            "assemblyai",
            "azure",
            "azure_ai",
            "bedrock",
            "cohere",
            "gemini",
            "mistral",
            "openai",
            "rag",
            "vertex",
            "vertex-ai",
            "vllm",
        ),
        # The same, as LiteLLM's pass-through routes begin.
        *(
            "azure_speech",
            "bespoke",
            "comprehendmedical",
            "cursor",
            "eu.assemblyai",
            "fal_ai",
            "gigachat",
            "laya",
            "langfuse",
            "milvus",
            "nvidia_nim",
            "openai_passthrough",
            "openrouter",
            "systemone",
            "tinyfish",
            "transcribe",
            "transform_request",
            "typesafe",
            "vertex_ai",
            "watsonx",
        ),
    }
) - _EVERYDAY
_OF_TOOLS: Final = frozenset({"mcp", "mcp-rest", "tools"})
_ALL: Final = _WORDS | _OF_TOOLS


def resembles_an_api(path: str) -> bool:
    """Say whether a path has a version, an action, or a word in it as the routes of LLM APIs do.

    What such a route does with a request that names no model nobody knows, so that callers whose models are restricted need a role which
    names the route itself. Any other route is the app's own business: what its body names in the usual places is looked at, and no more.

    Args:
        path: A canonical path (`llm_authmw.patterns.canonical_route`).
    """
    segments = path.lower().split("/")
    return ":" in segments[-1] or any(_speaks(segment, _ALL) or _VERSION.fullmatch(segment) is not None for segment in segments)


def resembles_tools(path: str) -> bool:
    """Say whether a path has a word in it as routes have on which tools are run.

    Args:
        path: A canonical path.
    """
    return any(_speaks(segment, _OF_TOOLS) for segment in path.lower().split("/"))


def _speaks(segment: str, words: frozenset[str]) -> bool:
    """Say whether a segment is one of the words, or is put together with one: `generate_stream`, `github-mcp`."""
    return segment in words or not words.isdisjoint(_JOINT.split(segment))
