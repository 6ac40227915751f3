"""Keys in code, a master key, a raw ASGI app, and another vault for secrets."""

from typing import Any

from starlette.middleware import Middleware
from starlette.types import Receive, Scope, Send

from llm_authmw import KeyAuthMiddleware, Limit, Secret, Stack, StaticKey, StaticKeys, register_resolver

VAULT = {
    "ci": "4d1c0b7e9a5f83260c1d7e4b9f2a6853",
    "nightly": "b52f7c0e91d84a3667e0c2a95d18f4b3",
    "root": "0f7d3b9c1e5a8642d0c7b1f3a9e5d286",
}

register_resolver("vault", VAULT.__getitem__)

keys = StaticKeys(
    {
        "ci": StaticKey(
            "vault:ci", team="blue", roles=["member"], models=("echo",), limits=[Limit(amount=60, unit="requests", window="minute")]
        ),
        "nightly": Secret(VAULT["nightly"]),
    }
)


async def typed_app(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive, send


async def untyped_app(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive, send


guard = Stack(Middleware(KeyAuthMiddleware, keys=keys, master_key="vault:root", disclosure="exact"))
apps = [guard(typed_app), guard(untyped_app)]
