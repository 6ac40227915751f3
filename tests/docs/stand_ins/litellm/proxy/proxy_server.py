"""The LiteLLM proxy as a page sees it. The real one runs the page's program in tests/interop/test_litellm_proxy.py."""

from llm_authmw.testing import MockProvider

app = MockProvider()
