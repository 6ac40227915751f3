"""Principals for tests, as a layer would have made them."""

from collections.abc import Callable
from typing import Any, Final

from llm_authmw import fields
from llm_authmw.names import name_set
from llm_authmw.principal import Assurance, Principal

# The same checks as for a key's fields, so that a test cannot hold a principal that no layer would make.
_CHECKS: Final[dict[str, Callable[[str, Any], Any]]] = {
    "roles": name_set,
    "scopes": name_set,
    "groups": name_set,
    "tags": name_set,
    "models": fields.models,
    "routes": fields.routes,
    "networks": fields.networks,
    "limits": fields.limits,
    "budgets": fields.budgets,
}


def fake_principal(user: str | None = "ada", **given: Any) -> Principal:
    """Return a principal that some layer let through: `fake_principal(user="ada", roles=["member"])`.

    Args:
        user: The person; None for a caller that is no person, who then needs a `client` or a `credential_id`.
        given: Any other field of `Principal`. Lists are normalised as they are on a key; limits and budgets may be text. Left
            out, the method is "test" and the assurance that of a shared secret.

    Raises:
        InvalidValueError: a value is outside its grammar, or nobody is named.
        ConfigurationError: a list is a bare string.
        TypeError: `Principal` has no such field.
    """
    values: dict[str, Any] = {"method": "test", "assurance": Assurance.SHARED_SECRET}
    values |= {name: _CHECKS[name](name, value) if name in _CHECKS else value for name, value in given.items()}
    return Principal(user=user, **values)
