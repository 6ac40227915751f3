"""A ledger in Redis or Valkey: one round trip and one script for each step. Needs the extra `redis`."""

from llm_authmw.stores.redis.ledger import RedisLedger

__all__ = ["RedisLedger"]
