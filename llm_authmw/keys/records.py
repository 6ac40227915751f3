"""What is known of an API key: the record that people see, the secrets that nobody sees, the history of both."""

from collections.abc import Mapping
from typing import Any, Final, Literal, TypeAlias, TypedDict

import msgspec

from llm_authmw import fields
from llm_authmw.keys.hashing import Digest
from llm_authmw.names import Names, name_set
from llm_authmw.principal import DEFAULT_TENANT, KEYS_REALM, Assurance, Principal
from llm_authmw.quota import Budget, Limit

KeyStatus: TypeAlias = Literal["active", "blocked", "revoked"]
KeyState: TypeAlias = Literal["active", "blocked", "revoked", "expired", "not yet valid"]


class KeyFields(TypedDict, total=False):
    """What a person decides about a key: the arguments of `create` and `update`.

    Attributes:
        name: For people.
        realm: Where `user` means one person; give an issuer's realm to make its users and the key's the same people.
        user: Who the key belongs to.
        team: The team that its use is counted to.
        org: The organisation.
        roles: Roles that the holder has.
        scopes: OAuth scopes that the holder has.
        models: Model patterns; None is no restriction, an empty list allows none.
        routes: Route patterns; None is no restriction, an empty list allows none.
        tier: The named set of limits that applies.
        limits: Rate limits, as `Limit` or text.
        budgets: Budgets, as `Budget` or text.
        networks: Networks that the key may be used from; None is no restriction.
        tags: Labels.
        metadata: Up to 16 texts of the team's own; never looked at.
        not_before: Seconds since 1970 from which the key is valid.
        expires_at: Seconds since 1970 at which it ends.
    """

    name: str | None
    realm: str
    user: str | None
    team: str | None
    org: str | None
    roles: Names
    scopes: Names
    models: Names | None
    routes: Names | None
    tier: str | None
    limits: list[str] | list[Limit] | tuple[str, ...] | tuple[Limit, ...]
    budgets: list[str] | list[Budget] | tuple[str, ...] | tuple[Budget, ...]
    networks: Names | None
    tags: Names
    metadata: Mapping[str, str]
    not_before: float | None
    expires_at: float | None


class KeyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as people see it. It holds no secret and no digest.

    Attributes:
        id: The public id, part of the key's text.
        last_four: The last four characters of the newest secret's text, for recognising a key.
        status: What was decided about the key; its dates come on top, see `state`.
        imported: Whether the newest secret was made elsewhere and is not of our form.
        revision: Counts the changes.
        created_at: Seconds since 1970; so are all the others.
        rotated_at: When the newest secret replaced another.
        last_used_at: When the key was last used, to the minute.

    The remaining attributes are those of `KeyFields`.
    """

    id: str
    last_four: str
    created_at: float
    tenant: str = DEFAULT_TENANT
    name: str | None = None
    realm: str = KEYS_REALM
    user: str | None = None
    team: str | None = None
    org: str | None = None
    roles: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None
    routes: tuple[str, ...] | None = None
    tier: str | None = None
    limits: tuple[Limit, ...] = ()
    budgets: tuple[Budget, ...] = ()
    networks: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}
    not_before: float | None = None
    expires_at: float | None = None
    status: KeyStatus = "active"
    imported: bool = False
    revision: int = 1
    rotated_at: float | None = None
    last_used_at: float | None = None

    def state(self, now: float) -> KeyState:
        """Return what the key is at this moment, its dates included."""
        if self.status != "active":
            return self.status
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "not yet valid" if self.not_before is not None and self.not_before > now else "active"

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON values, limits and budgets as text."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        values["limits"] = [str(limit) for limit in self.limits]
        values["budgets"] = [str(budget) for budget in self.budgets]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "KeyRecord":
        """Read what `as_dict` gave.

        Raises:
            msgspec.ValidationError: it is not such a dictionary.
            InvalidValueError: a limit or a budget in it cannot be read.
        """
        limits = [Limit.parse(text) for text in values.get("limits", ())]
        budgets = [Budget.parse(text) for text in values.get("budgets", ())]
        return msgspec.convert({**values, "limits": limits, "budgets": budgets}, cls)

    def principal(self) -> Principal:
        """Return who is calling when this key is presented."""
        return Principal(
            tenant=self.tenant,
            realm=self.realm,
            user=self.user,
            team=self.team,
            org=self.org,
            roles=self.roles,
            scopes=self.scopes,
            tags=self.tags,
            tier=self.tier,
            models=self.models,
            routes=self.routes,
            networks=self.networks,
            limits=self.limits,
            budgets=self.budgets,
            method="key",
            credential_id=self.id,
            expires_at=self.expires_at,
            assurance=Assurance.SHARED_SECRET,
        )


class KeySecret(msgspec.Struct, frozen=True, kw_only=True):
    """One secret of a key. A key has one, or several while a rotation's time of grace runs.

    Attributes:
        digest: What is kept of it.
        created_at: Seconds since 1970.
        not_after: When the time of grace ends; None for the newest secret.
        imported: Whether it was made elsewhere; such a one is found by its digest.
    """

    digest: Digest
    created_at: float
    not_after: float | None = None
    imported: bool = False


class StoredKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key as a store keeps it: the record, and its secrets with the newest first."""

    record: KeyRecord
    secrets: tuple[KeySecret, ...]


class CreatedKey(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to `create`, `rotate` and `import_key`.

    Attributes:
        record: The key's record.
        key: The key's text, which is shown once; None when there is none to show (a replay, an import).
        replayed: Whether the same call was answered before.
    """

    record: KeyRecord
    key: str | None
    replayed: bool = False

    @property
    def id(self) -> str:
        """The key's public id."""
        return self.record.id

    def __repr__(self) -> str:
        return f"CreatedKey(id={self.id!r}, key={'None' if self.key is None else repr('**********')}, replayed={self.replayed})"


_CHECKS: Final[dict[str, fields.Check]] = {
    "name": fields.text_or_none,
    "realm": fields.text,
    "user": fields.user,
    "team": fields.text_or_none,
    "org": fields.text_or_none,
    "roles": name_set,
    "scopes": name_set,
    "models": fields.models,
    "routes": fields.routes,
    "tier": fields.text_or_none,
    "limits": fields.limits,
    "budgets": fields.budgets,
    "networks": fields.networks,
    "tags": name_set,
    "metadata": fields.metadata,
    "not_before": fields.moment,
    "expires_at": fields.moment,
}


def clean_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Check the fields of a new or changed key and return them as the record keeps them.

    Raises:
        InvalidValueError: a value is outside its grammar.
        ConfigurationError: a list is a bare string, or an entry of it is no usable name.
        TypeError: a field does not exist.
    """
    return fields.checked("an API key", _CHECKS, given)
