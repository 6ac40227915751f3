"""Where a body holds pictures, sound and files, and what of its input is not in it: the names that APIs have for them, as data.

All names are in lower case; `Look` reads those of a body so, since parsers in Go take `Image_URL` for `image_url`.
"""

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["picture", "sound", "file", "typed", "elsewhere", "spoken", "cached"]

PLACES: Final = frozenset(
    {
        "content",
        "contents",
        "documents",
        "images",
        "input",
        "inputs",
        "instances",
        "messages",
        "requests",
        "system",
        "system_instruction",
        "systeminstruction",
    }
)
"""Members of a body in which APIs look for parts."""

INSIDE: Final = frozenset({"content", "contents", "messages", "output", "parts", "toolresult", "functionresponse", "function_response"})
"""Members of what stands there that lead on to parts."""

WRITTEN: Final = frozenset(
    {
        "args",
        "arguments",
        "function_declarations",
        "functiondeclarations",
        "functions",
        "input_schema",
        "json",
        "json_schema",
        "metadata",
        "output_config",
        "parameters",
        "parametersjsonschema",
        "properties",
        "response",
        "response_format",
        "response_schema",
        "responsejsonschema",
        "responseschema",
        "schema",
        "text",
        "tool_choice",
        "toolconfig",
        "tools",
        "tooluse",
    }
)
"""Members that hold JSON which a model is shown as text: a schema with a property `image` shows it no picture."""

WORDS: Final = frozenset({"role", "content", "text", "type", "name", "id", "tool_call_id", "call_id"})
"""Members that hold words where they hold a text."""

NAMES: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("image_url", "imageurl", "image", "images", "bytesbase64encoded", "image_file", "inputimage"), "picture"),
    **dict.fromkeys(("input_audio", "inputaudio", "audio", "audio_url", "audiourl"), "sound"),
    **dict.fromkeys(
        (
            "attachments",
            "document",
            "document_url",
            "file",
            "file_data",
            "file_id",
            "file_ids",
            "file_search_store_names",
            "file_uri",
            "file_url",
            "filedata",
            "fileuri",
            "gcsuri",
            "s3location",
            "video",
            "video_url",
            "videourl",
        ),
        "file",
    ),
    **dict.fromkeys(("inline_data", "inlinedata", "source"), "typed"),
    **dict.fromkeys(
        (
            "cached_content",
            "cachedcontent",
            "connectors",
            "container",
            "conversation",
            "conversation_id",
            "data_sources",
            "previous_interaction_id",
            "previous_response_id",
            "search_parameters",
            "thread_id",
            "vector_store_ids",
        ),
        "elsewhere",
    ),
    **dict.fromkeys(("cache_control", "cachepoint"), "cached"),
    **dict.fromkeys(("modalities", "output_modalities", "response_modalities", "responsemodalities"), "spoken"),
}
"""What a member brings that bytes of text do not bound."""

TYPES: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("image", "image_url", "image_file", "input_image", "computer_screenshot"), "picture"),
    **dict.fromkeys(("audio", "audio_url", "input_audio"), "sound"),
    **dict.fromkeys(("file", "input_file", "document_url", "input_video", "media", "video", "video_url", "container_upload"), "file"),
    **dict.fromkeys(("item_reference", "compaction", "compaction_summary"), "elsewhere"),
}
"""What an object with such a `type` is, whatever its members are called."""

ENCODED: Final = frozenset({"data", "bytes", "image", "image_url", "url", "file_data", "bytesbase64encoded"})
"""Members of a part, or one level further in, that hold media in base64, as they are or as a `data:` URL."""
