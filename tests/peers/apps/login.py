"""A login service as a front proxy asks it (`auth_request`): 202 with who it is in headers, or 401.

Whose session it is says the cookie `session`; the names of the headers are those that login proxies use.
"""

from starlette.requests import Request
from starlette.responses import Response

from llm_authmw.asgi import Receive, Scope, Send

PEOPLE = {
    "ada": {"email": "ada@example.com", "groups": "ml-platform,research"},
    "bob": {"email": "bob@example.com", "groups": ""},
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    assert "http" == scope["type"]
    user = Request(scope).cookies.get("session", "")
    if user not in PEOPLE:
        await Response(status_code=401)(scope, receive, send)
        return
    known = PEOPLE[user]
    headers = {"x-auth-request-user": user, "x-auth-request-email": known["email"], "x-auth-request-groups": known["groups"]}
    await Response(status_code=202, headers=headers)(scope, receive, send)
