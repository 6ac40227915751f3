"""The life of an API key: mint, parse, hash, keep, verify, rotate, revoke."""
