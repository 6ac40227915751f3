"""A worker of the LiteLLM proxy, in a virtual environment that has it: one key, whose budget LiteLLM is to keep.

Without its database LiteLLM does not register the callback that charges requests, so it is registered here as `cost_tracking()` does,
and what it keeps in Redis is kept for longer than its minute, since there is no database to read it back from.
"""

import importlib
import os
from pathlib import Path
from typing import Any

from benchmarks.overshoot.notes import Notes

# By their names, since nothing that checks this file has them installed.
litellm: Any = importlib.import_module("litellm")
litellm.default_redis_ttl = 3600

_types: Any = importlib.import_module("litellm.proxy._types")
_logger: Any = importlib.import_module("litellm.integrations.custom_logger")
_tracking: Any = importlib.import_module("litellm.proxy.hooks.proxy_track_cost_callback")
app: Any = importlib.import_module("litellm.proxy.proxy_server").app

_notes = Notes(Path(os.environ["OVERSHOOT_FOLDER"]), "charge")


class _Charges(_logger.CustomLogger):  # type: ignore[misc]
    """Notes what LiteLLM says that each request cost."""

    async def async_log_success_event(self, kwargs: dict[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        dollars = (kwargs.get("standard_logging_object") or kwargs).get("response_cost")
        if dollars is not None:
            _notes.write(round(dollars * 1e9))


_callbacks: Any = litellm.logging_callback_manager
_callbacks.add_litellm_callback(_tracking.ProxyDBLogger(None))
_callbacks.add_litellm_async_success_callback(_tracking.ProxyDBLogger(None))
_callbacks.add_litellm_async_success_callback(_Charges())


async def authenticate(request: Any, api_key: str) -> Any:
    """Know the one key, as LiteLLM's `custom_auth`."""
    if api_key.removeprefix("Bearer ") != os.environ["OVERSHOOT_KEY"]:
        raise PermissionError
    return _types.UserAPIKeyAuth(api_key=os.environ["OVERSHOOT_KEY"], max_budget=int(os.environ["OVERSHOOT_NANO"]) / 1e9)
