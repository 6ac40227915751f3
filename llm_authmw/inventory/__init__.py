"""Which routes an app has, and what stands in front of each."""

from llm_authmw.inventory.records import Inventory
from llm_authmw.inventory.report import route_inventory

__all__ = ["Inventory", "route_inventory"]
