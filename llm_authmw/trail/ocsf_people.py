"""Who is calling, as OCSF has it: the objects `actor` and `user`."""

import re
from typing import Any, Final

from llm_authmw.trail.record import Record

# The schema's own form of an address for mail; one of another form has no place in an event.
_EMAIL: Final = re.compile(r"[a-zA-Z0-9!#$%&'*+-/=?^_`{|}~.]+@[a-zA-Z0-9-]+\.[a-zA-Z0-9-.]+")
_UNKNOWN: Final = {"type_id": 0, "type": "Unknown"}
_PERSON: Final = {"type_id": 1, "type": "User"}
_SERVICE: Final = {"type_id": 4, "type": "Service"}
_NOBODY: Final = {"name": "anonymous", "type_id": 99, "type": "Anonymous"}


def named_user(name: str) -> dict[str, Any]:
    """Return a user of whom only a name is known."""
    return {"name": name, **_UNKNOWN}


def actor(record: Record, unmapped: dict[str, Any]) -> dict[str, Any]:
    """Return who made a request; what finds a place here is taken out of `unmapped`."""
    who: dict[str, Any] = unmapped.get("who", {})
    person: dict[str, Any] = unmapped.get("person", {})
    issuer, client, credential = who.pop("issuer", None), who.pop("client", None), who.pop("credential_id", None)
    user = _subject(person.pop("user", None), client, credential, authenticated=record.who is not None and record.who.method != "anonymous")
    realm, org, team = who.pop("realm", None), who.pop("org", None), who.pop("team", None)
    if realm:
        user["domain"] = realm
    if org is not None:
        user["org"] = {"name": org}
    groups = [{"name": team, "type": "team"}] if team is not None else []
    groups += [{"name": role, "type": "role"} for role in who.pop("roles", ())]
    if groups:
        user["groups"] = groups
    if _EMAIL.fullmatch(person.get("email", "")):
        user["email_addr"] = person.pop("email")
    if credential is not None:
        user["programmatic_credentials"] = [{"uid": credential, "type": who.get("method", "unknown")}]
    found: dict[str, Any] = {"user": user}
    if client is not None:
        found["app_uid"] = client
    if issuer is not None:
        found["idp"] = {"uid": issuer, "issuer": issuer}
    return found


def _subject(name: str | None, client: str | None, credential: str | None, *, authenticated: bool) -> dict[str, Any]:
    """Return the subject, by the words of `Principal.subject`."""
    if name is not None:
        return {"uid": name, "name": name, **_PERSON}
    if client is not None:
        return {"uid": f"client:{client}", **_SERVICE}
    if credential is not None:
        return {"uid": f"key:{credential}", **_SERVICE}
    # Somebody whose person is forgotten, or nobody.
    return {"name": "unknown", **_UNKNOWN} if authenticated else dict(_NOBODY)
