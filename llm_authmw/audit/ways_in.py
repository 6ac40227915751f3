"""Mode "required": every way to an app leads through a gate."""

from typing import Any, Final

from starlette.routing import BaseRoute, Router

from llm_authmw.asgi import Branching, unwrap
from llm_authmw.audit.gate import AuditGate
from llm_authmw.errors import ConfigurationError

_MAX_LAYERS: Final = 64


def check_ways_in(app: Any) -> None:
    """Refuse an app that can be got to without an `AuditGate`.

    Raises:
        ConfigurationError: there is such a way.
    """
    if not _is_gated(app):
        raise ConfigurationError(
            "mode",
            "'required' needs AuditGate(app) as the innermost layer on every way to the app: a Stack places it in front of an app; "
            "name it in a plain list, and as PolicyRouter(AuditGate(app), …)",
        )


def _is_gated(app: Any) -> bool:
    inner = unwrap(app)
    for _ in range(_MAX_LAYERS):
        if isinstance(inner, AuditGate):
            # Which refuses layers inside of itself.
            return True
        if isinstance(inner, Branching):
            return all(map(_is_gated, inner.branches))
        if inner is None or isinstance(inner, BaseRoute | Router):
            return False
        inner = unwrap(getattr(inner, "app", None))
    return False
