"""The URL of a PostgreSQL store: checked, split into what asyncpg takes and what is ours, and shown without its password."""

import re
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from llm_authmw.errors import ConfigurationError
from llm_authmw.secrets import Secret

_HOST: Final = r"(?:\[[0-9A-Fa-f:.%]+\]|[^\[\]:@,]*)(?::[0-9]{1,5})?"
_HOSTS: Final = re.compile(rf"{_HOST}(?:,{_HOST})*")


class Address:
    """Where a PostgreSQL store is.

    Args:
        url: `postgresql://USER:PASSWORD@HOST:PORT/DATABASE`, with `sslmode` and other parameters that the server's own programs
            know, and with `pooler=transaction` where the connections go through a pooler that lends one for a transaction.

    Attributes:
        dsn: The URL for asyncpg.
        place: The server and the database as messages name them.
        pooled: Whether nothing outlives a transaction on a connection.

    Raises:
        ConfigurationError: the URL cannot be read. The text holds nothing of it.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
        except ValueError:  # its text may quote the password
            raise _unreadable() from None
        hosts = parts.netloc.rpartition("@")[2]
        database = unquote(parts.path.removeprefix("/"))
        if "://" not in url or not database or "/" in database or "@" in database or parts.fragment or not _HOSTS.fullmatch(hosts):
            raise _unreadable()
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        pooler = parameters.pop("pooler", None)
        if pooler not in {None, "transaction"}:
            raise ConfigurationError("url", "takes one pooler, which is transaction")
        query = urlencode({"application_name": "llm-authmw", **parameters})
        self.pooled: Final = pooler is not None
        self.dsn: Final = Secret(f"postgresql://{parts.netloc}{parts.path}?{query}")
        self.place: Final = f"PostgreSQL at {hosts or parameters.get('host') or 'localhost'}/{database}"


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "url",
        "cannot be read; expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE, "
        "with %2F for a slash in the password, and likewise for : ? # [ ] @ and %",
    )
