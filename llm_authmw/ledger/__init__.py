"""Counting what is used: buckets, claims on them, and reservations that are settled to the truth. No ASGI, no store."""
