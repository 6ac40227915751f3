"""What a type checker must refuse. Each wrong line names the rule of mypy and the rule of pyright that refuse it."""

from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Limit, Principal, Stack, StaticKey, open_store

store = open_store("memory://")

Middleware(KeyAuthMiddleware, stor=store.keys)  # refused: call-arg, reportCallIssue - a misspelt option
Middleware(KeyAuthMiddleware)  # refused: call-arg, reportCallIssue - no keys at all
Middleware(KeyAuthMiddleware, keys=store)  # refused: arg-type, reportArgumentType - the store, not its keys
Middleware(KeyAuthMiddleware, keys=store.keys, required="no")  # refused: arg-type, reportArgumentType
Middleware(KeyAuthMiddleware, keys=store.keys, disclosure="everything")  # refused: arg-type, reportArgumentType
KeyAuthMiddleware(keys=store.keys)  # refused: call-arg, reportCallIssue - no app
Stack(KeyAuthMiddleware)  # refused: arg-type, reportArgumentType - the class, not Middleware(class, …)
StaticKey("env:CI_KEY", models="gpt-4o*")  # refused: arg-type, reportArgumentType - a bare string would be read letter by letter
StaticKey("env:CI_KEY", roles="member")  # refused: arg-type, reportArgumentType
StaticKey("env:CI_KEY", limits="60 requests/minute")  # refused: arg-type, reportArgumentType
StaticKey("env:CI_KEY", limits=[60])  # refused: arg-type, reportArgumentType
StaticKey("env:CI_KEY", budget=["50 usd/month"])  # refused: call-arg, reportCallIssue - the field is `budgets`
Limit(amount=60, unit="request", window="minute")  # refused: arg-type, reportArgumentType - the unit is `requests`
Limit(amount="60", unit="requests", window="minute")  # refused: arg-type, reportArgumentType
Principal("ada")  # refused: call-arg, reportCallIssue - fields are named
Principal(user="ada").user = "bob"  # refused: misc, reportAttributeAccessIssue - nothing about a principal changes


async def manage() -> None:
    await store.keys.create(models="gpt-4o*")  # refused: arg-type, reportArgumentType
    await store.keys.create(limits=[60])  # refused: arg-type, reportArgumentType
    await store.keys.create(expires="30d")  # refused: call-arg, reportCallIssue - the field is `expires_at`, in seconds
    await store.keys.rotate("id", grace="1h")  # refused: arg-type, reportArgumentType
    await store.accounts.create("squad", "blue")  # refused: arg-type, reportArgumentType - not a kind of account
    created = await store.keys.create()
    created.key.upper()  # refused: union-attr, reportOptionalMemberAccess - a replayed answer has no text
