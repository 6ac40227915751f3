"""Tokens of identity providers: verifying them, asking about them, and what is remembered of them. No ASGI, no server."""

from llm_authmw.errors import IssuerUnavailableError, TokenInvalid
from llm_authmw.tokens.claim_map import ClaimMap, Constant, EmailDomain
from llm_authmw.tokens.issuer import Issuer
from llm_authmw.tokens.jws import verify_jws

__all__ = ["ClaimMap", "Constant", "EmailDomain", "Issuer", "IssuerUnavailableError", "TokenInvalid", "verify_jws"]
