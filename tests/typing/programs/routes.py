"""Per-route policies: a policy is a stack, chosen by route, composed once at start-up. An unnamed route is denied."""

from my_proxy import app
from starlette.middleware import Middleware

from llm_authmw import Grant, Issuer, JWTMiddleware, KeyAuthMiddleware, Policy, PolicyRouter, RBACMiddleware, Role, Stack, open_store

store = open_store("sqlite:///authmw.db")
sso = Issuer("https://sso.example.com", audience="api://llm")

keys = Middleware(KeyAuthMiddleware, keys=store.keys)
staff = Middleware(JWTMiddleware, issuers=[sso])
members = Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-4o-mini"])}, default_role="member")
admins = Middleware(RBACMiddleware, roles={"admin": Role(routes=["*"])}, grants=[Grant(role="admin", scope="llm:admin", issuer=sso)])

guarded = PolicyRouter(
    app,
    policies=[
        Policy("GET /health", public=True),
        Policy("/v1/**", Stack(keys, staff, members)),
        Policy("/admin/**", Stack(staff, admins)),  # keys are no way in here
    ],
)
