"""What counts as a failure: a credential was presented, it was judged, and it was no good.

Not: that none was sent, that it could not be judged just now, that a caller who is known may not do something, or that a request
cannot be read in one way only. None of these is a guess.
"""

from typing import Final, Literal, NamedTuple

from llm_authmw.errors import Denial


class Failure(NamedTuple):
    """What a failure says.

    Attributes:
        genuine: Whether the credential is proven to be one, and only does not hold now, or not here: nobody has guessed anything.
        names: Whether the denial's credential id is that of the credential which was guessed at, and not made of the guess itself.
        beside: Whether it is of something that is presented beside a caller's credential, so that it says nothing of that.
    """

    genuine: bool = False
    names: bool = False
    beside: bool = False


Kind = Literal["wrong", "wrong text", "wrong proof", "genuine"]

_FAILURES: Final[dict[Kind, Failure]] = {
    "wrong": Failure(names=True),
    "wrong text": Failure(),
    "wrong proof": Failure(beside=True),
    "genuine": Failure(genuine=True),
}

FAILURES: Final[dict[str, Kind]] = {
    # Nobody has found it good.
    "credential_not_accepted": "wrong",
    "invalid_token": "wrong",
    "invalid_api_key": "wrong",
    "key_malformed": "wrong",
    "key_unknown": "wrong",
    "key_mismatch": "wrong",
    # What records call a token is a digest of it, so each guess has another one.
    "token_malformed": "wrong text",
    "token_algorithm_not_allowed": "wrong text",
    "token_key_unknown": "wrong text",
    "token_key_unusable": "wrong text",
    "token_signature_invalid": "wrong text",
    "token_inactive": "wrong text",
    # An edge's token is asked who has issued it before its signature is looked at.
    "issuer_mismatch": "wrong text",
    "proxy_proof_invalid": "wrong proof",
    "certificate_malformed": "wrong proof",
    "certificate_not_accepted": "wrong proof",
    # It is what it says, and does not hold now, or was issued for something else: that is looked at once the rest is proven.
    "key_not_yet_valid": "genuine",
    "key_expired": "genuine",
    "key_rotated": "genuine",
    "key_blocked": "genuine",
    "key_revoked": "genuine",
    "account_blocked": "genuine",
    "token_type_mismatch": "genuine",
    "token_expired": "genuine",
    "token_not_yet_valid": "genuine",
    "token_too_old": "genuine",
    "audience_mismatch": "genuine",
    "token_claim_missing": "genuine",
    "token_claim_invalid": "genuine",
    "token_binding_mismatch": "genuine",
    "token_revoked": "genuine",
    "certificate_not_yet_valid": "genuine",
    "certificate_expired": "genuine",
}
"""Which denials of an authentication layer are failures, by their exact reason codes."""


def failure_of(denial: Denial) -> Failure | None:
    """Return what a denial of an authentication layer counts as, or None where it is no failure."""
    kind = FAILURES.get(denial.reason)
    return None if kind is None else _FAILURES[kind]
