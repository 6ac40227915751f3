from llm_authmw.testing import MockProvider

app = MockProvider()
