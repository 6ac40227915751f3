"""Everything that this package raises.

AuthmwError
├── ConfigurationError     a wrong, ignored or contradictory option; raised when the object that has it is built
│   └── MissingExtraError  an optional dependency is not installed; says which extra brings it
├── InvalidValueError      a value that a person wrote is outside its grammar (a limit, a route pattern, a name)
├── StoreError             the store did not do what was asked
│   ├── StoreUnavailableError   it is down, locked or too slow; trying again can help
│   ├── StoreReadOnlyError      it cannot be written
│   └── StoreCorruptError       its file is not what we wrote, or is newer than this release
├── SinkError              a sink did not take records of what happened; trying again can help
├── TokenInvalid           a token is not valid; says which rule it breaks, and nothing of what it holds
├── IssuerUnavailableError an issuer could not be asked: its keys, its introspection; trying again can help
├── NotFoundError          no such key, account or revocation
├── ConflictError          the change contradicts what is stored (a revoked key, a reused idempotency key)
└── Denial                 the decision against a request; rendered for the client by `llm_authmw.dialects`
"""

from collections.abc import Sequence
from typing import Self

from llm_authmw.reasons import REASONS


class AuthmwError(Exception):
    """The base of everything that this package raises."""


class ConfigurationError(AuthmwError, ValueError):
    """An option is wrong, contradicts another one, or would be ignored."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(option, problem)
        self.option = option
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.option}: {self.problem}"


class MissingExtraError(ConfigurationError):
    """An optional dependency is not installed."""

    def __init__(self, option: str, extra: str) -> None:
        super().__init__(option, f"needs an optional dependency: pip install 'llm-authmw[{extra}]'")
        self.extra = extra

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.option, self.extra)


class InvalidValueError(AuthmwError, ValueError):
    """A value that a person wrote is outside its grammar. The text says what was expected."""


class StoreError(AuthmwError):
    """The store did not do what was asked. The text holds no row and no secret."""


class StoreUnavailableError(StoreError):
    """The store is down, locked or too slow; trying again can help."""


class StoreReadOnlyError(StoreError):
    """The store cannot be written: the file or the database is read-only, or is so for this user."""


class StoreCorruptError(StoreError):
    """The store's content is not what this release wrote. Nothing was changed."""


class SinkError(AuthmwError):
    """A sink did not take the records that it was given. The text holds none of them, and no secret of the sink's own.

    Args:
        problem: What went wrong.
        permanent: Whether the same records will be refused again, so that trying again cannot help.
    """

    def __init__(self, problem: str, *, permanent: bool = False) -> None:
        super().__init__(problem)
        self.permanent = permanent


class TokenInvalid(AuthmwError):  # noqa: N818 - the verdict on somebody else's value, as `Denial` is on a request
    """A token is not valid.

    Args:
        reason: Which rule it breaks; one of `llm_authmw.reasons.REASONS`. Its text is all that the error says.

    Raises:
        KeyError: `reason` is not in the table.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.message: str = REASONS[reason].message

    def __str__(self) -> str:
        return self.message


class IssuerUnavailableError(AuthmwError):
    """An issuer could not be asked for its keys, its metadata or its opinion. The text holds no token.

    Args:
        problem: What went wrong, without anything that the issuer sent.
        retry_after: Seconds after which it is asked again.
    """

    def __init__(self, problem: str, *, retry_after: float = 1.0) -> None:
        super().__init__(problem)
        self.retry_after = retry_after


class NotFoundError(AuthmwError, LookupError):
    """No such key, account or revocation in this tenant."""


class ConflictError(AuthmwError):
    """The change contradicts what is stored."""


class Denial(AuthmwError):  # noqa: N818 - a decision, raised only where a value cannot be returned
    """A decision against a request, and what the client is told about it.

    It is a value: layers return it and hand it on. An authentication layer may also raise it, and means the same.

    Args:
        reason: The exact reason code, for the record; one of `llm_authmw.reasons.REASONS`.
        layer: The name of the layer that decided.
        public_reason: What the client is told. Left out: what the table says, which hides the states of a key.
        rule: The rule, role or policy that decided, if one did.
        need: What would have been needed (a scope, a role), in words that the client may see.
        retry_after: Seconds after which trying again can help; None when waiting does not help.
        challenges: Values for `WWW-Authenticate` (RFC 9110 §11.6.1).
        headers: More headers of the answer, names in lower case: what a limit stands at.

    Raises:
        KeyError: `reason` or `public_reason` is not in the table.
    """

    def __init__(
        self,
        reason: str,
        *,
        layer: str = "",
        public_reason: str | None = None,
        rule: str | None = None,
        need: str | None = None,
        retry_after: float | None = None,
        challenges: Sequence[str] = (),
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        known = REASONS[reason]
        self.reason = reason
        self.public_reason: str = public_reason or known.public or reason
        told = REASONS[self.public_reason]
        super().__init__(reason)
        self.status: int = told.status
        self.message: str = told.message
        self.layer = layer
        self.rule = rule
        self.need = need
        self.retry_after: float | None = retry_after if retry_after is not None else told.retry_after
        self.challenges: tuple[str, ...] = tuple(challenges)
        self.headers: tuple[tuple[bytes, bytes], ...] = tuple(headers)
        self.credential_id: str | None = None

    def __copy__(self) -> Self:
        # Each denial that goes out is a copy, and `copy` would have it made anew from its reason first.
        copied = type(self).__new__(type(self), *self.args)
        vars(copied).update(vars(self))
        return copied

    def __repr__(self) -> str:
        return f"Denial(status={self.status}, reason={self.reason!r}, layer={self.layer!r})"
