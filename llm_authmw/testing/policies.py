"""Ask a policy who may do what, and why not. The app behind the layers only says that it was reached."""

from collections.abc import Mapping
from typing import Any

from llm_authmw.principal import Principal
from llm_authmw.testing.answers import Answer
from llm_authmw.testing.asgi.scopes import RawHeaders
from llm_authmw.testing.bench import TIME_LIMIT, Bench, Guarding


async def call(
    guard: Guarding,
    target: str,
    *,
    as_: Principal | None = None,
    bearer: str | None = None,
    model: str | None = None,
    json: Mapping[str, Any] | None = None,
    body: bytes | None = None,
    headers: RawHeaders = (),
    query: str = "",
    address: str | None = None,
    time_limit: float = TIME_LIMIT,
) -> Answer:
    """Ask what the layers that guard an app say to a request.

    As in `await call(guard, "POST /v1/chat/completions", as_=ada, model="gpt-4o-mini")`. No provider is reached, since the layers
    are put around another app than theirs. Who calls is a principal, or whoever has the bearer token or the credential in the
    headers, or nobody.

    Args:
        guard: A stack, its layers, the app that it guards, or a router of policies.
        target: Method and path, with `WS` as the method of a WebSocket. The model is put where the path says `{model}`, else
            where the route's API names one.
        as_: Who calls, as if the authentication layers had just let them in. Whether a credential of theirs has expired or was
            revoked is not asked. The networks and routes that they are restricted to hold, and a `method` of ours ("key", "jwt")
            and an `issuer` are only let in where a layer is in front that lets such callers in.
        bearer: A token or key to call with.
        model: The model that the request names.
        json: Further members of the body; the first message of a WebSocket.
        body: The body itself, where `model` and `json` do not make it; its `content-type` then belongs into `headers`.
        headers: Header lines.
        query: The query, or more of it.
        address: The client's address.
        time_limit: Seconds that each single wait may take.

    Raises:
        ConfigurationError: `guard` is nothing of that kind, or what is given contradicts itself or has no place in this request.
        Exception: what a layer raises.
    """
    return await Bench(guard).ask(
        target,
        as_=as_,
        bearer=bearer,
        model=model,
        json=json,
        body=body,
        headers=headers,
        query=query,
        address=address,
        time_limit=time_limit,
    )
