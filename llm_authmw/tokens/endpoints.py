"""How each kind of endpoint is asked about a token, and how its answer is read.

Three outcomes are told apart. The provider says that the token is good, and what it says of it; it says that it is not; or it could
not be asked, which is never taken for either. Whoever is to blame for the last one decides whether the breaker hears of it.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol, TypeAlias

from llm_authmw.context import logger
from llm_authmw.errors import IssuerUnavailableError
from llm_authmw.strict_json import is_array, is_object, parse, parse_object
from llm_authmw.tokens.breaker import QuestionRefusedError
from llm_authmw.tokens.client_auth import ClientAuth
from llm_authmw.tokens.endpoint_urls import EndpointURL
from llm_authmw.tokens.http import Answer, Fetcher

Claims: TypeAlias = dict[str, Any]
SignedAnswerReader: TypeAlias = Callable[[bytes], Awaitable[Claims]]
"""Verifies a signed answer, and returns what it says of the token."""

SIGNED_MEDIA_TYPE: Final = "application/token-introspection+jwt"

# What a request is refused with for what is in it, by a provider that is well.
_REFUSALS: Final = frozenset({400, 413, 422})
# RFC 6749 §5.2: what is wrong with us, and not with the token.
_CLIENT_ERRORS: Final = frozenset({"invalid_client", "unauthorized_client"})
# RFC 7009 §2.2.1, which oidc-provider answers for a JWT, and RFC 6750 §3.1.
_TOKEN_ERRORS: Final = frozenset({"unsupported_token_type", "invalid_token"})
_GITHUB_HEADERS: Final = {"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"}
_ORGS_PER_PAGE: Final = 100
_MAX_PAGES: Final = 2


class TokenEndpoint(Protocol):
    """An endpoint that knows tokens."""

    async def ask(self, token: str) -> Claims | None:
        """Return what the provider says of the token, or None where it says that it is good for nothing.

        Raises:
            QuestionRefusedError: the provider is well, and does not answer for this token.
            IssuerUnavailableError: it could not be asked, or answered with something that says nothing.
        """
        ...


class IntrospectionEndpoint:
    """Asked by POST, with our client's credentials (RFC 7662).

    Args:
        url: Where it is.
        client: Proves which client we are.
        audience: Whom that proof is for; None for the endpoint itself.
        fetcher: Sends.
        read_signed: Where given, answers must be signed (RFC 9701), and are read with this.
    """

    def __init__(
        self, url: EndpointURL, *, client: ClientAuth, audience: str | None, fetcher: Fetcher, read_signed: SignedAnswerReader | None = None
    ) -> None:
        self._url: Final = url
        self._client: Final = client
        self._audience: Final = audience
        self._fetcher: Final = fetcher
        self._read_signed: Final = read_signed

    async def ask(self, token: str) -> Claims | None:
        """See `TokenEndpoint`."""
        url = await self._url()
        proof = await self._client.prove(self._audience or url)
        accept = "application/json" if self._read_signed is None else SIGNED_MEDIA_TYPE
        fields = {"token": token, "token_type_hint": "access_token", **proof.fields}
        answer = await self._fetcher.post_form(url, fields, headers={"accept": accept, **proof.headers})
        if answer.status != 200:
            self._check_refusal(answer)
            return None
        if self._read_signed is None:
            claims = _object(answer)
        elif answer.media_type == SIGNED_MEDIA_TYPE:
            claims = await self._read_signed(answer.body)
        else:
            raise IssuerUnavailableError("its answer is not signed")
        # `true`, and nothing that some language takes for it (RFC 7662 §2.2).
        return claims if claims.get("active") is True else None

    def _check_refusal(self, answer: Answer) -> None:
        """Return if it is the token that is refused."""
        error = _error_code(answer)
        if answer.status == 400 and error in _TOKEN_ERRORS:
            return
        if answer.status in (401, 403) or error in _CLIENT_ERRORS:
            logger.error("the introspection endpoint does not accept our client: check client_id, client_secret, client_key, client_auth")
            raise IssuerUnavailableError("it does not accept our client's credentials")
        raise _unanswered(answer)


class TokenInfoEndpoint:
    """Asked by GET with the token itself, which it answers for as it would for whoever holds it: 200 with claims, or a refusal.

    It has no audience: it says that the token is some client's, and not that it is meant for us.
    """

    def __init__(self, url: str, *, fetcher: Fetcher) -> None:
        self._url: Final = url
        self._fetcher: Final = fetcher

    async def ask(self, token: str) -> Claims | None:
        """See `TokenEndpoint`."""
        answer = await self._fetcher.get(self._url, headers=_bearer(token))
        if answer.status == 200:
            claims = _object(answer)
            return claims if claims.get("active", True) is True else None
        if answer.status in (401, 403, 404) or (answer.status == 400 and _error_code(answer) in _TOKEN_ERRORS):
            return None
        raise _unanswered(answer)


class GitHubEndpoint:
    """GitHub's `GET /user` and `GET /user/orgs`, as claims.

    `sub` is the numeric id, which is never given to anybody else; `login`, `name` and `email` are as the profile has them, and `groups`
    the logins of the organisations that the token may see (scope `read:org`): none of a token that may see none.
    """

    def __init__(self, url: str, *, fetcher: Fetcher) -> None:
        self._url: Final = url
        self._fetcher: Final = fetcher

    async def ask(self, token: str) -> Claims | None:
        """See `TokenEndpoint`."""
        answer = await self._fetcher.get(self._url, headers=_GITHUB_HEADERS | _bearer(token))
        _raise_if_limited(answer)
        if answer.status in (401, 403):
            return None
        if answer.status != 200:
            raise _unanswered(answer)
        user = _object(answer)
        if type(user.get("id")) is not int or not isinstance(user.get("login"), str):
            raise IssuerUnavailableError("its answer names no user")
        profile = {name: user[name] for name in ("login", "name", "email") if user.get(name) is not None}
        return {"sub": str(user["id"]), **profile, "groups": await self._organisations(token)}

    async def _organisations(self, token: str) -> list[str]:
        found: list[str] = []
        for page in range(1, _MAX_PAGES + 1):
            url = f"{self._url}/orgs?per_page={_ORGS_PER_PAGE}&page={page}"
            answer = await self._fetcher.get(url, headers=_GITHUB_HEADERS | _bearer(token))
            _raise_if_limited(answer)
            if answer.status in (403, 404):
                return []
            if answer.status != 200:
                raise _unanswered(answer)
            logins = _logins(answer)
            found += logins
            if len(logins) < _ORGS_PER_PAGE:
                break
        return found


def _bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def _object(answer: Answer) -> Claims:
    try:
        return parse_object(answer.body)
    except ValueError:
        raise IssuerUnavailableError("its answer is no JSON object") from None


def _logins(answer: Answer) -> list[str]:
    try:
        listed = parse(answer.body)
    except ValueError:
        listed = None
    logins = [entry.get("login") if is_object(entry) else None for entry in listed] if is_array(listed) else [None]
    if not all(isinstance(login, str) for login in logins):
        raise IssuerUnavailableError("its answer lists no organisations")
    return [str(login) for login in logins]


def _error_code(answer: Answer) -> str | None:
    """Return the `error` of an error answer (RFC 6749 §5.2), or None."""
    try:
        code = parse_object(answer.body).get("error")
    except ValueError:
        return None
    return code if isinstance(code, str) else None


def _unanswered(answer: Answer) -> IssuerUnavailableError:
    if answer.status in _REFUSALS:
        return QuestionRefusedError("it refused to answer for this token")
    return IssuerUnavailableError(f"it answered with status {answer.status}")


def _raise_if_limited(answer: Answer) -> None:
    """Tell a user who has asked too much of GitHub from a token that is not good: both can be 403."""
    if answer.status == 429 or (answer.status == 403 and b"rate limit" in answer.body.lower()):
        # Limits are each user's own, and say nothing about the others.
        raise QuestionRefusedError("it limits this user's requests", retry_after=30.0)
