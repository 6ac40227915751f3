"""A mock LLM provider: an ASGI app that answers as the OpenAI and Anthropic APIs do, and remembers what it was asked."""

from llm_authmw.testing.provider.app import MockProvider, SeenRequest, StreamDropped

__all__ = ["MockProvider", "SeenRequest", "StreamDropped"]
