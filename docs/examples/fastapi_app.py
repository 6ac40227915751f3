from fastapi import FastAPI
from starlette.middleware import Middleware

from llm_authmw import KeyAuthMiddleware, Stack, open_store
from llm_authmw.fastapi import CurrentPrincipal

store = open_store("sqlite:///authmw.db")  # where the keys are
guard = Stack(Middleware(KeyAuthMiddleware, keys=store.keys))  # every option is checked here, at import

app = FastAPI(middleware=[Middleware(guard)])


@app.post("/v1/chat/completions")
async def chat(caller: CurrentPrincipal) -> dict[str, str]:
    return {"hello": caller.subject}
