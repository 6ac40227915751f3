"""The reason codes: one table, from which errors, the documentation and the tests are made. A code is never renamed."""

from typing import Final, NamedTuple


class Reason(NamedTuple):
    """What a reason code means.

    Attributes:
        status: The HTTP status of a denial for this reason.
        message: The fixed text that a client may see; no value of the request or of a store is ever put into it.
        public: The code that the client is told instead, where the exact one would say too much.
        retry_after: Seconds to wait, where waiting helps whatever the request was.
    """

    status: int
    message: str
    public: str | None = None
    retry_after: float | None = None


_KEY: Final = "The API key is not valid."
_NOT_ACCEPTED: Final = "The bearer token is not one that is accepted here."

REASONS: Final[dict[str, Reason]] = {
    # Nothing to decide on, or more than one thing.
    "missing_credential": Reason(401, "No credential was sent. Send an API key as 'Authorization: Bearer <key>'."),
    "credential_not_accepted": Reason(401, "A credential was sent, but of a kind or in a place that is not accepted here."),
    "invalid_token": Reason(401, _NOT_ACCEPTED),
    "ambiguous_credential": Reason(400, "More than one credential was sent. Send exactly one."),
    "repeated_credential": Reason(400, "A header or parameter that carries a credential was sent twice. Send it once."),
    "malformed_credential": Reason(400, "The credential is not well-formed: printable ASCII without blanks, at most 16 KiB."),
    # API keys. What the client hears is one and the same, so that a guess learns nothing.
    "invalid_api_key": Reason(401, _KEY),
    "key_malformed": Reason(401, _KEY, public="invalid_api_key"),
    "key_unknown": Reason(401, _KEY, public="invalid_api_key"),
    "key_mismatch": Reason(401, _KEY, public="invalid_api_key"),
    "key_not_yet_valid": Reason(401, "The API key is not valid yet.", public="invalid_api_key"),
    "key_expired": Reason(401, "The API key has expired.", public="invalid_api_key"),
    "key_rotated": Reason(401, "The API key was replaced, and its time of grace is over.", public="invalid_api_key"),
    "key_blocked": Reason(401, "The API key is blocked.", public="invalid_api_key"),
    "key_revoked": Reason(401, "The API key was revoked.", public="invalid_api_key"),
    "account_blocked": Reason(401, "The account that the API key belongs to is blocked.", public="invalid_api_key"),
    # Tokens. A guess learns nothing; whoever holds a token that its issuer signed is told what is wrong with it.
    "token_malformed": Reason(401, _NOT_ACCEPTED, public="invalid_token"),
    "token_algorithm_not_allowed": Reason(401, _NOT_ACCEPTED, public="invalid_token"),
    "token_key_unknown": Reason(401, _NOT_ACCEPTED, public="invalid_token"),
    "token_key_unusable": Reason(401, _NOT_ACCEPTED, public="invalid_token"),
    "token_signature_invalid": Reason(401, _NOT_ACCEPTED, public="invalid_token"),
    "token_type_mismatch": Reason(401, "The token is of another kind than is accepted here."),
    "token_expired": Reason(401, "The token has expired."),
    "token_not_yet_valid": Reason(401, "The token is not valid yet."),
    "token_too_old": Reason(401, "The token was issued too long ago, or for too long a time."),
    "issuer_mismatch": Reason(401, "The token was issued by somebody else."),
    "audience_mismatch": Reason(401, "The token is for another audience."),
    "token_claim_missing": Reason(401, "The token lacks a claim that is required here."),
    "token_claim_invalid": Reason(401, "A claim of the token has a value that is not accepted here."),
    "token_binding_mismatch": Reason(401, "The token is bound to a key or certificate that was not proven on this connection."),
    "token_revoked": Reason(401, "The token was revoked."),
    "token_inactive": Reason(401, _NOT_ACCEPTED, public="invalid_token"),
    # What an edge in front says: client certificates, a proxy's headers, signed assertions.
    "proxy_proof_invalid": Reason(401, "The proof of the proxy in front is not valid.", public="credential_not_accepted"),
    "identity_header_alias": Reason(400, "An identity header was sent in a spelling that can be taken for another header."),
    "identity_header_repeated": Reason(400, "An identity header was sent twice, or with several values. Send it once."),
    "identity_header_malformed": Reason(400, "An identity header holds a value that is not accepted here."),
    "identity_header_missing": Reason(400, "An identity header that has to be there is missing."),
    "certificate_malformed": Reason(400, "The client certificate cannot be read."),
    "certificate_not_accepted": Reason(401, "The client certificate is not one that is accepted here."),
    "certificate_not_yet_valid": Reason(401, "The client certificate is not valid yet."),
    "certificate_expired": Reason(401, "The client certificate has expired."),
    # A known caller who may not.
    "network_not_allowed": Reason(403, "This credential may not be used from this network address."),
    "route_not_allowed": Reason(403, "This credential may not be used for this method and path."),
    "ambiguous_path": Reason(400, "The path can be read in more than one way. Send it in its canonical form."),
    "insufficient_scope": Reason(403, "The credential lacks a scope that this operation needs."),
    # What the request asks for cannot be read in one way only.
    "request_malformed": Reason(400, "The body is not one JSON object in UTF-8, each member once, that can be read in one way only."),
    "request_field_invalid": Reason(400, "A field of the request has a value that is not accepted here."),
    "request_field_not_allowed": Reason(400, "The request has a field that chooses where or as whom it is sent on."),
    "body_too_large": Reason(413, "The body is larger than is accepted here."),
    "content_type_not_accepted": Reason(415, "The body is of a type that is not accepted here. Send application/json."),
    "content_encoding_not_accepted": Reason(415, "The body is compressed, which is not accepted here. Send it as it is."),
    "model_missing": Reason(400, "The request names no model. Name one."),
    "model_malformed": Reason(400, "The request names a model by something else than a model's name."),
    "mcp_header_mismatch": Reason(400, "A header names another MCP method or tool than the body."),
    # A known caller, whose roles do not allow it.
    "role_missing": Reason(403, "No role was given that may be used here."),
    "role_unknown": Reason(403, "The credential has a role that is not defined here."),
    "policy_missing": Reason(403, "No policy covers this method and path."),
    "operation_not_allowed": Reason(403, "This kind of request is not allowed for this credential."),
    "operation_unknown": Reason(403, "This route is not known, and could reach any model. It has to be allowed by its own name."),
    "model_not_allowed": Reason(403, "A model that the request names is not allowed for this credential."),
    "tool_not_allowed": Reason(403, "A tool that the request uses is not allowed for this credential."),
    "assurance_too_low": Reason(403, "The credential proves too little about the caller for this request."),
    "authentication_too_old": Reason(401, "The caller logged in too long ago for this request. Log in again."),
    "authentication_class_not_accepted": Reason(401, "The caller has to log in by other means for this request."),
    "not_authorized": Reason(403, "This request is not allowed for this credential."),
    "authorization_unavailable": Reason(
        503, "Whether this request is allowed could not be found out just now. Try again shortly.", retry_after=1.0
    ),
    # Somebody who was wrong too often.
    "too_many_failures": Reason(429, "Too many credentials that are not valid came from here. Try again later."),
    "locked_out": Reason(429, "Far too many credentials that are not valid came from here. Try again much later."),
    # A known caller who may, but not so much.
    "rate_limited": Reason(429, "A rate limit was reached. Try again later."),
    "concurrency_limited": Reason(429, "Too many requests are under way at once. Try again when one of them has ended."),
    "insufficient_quota": Reason(429, "A budget is used up."),
    "request_exceeds_limit": Reason(400, "The request is for more than a limit ever lets through. Ask for less."),
    "request_exceeds_budget": Reason(400, "The request may cost more than the whole of a budget. Ask for less."),
    "output_ceiling_invalid": Reason(400, "The ceiling for what is generated is zero, or above what any model can do."),
    "tier_unknown": Reason(403, "The credential has a tier that is not defined here."),
    "limit_dimension_missing": Reason(403, "A limit is counted by something that this credential or request does not name."),
    "limits_too_many": Reason(400, "The request falls under more limits than can be counted at once. Name fewer models."),
    "model_unpriced": Reason(403, "A model that the request names has no price here."),
    "operation_unmetered": Reason(403, "What this kind of request uses cannot be measured, and it has no flat price here."),
    # No decision could be reached, which is a denial.
    "store_unavailable": Reason(503, "The credential could not be checked just now. Try again shortly.", retry_after=1.0),
    "issuer_unavailable": Reason(503, "The issuer of the credential could not be asked just now. Try again shortly.", retry_after=1.0),
    "pepper_unavailable": Reason(503, "The credential could not be checked just now.", public="store_unavailable"),
    "check_failed": Reason(503, "The credential could not be checked just now.", public="store_unavailable"),
    "ledger_unavailable": Reason(503, "What is left of a limit could not be found out just now. Try again shortly.", retry_after=1.0),
    "audit_unavailable": Reason(503, "The request could not be recorded just now, which it has to be. Try again shortly.", retry_after=1.0),
    "upstream_credential_unavailable": Reason(503, "The service behind could not be asked just now. Try again shortly.", retry_after=1.0),
}
