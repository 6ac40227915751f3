"""`Webhook`: a URL that is told, with a signature by which the receiver knows that it was us (Standard Webhooks 1.0)."""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Sequence
from typing import Final

import msgspec

from llm_authmw.alerts.telling import NotToldError, Telling
from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, SinkError
from llm_authmw.secrets import Secret, resolve_secret
from llm_authmw.sinks.http_calls import Collector
from llm_authmw.sinks.tls import Path, client_context

_PREFIX: Final = "whsec_"
_LEAST: Final = 24
_MOST: Final = 64
"""Bytes of a signing secret, as the specification has it."""
_TRY_LATER: Final = frozenset({408, 425, 429})


class Webhook:
    """A URL to which alerts are posted as JSON: `{"type": "lockout", "timestamp": …, "data": {…}}`.

    Every attempt carries `webhook-id`, the same for each of one alert, by which a receiver drops what it has had already;
    `webhook-timestamp`, seconds since 1970; and `webhook-signature`, HMAC-SHA256 over id, timestamp and body. An answer of 2xx means
    that it is taken; 408, 425, 429, 5xx and none, that it is tried again; everything else, that it is given up. No redirect is
    followed.

    Args:
        url: https, or http to a loopback host; or a reference to it, since its path is often a secret.
        secret: What is signed with, or a reference to it: `whsec_` and 24 to 64 bytes in base64. Of several, each signs, so that a
            secret can be replaced.
        deadline: Seconds that one attempt may take.
        ca_file: PEM with the authorities that the receiver's certificate may come from. Left out: those that the system trusts.
        clock: Gives the time.

    Raises:
        ConfigurationError: the URL is not one, or a secret is too short or not of that form. The text quotes neither.
    """

    def __init__(
        self,
        url: str | Secret,
        *,
        secret: str | Secret | Sequence[str | Secret],
        deadline: float = 5.0,
        ca_file: Path | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        tls = client_context(ca_file=ca_file, cert_file=None, key_file=None)
        self._receiver: Final = Collector(url, headers={}, tls=tls, clock=clock, timeout=deadline)
        given = [secret] if isinstance(secret, str | Secret) else list(secret)
        if not given:
            raise ConfigurationError("secret", "names none, so that nobody could know that it was us")
        self._keys: Final = [_key(resolve_secret("secret", one).reveal()) for one in given]
        self._now: Final = clock.now

    def __repr__(self) -> str:
        return f"Webhook({self._receiver.place!r})"

    async def tell(self, telling: Telling) -> None:
        """Post it once.

        Raises:
            NotToldError: it was not taken.
        """
        body = msgspec.json.encode(telling.payload())
        headers = {"content-type": "application/json", **self._signed(telling.id, body)}
        try:
            answer = await self._receiver.post(body, headers)
        except SinkError as error:
            raise NotToldError(str(error)) from None
        if not 200 <= answer.status < 300:
            raise NotToldError(f"answered with {answer.status}", permanent=answer.status < 500 and answer.status not in _TRY_LATER)

    async def aclose(self) -> None:
        """Close the connection that is kept."""
        await self._receiver.aclose()

    def _signed(self, message_id: str, body: bytes) -> dict[str, str]:
        moment = str(int(self._now()))
        signed = b"%b.%b.%b" % (message_id.encode(), moment.encode(), body)
        signatures = (base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in self._keys)
        return {
            "webhook-id": message_id,
            "webhook-timestamp": moment,
            "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
        }


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text.removeprefix(_PREFIX), validate=True) if text.startswith(_PREFIX) else b""
    except (binascii.Error, ValueError):
        key = b""
    if not _LEAST <= len(key) <= _MOST:
        raise ConfigurationError(
            "secret", f"is '{_PREFIX}' and {_LEAST} to {_MOST} bytes in base64; make one with: echo {_PREFIX}$(openssl rand -base64 32)"
        )
    return key
