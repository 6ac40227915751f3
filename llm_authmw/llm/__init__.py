"""What LLM traffic means: operations, and what a request asks for. No ASGI in it; all of it is tested without a server."""
