"""The members of a body that mean something, as data: what APIs and proxies call them.

Where an API takes a name in two spellings (the JSON form of protocol buffers does), both are here.
"""

from typing import Final

MODEL: Final = frozenset({"model", "deployment_id", "embedding_model", "engine", "litellm_embedding_model"})
"""Name a model. LiteLLM prefers `deployment_id` to `model`, and embeds what is searched for by the model of that name; the first OpenAI
API had `engine`."""

CHOOSING: Final = "model"
"""Names the model that is run. Where it is missing, whoever knows none of the other names runs a model of its own choice."""

MODELS: Final = frozenset({"models", "target_model_names"})
"""Name models in a list, or, as forms do, with commas between them."""

IDS: Final = frozenset(
    {
        "batch_id",
        "error_file_id",
        "file_id",
        "fine_tuning_job_id",
        "input_file_id",
        "output_file_id",
        "training_file",
        "validation_file",
        "vector_store_id",
    }
)
"""Hold an id, which may name a model in LiteLLM's way: see `managed_ids`."""

MESSAGE: Final = "jsonrpc"
"""Makes a body a message of JSON-RPC, which may be one to an MCP server, whatever the route."""

PRESET: Final = "preset"
"""Names what OpenRouter keeps models under; as a model it is `@preset/<name>`."""

FALLBACKS: Final = frozenset(
    {
        "fallbacks",
        "context_window_fallbacks",
        "content_policy_fallbacks",
        "default_fallbacks",
        "context_window_fallback_dict",
    }
)
"""Name models that are asked where another one fails: names, objects with a `model`, maps from one name to others."""

BODIES: Final = frozenset({"session", "response", "setup", "completion"})
"""Hold a body of their own, where they hold an object: a realtime session or answer, Gemini's `setup`, an eval's `completion`."""

MERGED: Final = frozenset({"extra_body", "router_settings_override"})
"""Hold what is merged into the body, so that nothing but an object can be meant."""

BATCHES: Final = frozenset({"requests", "batch"})
"""Hold the requests of a batch: Anthropic's `requests[].params`, Gemini's `requests[]` and `batch.inputConfig.requests.requests[]`."""

INSIDE_BATCHES: Final = frozenset({"requests", "request", "params", "inputConfig", "input_config", "body", "modelInput"})
"""Lead on to them, also in the lines of a file: OpenAI's `body`, Bedrock's `modelInput`."""

SPEECH: Final = frozenset({"audio", "input_audio_transcription"})
"""Hold the model that writes down what is said in a realtime session: `audio.input.transcription.model`."""

INSIDE_SPEECH: Final = frozenset({"input", "output", "transcription"})
"""Lead on to it."""

CEILINGS: Final = frozenset(
    {
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "max_tokens_to_sample",
        "max_response_output_tokens",
        "max_new_tokens",
        "max_gen_len",
        "maxTokens",
        "maxOutputTokens",
        "maxTokenCount",
        "num_predict",
    }
)
"""Say how many tokens may be generated."""

CHOICES: Final = frozenset(
    {"n", "best_of", "candidateCount", "candidate_count", "num_return_sequences", "num_generations", "numResults", "sampleCount"}
)
"""Say how many answers there are to be."""

SETTINGS: Final = frozenset(
    {
        "generationConfig",
        "generation_config",
        "inferenceConfig",
        "inference_config",
        "textGenerationConfig",
        "options",
        "parameters",
        "additionalModelRequestFields",
    }
)
"""Hold ceilings and choices: Gemini's, Bedrock's, Ollama's, and those of Hugging Face and Vertex."""

TOOLS: Final = frozenset({"tools", "functions", "mcp_servers", "plugins", "web_search_options"})
"""Name what is run beside the model."""

END_USER: Final = ("user", "safety_identifier", "end_user", "end_user_id")
"""Say whom the request is for, the first that is there."""

ROUTING: Final = frozenset(
    {
        # Where it is sent.
        "api_base",
        "api_version",
        "azure_endpoint",
        "base_url",
        "custom_llm_provider",
        "deployment_url",
        "organization",
        "region_name",
        "s3_endpoint_url",
        "sagemaker_base_url",
        "aws_bedrock_control_plane_endpoint",
        "aws_bedrock_runtime_endpoint",
        "aws_region_name",
        "aws_sts_endpoint",
        "vertex_location",
        "vertex_ai_location",
        # As whom.
        "api_key",
        "azure_ad_token",
        "azure_ad_token_provider",
        "azure_password",
        "azure_scope",
        "azure_username",
        "client_id",
        "client_secret",
        "tenant_id",
        "default_headers",
        "default_query",
        "extra_headers",
        "extra_query",
        "headers",
        "provider_specific_header",
        "litellm_credential_name",
        "user_provider_credentials",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "aws_profile_name",
        "aws_role_name",
        "aws_session_name",
        "aws_session_tags",
        "aws_external_id",
        "aws_web_identity_token",
        "aws_bedrock_project_id",
        "vertex_credentials",
        "vertex_ai_credentials",
        "vertex_project",
        "vertex_ai_project",
        "watsonx_project",
        "workspace_id",
        # By which configuration, in place of the proxy's own.
        "auto_router_config",
        "auto_router_default_model",
        "auto_router_embedding_model",
        "base_model",
        "configurable_clientside_auth_params",
        "litellm_embedding_config",
        "litellm_params",
        "mock_response",
        "mock_timeout",
        "mock_tool_calls",
        "model_alias_map",
        "model_group_alias",
        "model_info",
        "model_list",
        "prompt_id",
        "proxy_server_request",
        "secret_fields",
        "silent_model",
        "ssl_verify",
        "use_litellm_proxy",
        "user_api_key_auth_metadata",
        "user_config",
    }
)
"""Choose where or as whom a request is sent on: for a proxy's operator to say, and never for a caller (GHSA-jh89-88fc-qrfp)."""
