"""The lines of a batch file: each is a request of its own."""

from typing import Final

import msgspec
from msgspec import Raw

from llm_authmw.errors import Denial
from llm_authmw.llm.json_body import NULL, check_text, members_of
from llm_authmw.llm.operations import Operations
from llm_authmw.llm.reading import Reading
from llm_authmw.patterns import is_canonical

MAX_LINES: Final = 50_000
"""Lines of one file: as many as OpenAI's batches may have."""

_BUILT_IN: Final = Operations()
_decode: Final = msgspec.json.Decoder().decode


def read_lines(reading: Reading, content: bytes) -> None:
    """Read the requests of a batch file: JSON objects, one a line.

    Raises:
        ValueError: a line is no JSON object that can be read in one way only.
        Denial: a line names a model by something that is no model's name, has a field that is not accepted, or is one too many.
    """
    lines = content.split(b"\n", MAX_LINES + 1)
    if len(lines) > MAX_LINES + 1:
        raise Denial("body_too_large")
    for line in lines:
        text = line.removesuffix(b"\r")
        if text:
            check_text(text)
            _take_route(reading, text)
            reading.take_batch("requests", Raw(text))


def _take_route(reading: Reading, text: bytes) -> None:
    url = members_of(text).get("url", NULL)
    if url == NULL:
        return
    path = _decode(url)
    if type(path) is not str or not is_canonical(path):
        raise Denial("request_field_invalid", need="url of each line as a path")
    found = _BUILT_IN.find("POST", path)
    if found is not None:
        reading.models.extend(found.models)
