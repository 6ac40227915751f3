"""The options that every sink has."""

import math
import os
from typing import Final, Literal, TypeAlias, TypedDict

from llm_authmw.clock import Clock
from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret
from llm_authmw.sinks.only import Only
from llm_authmw.trail.checkpoints import Anchor, SigningKey
from llm_authmw.trail.entry import Format

WhenFull: TypeAlias = Literal["drop", "wait"]

DEFAULT_QUEUE: Final = 10_000
DEFAULT_DEADLINE: Final = 0.25
DEFAULT_BATCH: Final = 500
DEFAULT_SPOOL_LIMIT: Final = 256 * 1024 * 1024


class SinkOptions(TypedDict, total=False):
    """Options of `AuditSink`, which says what they mean; every sink takes them by name."""

    name: str
    format: Format
    only: Only | None
    sample: float
    queue: int
    when_full: WhenFull
    deadline: float
    batch: int
    spool: str | os.PathLike[str] | None
    spool_limit: int
    signing_key: SigningKey | Secret | str | None
    checkpoint_every: int
    checkpoint_interval: float
    anchor: Anchor | None
    clock: Clock


def check_seconds(option: str, value: float) -> float:
    """Return a number of seconds above zero.

    Raises:
        ConfigurationError: it is none.
    """
    if type(value) not in (int, float) or not 0 < value < math.inf:
        raise ConfigurationError(option, "is a number of seconds above zero")
    return float(value)


def check_count(option: str, value: int, *, unit: str, least: int = 1) -> int:
    """Return a whole number.

    Raises:
        ConfigurationError: it is none, or below the least that makes sense.
    """
    if type(value) is not int or value < least:
        raise ConfigurationError(option, f"is a whole number of {unit}, {least} or more")
    return value


def check_share(option: str, value: float) -> float:
    """Return a share between 0 and 1.

    Raises:
        ConfigurationError: it is none.
    """
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ConfigurationError(option, "is a share between 0.0 and 1.0")
    return float(value)
