"""What somebody should look at, told once: to a log, a webhook, a function."""

from llm_authmw.alerts.stream import Alerts
from llm_authmw.alerts.webhook import Webhook

__all__ = ["Alerts", "Webhook"]
