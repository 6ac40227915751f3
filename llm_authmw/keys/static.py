"""Keys that are given in code: for a handful of services, where a store would be too much."""

from collections.abc import Mapping
from typing import Final, Unpack

from llm_authmw.clock import SYSTEM_CLOCK, Clock
from llm_authmw.errors import ConfigurationError, InvalidValueError
from llm_authmw.fields import text
from llm_authmw.keys.hashing import sha256
from llm_authmw.keys.known import UNKNOWN, KnownKey
from llm_authmw.keys.records import KeyFields, KeyRecord, clean_fields
from llm_authmw.keys.strength import check_chosen_key
from llm_authmw.names import name_problem
from llm_authmw.principal import DEFAULT_TENANT
from llm_authmw.secrets import Secret, resolve_secret


class StaticKey:
    """One key that is given in code.

    Args:
        key: The text, or better a reference to it: `env:NAME`, `file:PATH`. At least 32 characters.
        tenant: Whose key it is.
        fields: What `KeyService.create` takes; see `KeyFields`.

    Raises:
        ConfigurationError: the text cannot be found or is too weak, or a field is outside its grammar.
    """

    __slots__ = ("_digest", "_fields", "_last_four", "_tenant")

    def __init__(self, key: str | Secret, *, tenant: str = DEFAULT_TENANT, **fields: Unpack[KeyFields]) -> None:
        chosen = check_chosen_key("key", resolve_secret("key", key))
        try:
            self._tenant = text("tenant", tenant)
            self._fields = clean_fields(fields)
        except InvalidValueError as error:
            raise ConfigurationError("StaticKey", str(error)) from None
        self._digest = sha256(chosen)
        self._last_four = chosen[-4:].decode()

    def __repr__(self) -> str:
        return f"StaticKey({', '.join(f'{name}={value!r}' for name, value in self._fields.items())})"

    def known_as(self, key_id: str) -> tuple[bytes, KnownKey]:
        """Return the digest, and what is known of the key under this id."""
        record = KeyRecord(id=key_id, last_four=self._last_four, created_at=0.0, tenant=self._tenant, **self._fields)
        return self._digest, KnownKey.of_record(record)


class StaticKeys:
    """Keys that are given in code, by id. Only their SHA-256 is kept.

    Args:
        keys: Each key under the id that records show: a `StaticKey`, or just its text or reference.
        clock: Tells which keys have ended.

    Raises:
        ConfigurationError: there is none, two have the same text, one is too weak, or an id is no usable name.
    """

    def __init__(self, keys: Mapping[str, str | Secret | StaticKey], *, clock: Clock = SYSTEM_CLOCK) -> None:
        if not keys:
            raise ConfigurationError("keys", "names no key, so nobody could ever get in")
        self._now: Final = clock.now
        self._known: Final[dict[bytes, KnownKey]] = {}
        for key_id, key in keys.items():
            problem = name_problem(key_id)
            if problem is not None:
                raise ConfigurationError("keys", f"has an id that {problem}")
            digest, known = (key if isinstance(key, StaticKey) else StaticKey(key)).known_as(key_id)
            if digest in self._known:
                raise ConfigurationError("keys", f"{key_id!r} has the same text as {self._known[digest].key_id!r}")
            self._known[digest] = known

    def __repr__(self) -> str:
        return f"StaticKeys({sorted(known.key_id or '' for known in self._known.values())!r})"

    @property
    def verifier(self) -> "StaticKeys":
        """Itself: there is nothing to ask anybody."""
        return self

    @property
    def bound(self) -> None:
        """Nothing changes while the process runs."""
        return

    @property
    def resource(self) -> None:
        """There is nothing to start."""
        return

    def recall(self, presented: bytes) -> KnownKey:
        """Return what is known of the text."""
        return self._known.get(sha256(presented), UNKNOWN)

    async def verify(self, presented: bytes, *, imported: bool = False) -> KnownKey:
        """Return what is known of the text; there is nothing else to ask."""
        del imported
        return self.recall(presented)

    def judge(self, known: KnownKey) -> str | None:
        """Return the reason code that refuses the key now, or None."""
        return known.refusal(self._now(), ())

    def holds(self, known: KnownKey) -> bool:
        """Say whether the key has not ended."""
        return self._now() < known.ends

    def due(self, known: KnownKey) -> float:
        """Return the seconds until the key ends."""
        return known.ends - self._now()
