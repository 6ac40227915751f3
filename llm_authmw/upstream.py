"""The credential of the app behind: the caller's own go no further, and one of ours takes their place."""

import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Literal, TypeAlias

from llm_authmw.asgi import ASGIApp, Receive, Scope, Send, layers_inside, refuse_recording_inside, send_denial
from llm_authmw.authn.channels import without_credentials
from llm_authmw.authn.credentials import AUTHORIZATION, NEVER_A_CREDENTIAL
from llm_authmw.authn.layer import AuthenticationLayer
from llm_authmw.callbacks import DEFAULT_DEADLINE, Callback
from llm_authmw.context import RequestContext, logger
from llm_authmw.errors import ConfigurationError, Denial
from llm_authmw.identity import Deciding, ReadsIdentity
from llm_authmw.principal import Principal
from llm_authmw.protected_resource import ProtectedResourceMiddleware
from llm_authmw.secrets import Secret, resolve_secret

Choice: TypeAlias = str | Secret | Mapping[str, str | Secret] | None
Choose: TypeAlias = Callable[[Principal], Choice] | Callable[[Principal], Awaitable[Choice]]
Lines: TypeAlias = list[tuple[bytes, bytes]]

_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+")
_VALUE: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
_TOKEN: Final = re.compile(r"[\x21-\x7e]+")


class UpstreamCredentialMiddleware(Deciding):
    """Take away what the caller presented, and give the app behind a credential of its own.

    It is the innermost layer, in front of an app that has credentials: an LLM proxy with a master key, a provider. Removed are, in
    every spelling: each header, query parameter and WebSocket subprotocol that may carry a caller's credential, whatever else the
    authentication layers of the request look into, the headers by which proxies say who is calling, and those that rewrite method
    or path. Cookies go as well, unless they are passed: browsers send them unasked, apps take them for a login, and a session of
    ours is one. The body is not looked at.

    It lets everybody through: who may is for the layers outside to say.

    Args:
        app: The app.
        bearer: The app's credential, sent as `Authorization: Bearer`. Best given as `env:NAME`.
        header: The header that carries it instead, in lower case, such as `x-api-key`.
        value: What that header holds. Best given as `env:NAME`.
        choose: From the principal to the app's credential, sync or async: what `bearer` takes, or a mapping from headers to their
            values. It returns the credential itself: a reference such as `env:NAME` is not followed. If it raises, is late or
            returns None or anything else, the request is denied with 503.
        cookies: "remove" or "pass".
        deadline: Seconds that a call of `choose` may take; 5 where it is left out.

    Raises:
        ConfigurationError: there is not exactly one of `bearer`, `header` with `value`, and `choose`; a secret cannot be read or
            does not fit into a header; an option would be ignored; or a layer of ours stands inside.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        bearer: str | Secret | None = None,
        header: str | None = None,
        value: str | Secret | None = None,
        choose: Choose | None = None,
        cookies: Literal["remove", "pass"] = "remove",
        deadline: float | None = None,
    ) -> None:
        ways = {"bearer": bearer, "header": header, "choose": choose}
        given = [name for name, option in ways.items() if option is not None]
        if len(given) != 1:
            raise ConfigurationError(given[-1] if given else "bearer", "give exactly one of bearer, header with value, and choose")
        if (header is None) != (value is None):
            raise ConfigurationError("value", "and header belong together")
        if cookies not in ("remove", "pass"):
            raise ConfigurationError("cookies", "is 'remove' or 'pass'")
        if deadline is not None and choose is None:
            raise ConfigurationError("deadline", "is for choose, and would be ignored")
        self.app: Final = app
        self.name: Final = type(self).__name__
        self._way: Final = f"header={header!r}" if header is not None else given[0]
        self._choose: Final = (
            None if choose is None else Callback("choose", choose, deadline=DEFAULT_DEADLINE if deadline is None else deadline)
        )
        self._lines: Final[Lines] = []
        if bearer is not None:
            self._lines.append(_bearer_line("bearer", resolve_secret("bearer", bearer)))
        elif header is not None and value is not None:
            self._lines.append(_line("header", header, "value", resolve_secret("value", value)))
        self._cookies: Final = cookies
        refuse_recording_inside(self.name, app)
        for layer in layers_inside(app):
            if isinstance(layer, AuthenticationLayer | ReadsIdentity | ProtectedResourceMiddleware | UpstreamCredentialMiddleware):
                raise ConfigurationError(self.name, f"{type(layer).__name__} stands inside, where the caller's credential is gone")

    def __repr__(self) -> str:
        way = self._way if self._choose is None else f"choose={self._choose!r}"
        return f"UpstreamCredentialMiddleware({way}, cookies={self._cookies!r})"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on with the app's credential, or deny it where there is none."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        lines = self._lines if self._choose is None else await self._chosen(self._choose, context.principal)
        if lines is None:
            denial = Denial("upstream_credential_unavailable", layer=self.name)
            context.record(denial)
            await send_denial(scope, send, denial, context)
            return
        replaced = frozenset(name for name, _ in lines)
        passed = without_credentials(scope, context.authentication, cookies=self._cookies == "remove", others=replaced)
        passed["headers"] += lines
        await self.app(passed, receive, send)

    async def _chosen(self, choose: Callback, principal: Principal) -> Lines | None:
        try:
            return _lines_of(await choose(principal))
        except Exception as error:  # noqa: BLE001 - a user's function: whatever it raises, the app is not called without a credential
            # Where and what, but not the error's own text, which may quote a secret.
            place = traceback.extract_tb(error.__traceback__)[-1]
            logger.error("%s has no credential: %s at %s:%s", self.name, type(error).__name__, place.filename, place.lineno)
            return None


def _lines_of(choice: Any) -> Lines:
    """Return the header lines of what `choose` has returned.

    Raises:
        TypeError: it is no credential.
        ConfigurationError: it does not fit into a header.
    """
    if isinstance(choice, str | Secret):
        return [_bearer_line("choose", _secret(choice))]
    is_mapping = isinstance(choice, Mapping)
    chosen: Mapping[Any, Any] = choice
    if not is_mapping or not chosen:
        raise TypeError("choose returns a text, a Secret, or a mapping from headers to these")
    return [_line("choose", name, "choose", _secret(value)) for name, value in chosen.items()]


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if type(value) is not str:
        raise TypeError("a credential is a text or a Secret")
    return Secret(value)


def _bearer_line(option: str, secret: Secret) -> tuple[bytes, bytes]:
    text = secret.reveal()
    if _TOKEN.fullmatch(text) is None:
        raise ConfigurationError(option, "holds something else than printable ASCII without blanks")
    return AUTHORIZATION, b"Bearer " + text.encode()


def _line(option: str, name: Any, value_option: str, secret: Secret) -> tuple[bytes, bytes]:
    if type(name) is not str or _NAME.fullmatch(name) is None:
        raise ConfigurationError(option, f"{name!r} is not the name of a header in lower case (RFC 9110 §5.1)")
    if name.encode() in NEVER_A_CREDENTIAL:
        raise ConfigurationError(option, f"{name!r} means something else to servers")
    text = secret.reveal()
    if _VALUE.fullmatch(text) is None:
        raise ConfigurationError(value_option, "holds something else than printable ASCII, or begins or ends with a blank")
    return name.encode(), text.encode()
