import json
from typing import Any

import pytest

from llm_authmw.call import Usage
from llm_authmw.llm.tally import Tally


def used(answer: Any, operation: str = "chat") -> Usage | None:
    tally = Tally(operation)
    tally.read(json.dumps(answer).encode())
    return tally.usage()


KNOWN: dict[str, tuple[str, dict[str, Any], Usage]] = {
    "OpenAI's chat: parts are parts of their whole": (
        "chat",
        {
            "model": "gpt-4o-2024-08-06",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
            "usage": {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "total_tokens": 150,
                "prompt_tokens_details": {
                    "cached_tokens": 64,
                    "cache_write_tokens": 9,
                    "audio_tokens": 5,
                    "image_tokens": 7,
                    "text_tokens": 88,
                },
                "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 3, "rejected_prediction_tokens": 2},
            },
        },
        Usage(
            input=100,
            cached_input=64,
            cache_write=9,
            audio_input=5,
            image_input=7,
            output=50,
            reasoning=20,
            audio_output=3,
            total=150,
            model="gpt-4o-2024-08-06",
            complete=True,
        ),
    ),
    "xAI's chat: reasoning stands beside the completion": (
        "chat",
        {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45, "completion_tokens_details": {"reasoning_tokens": 30}}},
        Usage(input=10, output=35, reasoning=30, total=45, complete=True),
    ),
    "a completion that is left out is what the sum says": (
        "chat",
        {"usage": {"prompt_tokens": 10, "total_tokens": 45}},
        Usage(input=10, output=35, total=45, complete=True),
    ),
    "OpenAI's responses, with two searches": (
        "responses",
        {
            "object": "response",
            "status": "completed",
            "error": None,
            "model": "gpt-5",
            "output": [{"type": "web_search_call"}, {"type": "message", "content": []}, {"type": "web_search_call"}],
            "usage": {
                "input_tokens": 36,
                "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
                "output_tokens": 87,
                "output_tokens_details": {"reasoning_tokens": 64},
                "total_tokens": 123,
            },
        },
        Usage(input=36, cached_input=8, cache_write=4, output=87, reasoning=64, searches=2, total=123, model="gpt-5", complete=True),
    ),
    "embeddings have no output": (
        "embeddings",
        {"object": "list", "data": [], "model": "text-embedding-3-small", "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        Usage(input=8, total=8, model="text-embedding-3-small", complete=True),
    ),
    "Voyage's embeddings say the sum only": (
        "embeddings",
        {"object": "list", "model": "voyage-3", "usage": {"total_tokens": 8}},
        Usage(input=8, total=8, model="voyage-3", complete=True),
    ),
    "a transcription by tokens": (
        "audio.transcriptions",
        {
            "text": "Hello",
            "usage": {
                "type": "tokens",
                "input_tokens": 14,
                "input_token_details": {"text_tokens": 4, "audio_tokens": 10},
                "output_tokens": 45,
                "total_tokens": 59,
            },
        },
        Usage(input=14, audio_input=10, output=45, total=59, complete=True),
    ),
    "a transcription by seconds, rounded up": (
        "audio.transcriptions",
        {"text": "Hello", "usage": {"type": "duration", "seconds": 8.2}},
        Usage(seconds=9, complete=True),
    ),
    "images that are paid for by tokens": (
        "images",
        {
            "created": 1,
            "data": [{"b64_json": "AA=="}, {"b64_json": "AA=="}],
            "usage": {
                "input_tokens": 50,
                "input_tokens_details": {"text_tokens": 10, "image_tokens": 40},
                "output_tokens": 500,
                "output_tokens_details": {"image_tokens": 480, "text_tokens": 20},
                "total_tokens": 550,
            },
        },
        Usage(input=50, image_input=40, output=500, image_output=480, images=2, total=550, complete=True),
    ),
    "Anthropic's messages: the cache stands beside the input": (
        "messages",
        {
            "type": "message",
            "model": "claude-sonnet-5",
            "content": [{"type": "text", "text": "Hi"}],
            "usage": {
                "input_tokens": 10,
                "cache_creation_input_tokens": 200,
                "cache_read_input_tokens": 3000,
                "cache_creation": {"ephemeral_5m_input_tokens": 50, "ephemeral_1h_input_tokens": 150},
                "output_tokens": 40,
                "output_tokens_details": {"thinking_tokens": 25},
                "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1},
                "service_tier": "standard",
            },
        },
        Usage(
            input=3210,
            cached_input=3000,
            cache_write=200,
            cache_write_1h=150,
            output=40,
            reasoning=25,
            searches=2,
            model="claude-sonnet-5",
            complete=True,
        ),
    ),
    "Gemini: thoughts stand beside the candidates": (
        "generate_content",
        {
            "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
            "modelVersion": "gemini-2.5-flash",
            "usageMetadata": {
                "promptTokenCount": 300,
                "cachedContentTokenCount": 120,
                "candidatesTokenCount": 40,
                "thoughtsTokenCount": 60,
                "toolUsePromptTokenCount": 5,
                "totalTokenCount": 405,
                "promptTokensDetails": [
                    {"modality": "TEXT", "tokenCount": 30},
                    {"modality": "IMAGE", "tokenCount": 258},
                    {"modality": "AUDIO", "tokenCount": 12},
                ],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 33}],
            },
        },
        Usage(
            input=305,
            cached_input=120,
            audio_input=12,
            image_input=258,
            output=100,
            reasoning=60,
            image_output=33,
            total=405,
            model="gemini-2.5-flash",
            complete=True,
        ),
    ),
    "Gemini leaves out what is zero": (
        "generate_content",
        {"usageMetadata": {"promptTokenCount": 7, "totalTokenCount": 7}},
        Usage(input=7, total=7, complete=True),
    ),
    "Bedrock's Converse": (
        "converse",
        {
            "output": {"message": {"role": "assistant", "content": [{"text": "Hi"}]}},
            "stopReason": "end_turn",
            "usage": {
                "inputTokens": 20,
                "outputTokens": 8,
                "totalTokens": 1128,
                "cacheReadInputTokens": 1000,
                "cacheWriteInputTokens": 100,
                "cacheDetails": [{"inputTokens": 60, "ttl": "1h"}, {"inputTokens": 40, "ttl": "5m"}],
            },
            "metrics": {"latencyMs": 500},
        },
        Usage(input=1120, cached_input=1000, cache_write=100, cache_write_1h=60, output=8, total=1128, complete=True),
    ),
    "Llama on Bedrock": (
        "invoke",
        {"generation": "Hi", "prompt_token_count": 12, "generation_token_count": 3, "stop_reason": "stop"},
        Usage(input=12, output=3, complete=True),
    ),
    "Cohere's rerank is billed by searches": (
        "rerank",
        {"id": "r", "results": [], "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 3}}},
        Usage(searches=3, complete=True),
    ),
    "Jina's rerank by tokens": (
        "rerank",
        {"model": "jina-reranker-v2", "usage": {"total_tokens": 815}, "results": []},
        Usage(input=815, total=815, model="jina-reranker-v2", complete=True),
    ),
    "Cohere's chat: all tokens, not only the billed ones": (
        "chat",
        {
            "message": {"role": "assistant"},
            "usage": {"billed_units": {"input_tokens": 5, "output_tokens": 4}, "tokens": {"input_tokens": 71, "output_tokens": 9}},
        },
        Usage(input=71, output=9, complete=True),
    ),
    "Ollama": (
        "chat",
        {"model": "llama3.2", "message": {"role": "assistant", "content": "Hi"}, "done": True, "prompt_eval_count": 26, "eval_count": 298},
        Usage(input=26, output=298, model="llama3.2", complete=True),
    ),
}


@pytest.mark.parametrize(("operation", "answer", "usage"), KNOWN.values(), ids=KNOWN)
def test_what_an_answer_says_is_counted(operation: str, answer: dict[str, Any], usage: Usage) -> None:
    assert usage == used(answer, operation)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 5},
        {"completion_tokens": 5},
        {"total_tokens": 5},
        {"prompt_tokens": 5, "total_tokens": 4},
        {"input_tokens": 5},
        {"output_tokens": 5},
        {"inputTokens": 5},
        {"tokens": {"output_tokens": 5}},
    ],
)
def test_half_of_the_counts_is_not_the_truth(usage: dict[str, Any]) -> None:
    counted = used({"usage": usage})
    assert counted is not None
    assert not counted.complete


def test_ollama_leaves_the_prompt_out_where_it_was_cached_and_then_it_is_not_known() -> None:
    counted = used({"model": "llama3.2", "done": True, "eval_count": 298})
    assert Usage(output=298, model="llama3.2") == counted


@pytest.mark.parametrize("count", [-1, 1.5, 12.0, "12", True, 2**53 + 1, 10**30, [], {}])
def test_a_count_that_is_no_count_makes_the_usage_unknown_and_not_zero(count: Any) -> None:
    for answer in ({"usage": {"prompt_tokens": count, "completion_tokens": 1}}, {"usageMetadata": {"promptTokenCount": count}}):
        tally = Tally("chat")
        tally.read(json.dumps(answer).encode())
        assert tally.usage() is None
        assert tally.spoiled


def test_a_sum_that_is_beyond_all_sense_makes_the_usage_unknown() -> None:
    tally = Tally("messages")
    tally.read(b'{"usage":{"input_tokens":%d,"cache_read_input_tokens":1,"output_tokens":1}}' % 2**53)
    assert tally.usage() is None
    assert tally.spoiled


@pytest.mark.parametrize("text", [b"", b"[]", b"no", b'{"usage":', b'{"usage":7}', b'{"usage":"x"}', b'{"a":' * 5000, b"\xff"])
def test_a_text_that_cannot_be_read_is_noticed(text: bytes) -> None:
    tally = Tally("chat")
    tally.read(text)
    assert tally.usage() is None
    assert tally.spoiled


@pytest.mark.parametrize("answer", [{}, {"usage": None}, {"usage": {}}, {"meta": {"api_version": {"version": "2"}}}, {"response": "Hi"}])
def test_an_answer_without_counts_has_no_usage(answer: dict[str, Any]) -> None:
    tally = Tally("chat")
    tally.read(json.dumps(answer).encode())
    assert tally.usage() is None
    assert not tally.spoiled


def test_counts_in_what_the_model_wrote_are_no_counts() -> None:
    called = {"name": "f", "args": {"usageMetadata": {"promptTokenCount": 0}, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}}
    assert used({"candidates": [{"content": {"parts": [{"functionCall": called}]}}]}) is None


def test_pictures_without_usage_are_counted_and_their_tokens_not_known() -> None:
    assert Usage(images=2) == used({"created": 1, "data": [{"url": "x"}, {"url": "y"}]}, "images")


def test_a_name_of_a_model_that_is_too_long_is_no_name() -> None:
    counted = used({"model": "m" * 513, "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    assert counted is not None
    assert counted.model is None
