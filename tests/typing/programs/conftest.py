"""What a team's policy tests are given: its stack, and an issuer in the same process."""

import pytest
from starlette.middleware import Middleware

from llm_authmw import JWTMiddleware, RBACMiddleware, Role, Stack
from llm_authmw.testing import TestIssuer


@pytest.fixture
def issuer() -> TestIssuer:
    return TestIssuer(audience="api://llm")


@pytest.fixture
def guard(issuer: TestIssuer) -> Stack:
    roles = {"member": Role(routes=["*"], models=["gpt-4o-mini"])}
    return Stack(
        Middleware(JWTMiddleware, issuers=[issuer.trusted()]),
        Middleware(RBACMiddleware, roles=roles, default_role="member"),
    )
