"""The page of the layer for trusted headers: its options are the layer's, and each row of its failure table happens."""

import inspect
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from llm_authmw import KeyAuthMiddleware, RequestContext, StaticKeys
from llm_authmw.authn.header_map import FIELDS, HeaderMap
from llm_authmw.authn.proof import Proof, SharedSecret
from llm_authmw.authn.trusted_header import HeaderTrustMiddleware
from llm_authmw.testing import request
from llm_authmw.testing.witness import Witness

PAGE = Path(__file__).parents[2] / "docs" / "layers" / "trusted-headers.md"
SECRET = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
PROOF = (b"x-proxy-proof", SECRET.encode())
USER = (b"x-user", b"ada")
MODELS = (b"x-models", b"gpt-4o*")


class Broken:
    """A proof that cannot judge."""

    headers: frozenset[bytes] = frozenset()
    strong: bool = True

    def judge(self, scope: Any) -> Any:
        raise OSError(scope["path"])


class Row(NamedTuple):
    status: int
    told: str
    recorded: str


def _rows() -> dict[str, Row]:
    table = PAGE.read_text(encoding="utf-8").partition("| what happens | status |")[2].partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {what: Row(int(status), told.strip("`"), recorded.strip("`| ")) for what, status, told, recorded in cells}


ROWS: Final = _rows()
SHARED: Final = SharedSecret(header="x-proxy-proof", secret=SECRET)
CAUSES: Final[dict[str, list[list[tuple[bytes, bytes]]]]] = {
    "the headers are a stranger's": [[USER, MODELS]],
    "the proxy names neither a user nor a client": [[MODELS, PROOF], [(b"x-user", b" "), MODELS, PROOF]],
    "the secret is there and wrong, or there twice": [[USER, MODELS, (b"x-proxy-proof", b"guess")], [USER, MODELS, PROOF, PROOF]],
    "a header comes in another spelling, from anybody": [[(b"X_User", b"ada"), MODELS], [USER, (b"x.models", b"*"), MODELS, PROOF]],
    "a header comes twice, or holds two values where one is due": [[USER, USER, MODELS, PROOF], [(b"x-user", b"ada, bob"), MODELS, PROOF]],
    "a value is no printable UTF-8, is too long, or is not what its field takes": [
        [(b"x-user", b"\xff"), MODELS, PROOF],
        [(b"x-user", b"a" * 513), MODELS, PROOF],
        [USER, (b"x-models", b"gpt-*-mini"), PROOF],
    ],
    "a header that narrows is not there": [[USER, PROOF]],
    "a bad key or token beside good headers, here an unknown key": [[USER, MODELS, PROOF, (b"x-api-key", b"sk-garbage")]],
    "a check fails to run, whatever the cause": [[USER, MODELS]],
}


@pytest.mark.anyio
@pytest.mark.parametrize("what", ROWS)
async def test_each_row_of_the_failure_table_happens(what: str) -> None:
    row = ROWS[what]
    assert CAUSES.keys() == ROWS.keys()
    proof: Proof = Broken() if row.recorded == "check_failed" else SHARED
    for lines in CAUSES[what]:
        app, context = Witness(), RequestContext()
        keys = KeyAuthMiddleware(app, keys=StaticKeys({"ci": "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"}), required=False)
        guarded = HeaderTrustMiddleware(keys, realm="corp", headers=HeaderMap(user="x-user", models="x-models"), proof=proof)
        answer = await request(guarded, "GET /v1/models", headers=lines, scope={"llm_authmw.context": context})
        assert (row.status, row.told) == (answer.status, answer.header("x-authmw-reason"))
        assert (row.recorded, "denied") == (context.decisions[-1].reason, context.decisions[-1].outcome)
        # A key that is bad is denied by its own layer; this one had nothing to object to.
        ours = row.status != 503 and row.recorded != "key_unknown"
        assert ours == ("TrustedHeader" in answer.header_lines("www-authenticate"))
        assert [] == app.scopes


def test_the_page_has_every_option_and_every_field() -> None:
    text = PAGE.read_text(encoding="utf-8")
    table = text.partition("## Options")[2].partition("\n## ")[0]
    assert set(inspect.signature(HeaderTrustMiddleware).parameters) - {"app"} == set(re.findall(r"(?m)^\| `(\w+)` \|", table))
    listed = text.partition("a header for each field that is to be filled: ")[2].partition(". ")[0]
    assert set(FIELDS) == set(re.findall(r"`(\w+)`", listed))


def test_the_page_shows_the_headers_of_every_preset() -> None:
    shown = PAGE.read_text(encoding="utf-8").partition("| preset | headers |")[2].partition("\n\n")[0].lower()
    for row in shown.splitlines()[2:]:
        presets, headers, *_ = (cell.strip() for cell in row.strip("|").split(" | "))
        first = re.findall(r"`([\w-]+)`", headers)[0]
        for preset in re.findall(r"`([\w-]+)`", presets):
            known: Any = preset
            assert first in {name.decode() for name in HeaderMap.preset(known).named.values()}
