"""Every call of the OpenAI SDK that reaches a model or carries a body, and those that look at what such a call left."""

import io
from typing import Any, Final

import pydantic

from tests.corpus.recorder import Calls

ASKED: Final = [{"role": "user", "content": "Say hi, “please”."}]
PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\xff"
WAV: Final = b"RIFF\x24\x00\x00\x00WAVEfmt \xff"
SMALL: Final = "gpt-4o-mini"
LARGE: Final = "gpt-4o"
WEATHER: Final = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
FUNCTION: Final = {"name": "get_weather", "parameters": WEATHER}
SCHEMA: Final = {"name": "answer", "strict": True, "schema": WEATHER}
BATCH: Final = (
    b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"gpt-4o-mini","messages":[]}}\n'
    b'{"custom_id":"2","method":"POST","url":"/v1/embeddings","body":{"model":"text-embedding-3-small","input":"hi"}}\n'
)
GRADER: Final = {"type": "score_model", "name": "g", "model": "o3-mini", "input": [{"role": "user", "content": "grade it"}]}


class Answer(pydantic.BaseModel):
    """A structured answer."""

    city: str


def _upload(name: str, content: bytes) -> io.BytesIO:
    file = io.BytesIO(content)
    file.name = name
    return file


def _read(stream: Any) -> None:
    with stream as events:
        for _ in events:
            pass


CHAT: Final[Calls] = {
    "chat": lambda c: c.chat.completions.create(model=SMALL, messages=ASKED),
    "chat.ceiling": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, max_completion_tokens=64, n=3, temperature=0.5, seed=7
    ),
    "chat.old_ceiling": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, max_tokens=16, stop=["\n"], logit_bias={"50256": -100}
    ),
    "chat.stream": lambda c: _read(
        c.chat.completions.create(model=SMALL, messages=ASKED, stream=True, stream_options={"include_usage": True})
    ),
    "chat.tools": lambda c: c.chat.completions.create(
        model=SMALL,
        messages=ASKED,
        tools=[{"type": "function", "function": FUNCTION}],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        parallel_tool_calls=False,
    ),
    "chat.tool_answer": lambda c: c.chat.completions.create(
        model=SMALL,
        messages=[
            *ASKED,
            {
                "role": "assistant",
                "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Ulm"}'}}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
    ),
    "chat.functions": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, functions=[{"name": "get_weather", "parameters": WEATHER}]
    ),
    "chat.custom_tool": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, tools=[{"type": "custom", "custom": {"name": "shell"}}]
    ),
    "chat.json_schema": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, response_format={"type": "json_schema", "json_schema": SCHEMA}
    ),
    "chat.parse": lambda c: c.chat.completions.parse(model=SMALL, messages=ASKED, response_format=Answer),
    "chat.image": lambda c: c.chat.completions.create(
        model=LARGE,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
                ],
            }
        ],
    ),
    "chat.audio": lambda c: c.chat.completions.create(
        model="gpt-4o-audio-preview",
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        messages=[{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}}]}],
    ),
    "chat.web_search": lambda c: c.chat.completions.create(model="gpt-4o-search-preview", messages=ASKED, web_search_options={}),
    "chat.end_user": lambda c: c.chat.completions.create(model=SMALL, messages=ASKED, user="u-1", metadata={"team": "blue"}, store=True),
    "chat.safety_identifier": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, safety_identifier="s-1", prompt_cache_key="k"
    ),
    "chat.prediction": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, prediction={"type": "content", "content": "hi"}, reasoning_effort="low", service_tier="flex"
    ),
    "chat.extra_body": lambda c: c.chat.completions.create(
        model=SMALL, messages=ASKED, extra_body={"fallbacks": [LARGE], "thinking": {"type": "enabled", "budget_tokens": 1024}}
    ),
    "chat.extra_query": lambda c: c.chat.completions.create(model=SMALL, messages=ASKED, extra_query={"model": LARGE}),
    "chat.extra_headers": lambda c: c.chat.completions.create(model=SMALL, messages=ASKED, extra_headers={"x-litellm-model": LARGE}),
    "chat.stored": lambda c: c.chat.completions.retrieve("chatcmpl-1"),
    "chat.stored.list": lambda c: c.chat.completions.list(model=SMALL),
    "chat.stored.update": lambda c: c.chat.completions.update("chatcmpl-1", metadata={"a": "b"}),
    "chat.stored.delete": lambda c: c.chat.completions.delete("chatcmpl-1"),
    "completions": lambda c: c.completions.create(
        model="gpt-3.5-turbo-instruct", prompt=["a", "b"], max_tokens=32, n=2, best_of=4, echo=True
    ),
    "completions.stream": lambda c: _read(c.completions.create(model="gpt-3.5-turbo-instruct", prompt="a", stream=True)),
}

RESPONSES: Final[Calls] = {
    "responses": lambda c: c.responses.create(model=SMALL, input="hi"),
    "responses.items": lambda c: c.responses.create(
        model=SMALL, instructions="be brief", input=ASKED, max_output_tokens=256, truncation="auto"
    ),
    "responses.stream": lambda c: _read(c.responses.create(model=SMALL, input="hi", stream=True)),
    "responses.functions": lambda c: c.responses.create(
        model=SMALL,
        input="hi",
        tools=[{"type": "function", "name": "get_weather", "parameters": WEATHER, "strict": True}],
        tool_choice="required",
    ),
    "responses.provider_tools": lambda c: c.responses.create(
        model=LARGE,
        input="hi",
        tools=[
            {"type": "web_search"},
            {"type": "file_search", "vector_store_ids": ["vs_1"]},
            {"type": "code_interpreter", "container": {"type": "auto"}},
            {"type": "image_generation", "model": "gpt-image-1"},
        ],
        max_tool_calls=2,
    ),
    "responses.mcp": lambda c: c.responses.create(
        model=LARGE,
        input="hi",
        tools=[
            {
                "type": "mcp",
                "server_label": "docs",
                "server_url": "https://mcp.example.com",
                "allowed_tools": ["search"],
                "require_approval": "never",
            }
        ],
    ),
    "responses.background": lambda c: c.responses.create(model="o3", input="hi", background=True, reasoning={"effort": "high"}, store=True),
    "responses.previous": lambda c: c.responses.create(model=SMALL, input="and?", previous_response_id="resp_1"),
    "responses.conversation": lambda c: c.responses.create(model=SMALL, input="and?", conversation="conv_1", user="u-1"),
    "responses.stored_prompt": lambda c: c.responses.create(prompt={"id": "pmpt_1", "version": "2", "variables": {"city": "Ulm"}}),
    "responses.parse": lambda c: c.responses.parse(model=SMALL, input="hi", text_format=Answer),
    "responses.compact": lambda c: c.responses.compact(model=SMALL, previous_response_id="resp_1"),
    "responses.count": lambda c: c.responses.input_tokens.count(model=SMALL, input="hi"),
    "responses.stored": lambda c: c.responses.retrieve("resp_1"),
    "responses.stored.resumed": lambda c: _read(c.responses.retrieve("resp_1", stream=True, starting_after=3)),
    "responses.stored.items": lambda c: c.responses.input_items.list("resp_1"),
    "responses.stored.cancel": lambda c: c.responses.cancel("resp_1"),
    "responses.stored.delete": lambda c: c.responses.delete("resp_1"),
    "conversations.create": lambda c: c.conversations.create(items=[{"type": "message", "role": "user", "content": "hi"}]),
    "decisions": lambda c: c.decisions.create(
        model=SMALL, input="hi", questions=[{"id": "q", "question": "is it?", "answers": ["yes", "no"]}]
    ),
}

MEDIA: Final[Calls] = {
    "embeddings": lambda c: c.embeddings.create(model="text-embedding-3-small", input="hi"),
    "embeddings.list": lambda c: c.embeddings.create(
        model="text-embedding-3-large", input=["a", "b"], dimensions=256, encoding_format="float", user="u-1"
    ),
    "embeddings.tokens": lambda c: c.embeddings.create(model="text-embedding-3-small", input=[[1, 2, 3]]),
    "moderations": lambda c: c.moderations.create(input="hi", model="omni-moderation-latest"),
    "moderations.default": lambda c: c.moderations.create(input=["hi"]),
    "images.generate": lambda c: c.images.generate(model="gpt-image-1", prompt="a cat", n=2, size="1024x1024", user="u-1"),
    "images.generate.stream": lambda c: _read(c.images.generate(model="gpt-image-1", prompt="a cat", stream=True, partial_images=1)),
    "images.generate.default": lambda c: c.images.generate(prompt="a cat"),
    "images.edit": lambda c: c.images.edit(model="gpt-image-1", image=[_upload("a.png", PNG), _upload("b.png", PNG)], prompt="a hat", n=1),
    "images.variation": lambda c: c.images.create_variation(model="dall-e-2", image=_upload("a.png", PNG)),
    "audio.speech": lambda c: c.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="hi"),
    "audio.transcription": lambda c: c.audio.transcriptions.create(model="whisper-1", file=_upload("a.wav", WAV), language="en"),
    "audio.transcription.stream": lambda c: _read(
        c.audio.transcriptions.create(model="gpt-4o-transcribe", file=_upload("a.wav", WAV), stream=True)
    ),
    "audio.translation": lambda c: c.audio.translations.create(model="whisper-1", file=_upload("a.wav", WAV)),
    "videos.create": lambda c: c.videos.create(model="sora-2", prompt="a cat", seconds="4"),
    "videos.create.default": lambda c: c.videos.create(prompt="a cat"),
    "videos.remix": lambda c: c.videos.remix("video_1", prompt="a dog"),
    "videos.content": lambda c: c.videos.download_content("video_1"),
}

LATER: Final[Calls] = {
    "files.create.batch": lambda c: c.files.create(file=("batch.jsonl", BATCH, "application/jsonl"), purpose="batch"),
    "files.create.user_data": lambda c: c.files.create(file=_upload("a.txt", b"hi"), purpose="user_data"),
    "files.list": lambda c: c.files.list(purpose="batch"),
    "files.retrieve": lambda c: c.files.retrieve("file-1"),
    "files.content": lambda c: c.files.content("file-1"),
    "files.delete": lambda c: c.files.delete("file-1"),
    "uploads.create": lambda c: c.uploads.create(bytes=10, filename="batch.jsonl", mime_type="application/jsonl", purpose="batch"),
    "uploads.part": lambda c: c.uploads.parts.create("upload_1", data=BATCH),
    "uploads.complete": lambda c: c.uploads.complete("upload_1", part_ids=["part_1"]),
    "batches.create": lambda c: c.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"),
    "batches.list": lambda c: c.batches.list(limit=2),
    "batches.retrieve": lambda c: c.batches.retrieve("batch_1"),
    "batches.cancel": lambda c: c.batches.cancel("batch_1"),
    "fine_tuning.create": lambda c: c.fine_tuning.jobs.create(model="gpt-4o-mini-2024-07-18", training_file="file-1"),
    "fine_tuning.list": lambda c: c.fine_tuning.jobs.list(),
    "fine_tuning.grader": lambda c: c.fine_tuning.alpha.graders.run(grader=GRADER, model_sample="hi"),
    "evals.create": lambda c: c.evals.create(
        data_source_config={"type": "custom", "item_schema": WEATHER},
        testing_criteria=[{"type": "label_model", "name": "g", "model": "o3-mini", "input": [], "labels": ["a"], "passing_labels": ["a"]}],
    ),
    "evals.run": lambda c: c.evals.runs.create(
        "eval_1", data_source={"type": "completions", "model": SMALL, "source": {"type": "file_id", "id": "file-1"}}
    ),
    "vector_stores.create": lambda c: c.vector_stores.create(name="docs", file_ids=["file-1"]),
    "vector_stores.search": lambda c: c.vector_stores.search("vs_1", query="hi"),
    "containers.create": lambda c: c.containers.create(name="box"),
    "models.list": lambda c: c.models.list(),
    "models.retrieve": lambda c: c.models.retrieve(SMALL),
    "models.delete": lambda c: c.models.delete("ft:gpt-4o-mini:acme::1"),
}

SESSIONS: Final[Calls] = {
    "realtime.client_secret": lambda c: c.realtime.client_secrets.create(
        session={"type": "realtime", "model": "gpt-realtime", "tools": [{"type": "function", "name": "f"}]}
    ),
    "realtime.client_secret.transcription": lambda c: c.realtime.client_secrets.create(
        session={"type": "transcription", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
    ),
    "realtime.call": lambda c: c.realtime.calls.create(sdp="v=0", session={"type": "realtime", "model": "gpt-realtime"}),
    "realtime.call.sdp": lambda c: c.realtime.calls.create(sdp="v=0"),
    "realtime.call.accept": lambda c: c.realtime.calls.accept("call_1", type="realtime", model="gpt-realtime"),
    "realtime.call.hangup": lambda c: c.realtime.calls.hangup("call_1"),
    "realtime.session": lambda c: c.beta.realtime.sessions.create(model="gpt-4o-realtime-preview"),
    "realtime.transcription_session": lambda c: c.beta.realtime.transcription_sessions.create(
        input_audio_transcription={"model": "gpt-4o-transcribe"}
    ),
    "assistants.create": lambda c: c.beta.assistants.create(model=LARGE, tools=[{"type": "code_interpreter"}, {"type": "file_search"}]),
    "assistants.update": lambda c: c.beta.assistants.update("asst_1", model=SMALL),
    "threads.create": lambda c: c.beta.threads.create(messages=[{"role": "user", "content": "hi"}]),
    "threads.message": lambda c: c.beta.threads.messages.create("thread_1", role="user", content="hi"),
    "threads.run": lambda c: c.beta.threads.runs.create("thread_1", assistant_id="asst_1", model=LARGE, max_completion_tokens=64),
    "threads.run.default": lambda c: c.beta.threads.runs.create("thread_1", assistant_id="asst_1"),
    "threads.create_and_run": lambda c: c.beta.threads.create_and_run(assistant_id="asst_1", model=LARGE, stream=False),
    "agents.create": lambda c: c.beta.agents.create(model=LARGE, name="a"),
    "chatkit.session": lambda c: c.beta.chatkit.sessions.create(user="u-1", workflow={"id": "wf_1"}),
}

DEPLOYMENTS: Final[Calls] = {
    "chat": lambda c: c.chat.completions.create(model="my-gpt-4o", messages=ASKED),
    "chat.stream": lambda c: _read(c.chat.completions.create(model="my-gpt-4o", messages=ASKED, stream=True)),
    "completions": lambda c: c.completions.create(model="my-instruct", prompt="a"),
    "embeddings": lambda c: c.embeddings.create(model="my-embedding", input="hi"),
    "responses": lambda c: c.responses.create(model="my-gpt-4o", input="hi"),
    "images.generate": lambda c: c.images.generate(model="my-image", prompt="a cat"),
    "images.edit": lambda c: c.images.edit(model="my-image", image=_upload("a.png", PNG), prompt="a hat"),
    "audio.transcription": lambda c: c.audio.transcriptions.create(model="my-whisper", file=_upload("a.wav", WAV)),
    "audio.speech": lambda c: c.audio.speech.create(model="my-tts", voice="alloy", input="hi"),
    "batches.create": lambda c: c.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"),
    "models.list": lambda c: c.models.list(),
}
