from fastapi import FastAPI
from starlette.middleware import Middleware

from llm_authmw import AuditMiddleware, BudgetMiddleware, KeyAuthMiddleware, Price, RateLimitMiddleware, Stack, open_store
from llm_authmw.fastapi import CurrentPrincipal

store = open_store("sqlite:///authmw.db")  # where the keys are, what they have used, and what happened
guard = Stack(  # every option is checked here, at import
    Middleware(AuditMiddleware, sink=store.audit),  # a record of every request, however it ends
    Middleware(KeyAuthMiddleware, keys=store.keys),
    Middleware(RateLimitMiddleware, ledger=store.ledger),  # how much a key may is said by the key, its user and its team
    Middleware(BudgetMiddleware, ledger=store.ledger, prices={"gpt-4o*": Price(input="2.50", output="10")}),  # dollars per million tokens
)

app = FastAPI(middleware=[Middleware(guard)])


@app.post("/v1/chat/completions")
async def chat(caller: CurrentPrincipal) -> dict[str, str]:
    return {"hello": caller.subject}
