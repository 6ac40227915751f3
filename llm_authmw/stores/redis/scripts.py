"""The Lua scripts beside this module. The server knows each by the digest of its text, and compiles it once."""

import hashlib
from importlib import resources
from typing import Final

_FOLDER: Final = resources.files("llm_authmw.stores.redis") / "lua"


class Script:
    """One step of the ledger, which the server takes at once or not at all.

    Attributes:
        name: Its name, for errors.
        text: What the server runs.
        digest: SHA-1 of that, by which the server knows it (`EVALSHA`).
    """

    def __init__(self, name: str) -> None:
        parts = [(_FOLDER / f"{part}.lua").read_bytes() for part in ("common", name)]
        self.name: Final = name
        self.text: Final = b"\n".join(parts)
        self.digest: Final = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


RESERVE: Final = Script("reserve")
SETTLE: Final = Script("settle")
EXTEND: Final = Script("extend")
BALANCE: Final = Script("balance")
ACKNOWLEDGE: Final = Script("acknowledge")
