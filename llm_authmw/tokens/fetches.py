"""Tells whoever measures of documents that were asked for, and of issuers that cannot be asked."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from llm_authmw.errors import IssuerUnavailableError
from llm_authmw.telemetry import Alert, Fetched, emit
from llm_authmw.tokens.breaker import QuestionRefusedError


@contextmanager
def fetching(what: str, issuer: str, monotonic: Callable[[], float]) -> Generator[None]:
    """Tell how long what is done meanwhile took, and whether the issuer answered.

    Of a question that was cancelled nothing is told: the issuer had no chance to answer it.

    Args:
        what: See `Fetched`.
        issuer: Whom.
        monotonic: Tells the time, in seconds.
    """
    began = monotonic()
    try:
        yield
    except QuestionRefusedError:
        emit(Fetched(what, issuer, monotonic() - began, "ok"))
        raise
    except (IssuerUnavailableError, TimeoutError):
        emit(Fetched(what, issuer, monotonic() - began, "failed"))
        raise
    emit(Fetched(what, issuer, monotonic() - began, "ok"))


class Outages:
    """The outages of one issuer, each of which is alerted of once.

    Args:
        what: What cannot be had: "jwks", "introspection", "userinfo".
        issuer: Whose.
        monotonic: Tells the time, in seconds.
    """

    def __init__(self, what: str, issuer: str, monotonic: Callable[[], float]) -> None:
        self._what: Final = what
        self._issuer: Final = issuer
        self._monotonic: Final = monotonic
        self._under_way: bool = False

    def begin(self, message: str) -> None:
        """Alert, unless that was done since `end`."""
        if not self._under_way:
            self._under_way = True
            # The moment tells one outage from the next.
            occasion = f"{self._what} {self._monotonic():.3f}"
            details: dict[str, str | int | float | bool | None] = {"what": self._what}
            emit(Alert(kind="issuer_outage", tenant="*", subject=self._issuer, message=message, details=details, occasion=occasion))

    def end(self) -> None:
        """Note that the issuer answers."""
        self._under_way = False
