"""The name of a model, as a request may write it: one grammar, so that no two programs read two models into one text."""

import re
from typing import Final

from llm_authmw.errors import Denial
from llm_authmw.names import MAX_NAME_LENGTH

# No blank, comma or bracket: some gateways split at them. No character beyond ASCII: some gateways fold full-width letters. No segment
# that is a dot or two: a name becomes part of a provider's URL, in which `small/../large` is `large` (RFC 3986 §5.2.4).
_NAME: Final = re.compile(rf"(?!.*/\.\.?(?:/|\Z))[A-Za-z0-9@][A-Za-z0-9._:/@+=~-]{{0,{MAX_NAME_LENGTH - 1}}}", re.ASCII)


def model_name(value: object) -> str:
    """Return `value`, which is the name of one model. Names are compared exactly: case and prefixes such as `openai/` count.

    Raises:
        Denial: it is anything else (`model_malformed`): a list, an object, nothing, a text outside the grammar.
    """
    if type(value) is not str or _NAME.fullmatch(value) is None:
        raise Denial("model_malformed")
    return value
