"""Five ways to be known, one Principal. Later layers cannot tell, and need not know, which one it was.

What a principal may do is not decided here: roles and grants stand inside of these layers, and are not there yet.

The environment holds the secrets (INTROSPECTION_SECRET, PROXY_PROOF), and says where this runs: who issues tokens (SSO_URL), for
which services (LLM_AUDIENCE, between blanks), which client asks about the opaque ones (INTROSPECTION_CLIENT), where keys are kept
(AUTHMW_STORE). Start it with `uvicorn identities:guarded`.
"""

import os

from my_proxy import app
from starlette.middleware import Middleware

from llm_authmw import (
    ClaimMap,
    HeaderMap,
    HeaderTrustMiddleware,
    IntrospectionMiddleware,
    Issuer,
    JWTMiddleware,
    KeyAuthMiddleware,
    SharedSecret,
    Stack,
    open_store,
)

sso = os.environ.get("SSO_URL", "https://sso.example.com/realms/corp")
audience = os.environ.get("LLM_AUDIENCE", "api://llm").split()
claims = ClaimMap(user="sub", email="email", team="department", roles="realm_access.roles", groups="groups", scopes="scope")

store = open_store(os.environ.get("AUTHMW_STORE", "sqlite:///authmw.db"))

keycloak = Issuer(
    sso,  # discovery finds the keys
    audience=audience,
    realm="corp",
    claims=claims,
)
entra = Issuer.preset("entra", tenant="1f6f0d2c-0000-4000-8000-5d1c7a9e1b11", audience="api://llm", claims=ClaimMap(user="oid"))

guarded = Stack(
    Middleware(KeyAuthMiddleware, keys=store.keys),
    Middleware(JWTMiddleware, issuers=[keycloak, entra]),
    Middleware(
        IntrospectionMiddleware,
        issuer=sso,  # discovery finds the endpoint
        audience=audience,
        client_id=os.environ.get("INTROSPECTION_CLIENT", "llm-proxy"),
        client_secret="env:INTROSPECTION_SECRET",
        realm="corp",  # the same people as keycloak's: equal realms mean equal users
        claims=claims,
    ),
    Middleware(
        HeaderTrustMiddleware,
        proof=SharedSecret(header="x-proxy-proof", secret="env:PROXY_PROOF"),  # an address alone proves nothing
        realm="corp",
        headers=HeaderMap(
            user="x-forwarded-user",
            email="x-forwarded-email",
            groups="x-forwarded-groups",
            team="x-forwarded-team",
            scopes="x-forwarded-scopes",
        ),
    ),
)(app)
