"""Record the corpus anew: `python -m tests.corpus.record`. What an SDK sends changes with its version, and then so do the files."""

from collections.abc import Callable
from typing import Any, Final

import anthropic
import httpx2
import openai
from anthropic.lib.bedrock import AnthropicBedrock
from anthropic.lib.vertex import AnthropicVertex

from tests.corpus import anthropic_calls, openai_calls
from tests.corpus.recorder import SECRET, TOKEN, Calls, Recorder
from tests.corpus.shapes import Recording, write

OPENAI: Final = f"openai {openai.__version__}"
ANTHROPIC: Final = f"anthropic {anthropic.__version__}"


def main() -> None:
    """Run the SDKs, and write what they sent."""
    for name, recording in record().items():
        write(name, recording)


def record() -> dict[str, Recording]:
    """Run the SDKs, and return what they sent, by the name of the file that it belongs to."""
    return {
        "openai": _openai(),
        "azure": _recording(OPENAI, _azure, openai_calls.DEPLOYMENTS),
        "anthropic": _recording(ANTHROPIC, _anthropic, {**anthropic_calls.MESSAGES, **anthropic_calls.MORE}),
        "anthropic_bedrock": _recording(ANTHROPIC, _bedrock, anthropic_calls.HOSTED),
        "anthropic_vertex": _recording(ANTHROPIC, _vertex, anthropic_calls.HOSTED),
        "anthropic_foundry": _recording(ANTHROPIC, _foundry, anthropic_calls.HOSTED),
    }


def _openai() -> Recording:
    recorder = Recorder()
    gpt = openai.OpenAI(api_key=SECRET, http_client=recorder.http, max_retries=0)
    for calls in (openai_calls.CHAT, openai_calls.RESPONSES, openai_calls.MEDIA, openai_calls.LATER, openai_calls.SESSIONS):
        recorder.record(gpt, calls)
    recorder.record_socket("realtime.connect", _realtime)
    recorder.record_socket("responses.connect", _responses)
    return Recording(sdk=OPENAI, shapes=recorder.shapes)


def _azure(http: httpx2.Client) -> openai.AzureOpenAI:
    where = "https://acme.openai.azure.com"
    return openai.AzureOpenAI(azure_endpoint=where, api_version="2025-04-01-preview", api_key=SECRET, http_client=http, max_retries=0)


def _anthropic(http: httpx2.Client) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key=SECRET, http_client=http, max_retries=0)


def _bedrock(http: httpx2.Client) -> AnthropicBedrock:
    return AnthropicBedrock(api_key=SECRET, aws_region="eu-central-1", http_client=http, max_retries=0)


def _vertex(http: httpx2.Client) -> AnthropicVertex:
    return AnthropicVertex(access_token=TOKEN, project_id="acme", region="europe-west4", http_client=http, max_retries=0)


def _foundry(http: httpx2.Client) -> anthropic.AnthropicFoundry:
    return anthropic.AnthropicFoundry(api_key=SECRET, resource="acme", http_client=http, max_retries=0)


def _recording(sdk: str, make_client: Callable[[httpx2.Client], Any], calls: Calls) -> Recording:
    recorder = Recorder()
    recorder.record(make_client(recorder.http), calls)
    return Recording(sdk=sdk, shapes=recorder.shapes)


def _client(url: str) -> openai.OpenAI:
    return openai.OpenAI(api_key=SECRET, base_url=f"{url.replace('ws', 'http', 1)}/v1", websocket_base_url=f"{url}/v1")


def _realtime(url: str) -> None:
    with _client(url).realtime.connect(model="gpt-realtime") as connection:
        connection.session.update(session={"type": "realtime", "model": "gpt-realtime-mini", "output_modalities": ["text"]})
        connection.conversation.item.create(item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]})
        connection.response.create(response={"max_output_tokens": 64})


def _responses(url: str) -> None:
    with _client(url).responses.connect() as connection:
        connection.response.create(model="gpt-4o-mini", input="hi", max_output_tokens=64)


if __name__ == "__main__":
    main()
