"""Where state lives: one backend, with the facets that the knowledge rooms ask for."""

from llm_authmw.stores.store import Store, open_store

__all__ = ["Store", "open_store"]
