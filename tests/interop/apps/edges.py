"""Apps that believe the proxy in front of them, each by another fact; they say who is calling, and what they were sent.

The environment holds the proxy's secret (`EDGE_SECRET`) and the authority of client certificates (`EDGE_AUTHORITY`, PEM).
"""

import os

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse

from llm_authmw import (
    CertRule,
    ClientCertMiddleware,
    HeaderMap,
    HeaderTrustMiddleware,
    Principal,
    SharedSecret,
    Stack,
    UnixSocket,
)
from llm_authmw.asgi import Receive, Scope, Send

secret = SharedSecret(header="x-proxy-proof", secret="env:EDGE_SECRET")
headers = HeaderMap.preset("oauth2-proxy")


async def who(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the caller and the headers that have come through."""
    request = Request(scope)
    caller: Principal = request.user
    known = {name: getattr(caller, name) for name in ("user", "email", "groups", "method", "assurance", "credential_id")}
    await JSONResponse({**known, "headers": request.headers.items()})(scope, receive, send)


by_secret = Stack(Middleware(HeaderTrustMiddleware, proof=secret, realm="corp", headers=headers))(who)
by_secret_or_nobody = Stack(Middleware(HeaderTrustMiddleware, proof=secret, realm="corp", headers=headers, required=False))(who)
by_socket = Stack(Middleware(HeaderTrustMiddleware, proof=UnixSocket(), realm="corp", headers=headers))(who)

if "EDGE_AUTHORITY" in os.environ:
    rules = [CertRule(issuer="env:EDGE_AUTHORITY", user_from="email", realm="corp")]
    by_certificate = Stack(Middleware(ClientCertMiddleware, rules=rules, source="nginx", header="x-ssl-client-cert", proof=secret))(who)
    by_client_cert = Stack(Middleware(ClientCertMiddleware, rules=rules, source="client-cert", proof=secret))(who)
