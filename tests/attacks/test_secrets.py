"""Secrets are planted everywhere, everything is done with them, and whatever comes out is searched for them."""

import base64
import copy
import hashlib
import hmac
import logging
import pickle
import sys
import traceback
import warnings
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from starlette.middleware import Middleware

from llm_authmw import ConfigurationError, KeyAuthMiddleware, Secret, Stack, StaticKey, StaticKeys, Store, StoreUnavailableError, open_store
from llm_authmw.authn.credentials import SUBPROTOCOL, Credential, find_credential
from llm_authmw.context import CONTEXT_KEY
from llm_authmw.keys.format import mint_key
from llm_authmw.testing import ManualClock, WebSocketClosed, lifespan, stream, websocket
from llm_authmw.testing.witness import Witness

pytestmark = pytest.mark.anyio

PEPPER = "pPq81-hJ20dmXw7bVz5cRt9NsKf3Ly6Ga"
MASTER = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
STATIC = "sk-static-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
IMPORTED = "sk-zD6mQ1vXk8Rj4Lw0"


def forms(secret: str) -> Iterable[bytes]:
    """Yield a secret, the secret part of a key, and the digests of both, in the ways in which they could come out."""
    texts = {secret, secret.rpartition("_")[2], secret.rpartition("-")[2]}
    for text in {one.encode() for one in texts}:
        digests = [hashlib.sha256(text).digest(), hmac.digest(PEPPER.encode(), text, "sha256"), hashlib.md5(text).digest()]
        yield text
        yield base64.b64encode(text).rstrip(b"=")
        for digest in digests:
            yield digest
            yield digest.hex().encode()
            yield digest.hex().upper().encode()
            yield base64.b64encode(digest).rstrip(b"=")
            yield repr(digest)[2:-1].encode()


class Search:
    """Everything that came out, and the secrets that must not be in it."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = list(secrets)
        self.seen: list[tuple[str, bytes]] = []

    def see(self, where: str, what: Any) -> None:
        """Keep something that came out: as it is where it is bytes, and as it prints otherwise."""
        printed = what if isinstance(what, bytes) else f"{what}\n{what!r}".encode("utf-8", "backslashreplace")
        self.seen.append((where, printed))

    def found(self) -> list[str]:
        """Return where a secret was found, and how much of it, but not the secret."""
        needles = {form: secret[:4] for secret in self.secrets for form in forms(secret)}
        return [f"{where}: {needles[form]}…" for where, printed in self.seen for form in needles if form in printed]


def test_the_search_finds_what_it_searches_for() -> None:
    for where in (
        STATIC,
        STATIC.rpartition("-")[2],
        hashlib.sha256(STATIC.encode()).hexdigest(),
        repr(hashlib.sha256(STATIC.encode()).digest()),
    ):
        search = Search(STATIC)
        search.see("somewhere", f"x {where} y")
        assert ["somewhere: sk-s…"] == search.found()[:1]
    assert [] == Search(STATIC).found()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(f"sqlite:///{tmp_path / 'authmw.db'}", pepper=PEPPER, clock=ManualClock(), bound=0.05, deadline=5)


async def conversations(search: Search, guarded: Any, keys: dict[str, str]) -> None:
    """Send every key in every channel, with mistakes of every kind, and keep what comes back."""
    for name, key in keys.items():
        sent: list[list[tuple[bytes, bytes]]] = [
            [(header, key.encode())] for header in (b"x-api-key", b"api-key", b"x-goog-api-key", b"authorization", b"x-own-key")
        ]
        sent += [[(b"authorization", f"{scheme} {key}".encode())] for scheme in ("Bearer", "Basic", "ApiKey")]
        sent += [[(b"x-api-key", key.encode()), (b"api-key", key.encode())], [(b"x-api-key", key.encode() + b"\xff")]]
        sent += [[(b"x-api-key", key[:-1].encode())], [(b"cookie", key.encode())]]
        targets = ("GET /v1/models", "POST /v1/messages", f"GET /v1/x?key={key}", "GET /v1beta/models/x:generateContent")
        for target, headers in zip(cycle(targets), sent, strict=False):
            async with stream(guarded, target, headers=headers) as exchange:
                async for _ in exchange:
                    pass
            search.see(f"answer to {name}", repr(exchange.response.headers).encode() + exchange.response.body)
            context = exchange.scope[CONTEXT_KEY]
            published = [exchange.scope.get(member) for member in ("user", "auth", "state")]
            for shown in (context, context.decisions, context.authentication, published):
                search.see(f"context of {name}", shown)
            async with websocket(guarded, "/v1/realtime", headers=headers, subprotocols=["realtime"]) as socket:
                search.see(f"socket of {name}", repr(socket.response.headers).encode() + socket.response.body)
        async with websocket(guarded, "/v1/realtime", subprotocols=[SUBPROTOCOL + key]) as socket:
            search.see(f"socket of {name}", repr(socket.response.activity.sent))


@pytest.mark.parametrize("disclosure", ["uniform", "exact"])
async def test_no_secret_comes_out_of_anything_that_is_done_with_it(
    store: Store, disclosure: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger().setLevel(logging.DEBUG)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        static = StaticKeys({"static": StaticKey(STATIC, networks=["127.0.0.0/8"])})
        options: dict[str, Any] = {"master_key": MASTER, "header": "x-own-key", "query_parameter": "key", "disclosure": disclosure}
        stack = Stack(Middleware(KeyAuthMiddleware, keys=store.keys, imported=True, **options))
        guarded = stack(Witness())
        async with lifespan(guarded):
            made = {
                "good": await store.keys.create(name="good", user="ada", scopes=["llm:read"]),
                "blocked": await store.keys.create(name="blocked"),
                "limited": await store.keys.create(name="limited", routes=["GET /other"], networks=["192.0.2.1"]),
                "rotated": await store.keys.create(name="rotated"),
                "wrong": await store.keys.create(name="wrong"),
            }
            keys = {name: str(created.key) for name, created in made.items()}
            await store.keys.block(made["blocked"].id)
            keys["successor"] = str((await store.keys.rotate(made["rotated"].id)).key)
            keys["wrong"] = mint_key(key_id=made["wrong"].id).text
            keys["unknown"] = mint_key().text
            imported = await store.keys.import_key(key=IMPORTED)
            keys |= {"imported": IMPORTED, "static": STATIC, "master": MASTER}
            search = Search(PEPPER, *keys.values())

            await conversations(search, guarded, keys)
            await conversations(search, KeyAuthMiddleware(Witness(), keys=static, **options), keys)

            async def down(*args: Any) -> Any:
                raise StoreUnavailableError("down")

            async def broken(*args: Any, **more: Any) -> Any:
                raise KeyError(*args)  # which prints what it was given

            for target, method, fault in ((store._backend.keys, "find", down), (store.keys.verifier, "verify", broken)):
                store.keys.verifier._cache.clear()
                with monkeypatch.context() as patched:
                    patched.setattr(target, method, fault)
                    await conversations(search, guarded, keys)

            async with websocket(guarded, "/v1/realtime", headers=[(b"x-api-key", keys["good"].encode())]) as socket:
                await store.keys.revoke(made["good"].id)
                with pytest.raises(WebSocketClosed) as closed:
                    await socket.receive()
                search.see("close", closed.value)

            shown: list[Any] = [
                stack,
                guarded,
                guarded.layers,
                static,
                store,
                store.keys,
                store.accounts,
                store.keys.verifier,
                store._backend,
            ]
            shown += [*made.values(), imported, store.keys._peppers, Secret(MASTER), StaticKey(STATIC), *static._known.values()]
            shown += [(await store.keys.list()).keys, *(store.keys.verifier.recall(key.encode()) for key in keys.values())]
            for created in (*made.values(), imported):
                shown += [created.record.as_dict(), await store.keys.history(created.id), await store._backend.keys.find(created.id)]
            for one in shown:
                search.see(type(one).__name__, one)
    search.see("log", caplog.text)
    search.see("log records", [(record.getMessage(), record.args, record.exc_text) for record in caplog.records])
    search.see("warnings", [str(warning.message) for warning in caught])
    search.see("output", "".join(capfd.readouterr()))
    assert [] == search.found()
    assert "denied by" in caplog.text


async def test_no_secret_is_in_the_file_of_the_store(store: Store, tmp_path: Path) -> None:
    async with store:
        made = [await store.keys.create(name="one"), await store.keys.create(name="two")]
        successor = await store.keys.rotate(made[0].id)
        await store.keys.import_key(key=IMPORTED)
        secrets = [PEPPER, IMPORTED, *(str(created.key) for created in (*made, successor))]
        content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    content += b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for secret in secrets:
        assert secret.encode() not in content
        assert secret.rpartition("_")[2].encode() not in content


def wrong_options() -> Iterable[tuple[Any, str]]:
    yield lambda: KeyAuthMiddleware(Witness(), keys=StaticKeys({"a": STATIC}), master_key=MASTER + "é"), MASTER
    yield lambda: KeyAuthMiddleware(Witness(), keys=StaticKeys({"a": STATIC}), master_key=MASTER[:31]), MASTER[:31]
    yield lambda: Stack(Middleware(KeyAuthMiddleware, keys=StaticKeys({"a": STATIC}), master_key=MASTER, header="x y")), MASTER
    yield lambda: StaticKeys({"a": STATIC, "b": STATIC}), STATIC
    yield lambda: StaticKeys({"a": STATIC + " "}), STATIC
    yield lambda: StaticKey(STATIC, networks=["everywhere"]), STATIC
    yield lambda: open_store("memory://", pepper=PEPPER[:31]), PEPPER[:31]
    yield lambda: open_store("memory://", pepper={0: PEPPER}), PEPPER
    yield lambda: open_store("nowhere://", pepper=PEPPER), PEPPER


@pytest.mark.parametrize(("build", "secret"), list(wrong_options()))
def test_an_error_about_a_secret_does_not_quote_it(build: Any, secret: str) -> None:
    """CVE-2022-29266 of APISIX: errors that tell secrets."""
    with pytest.raises(ConfigurationError) as caught:
        build()
    search = Search(secret)
    search.see("error", caught.value)
    search.see("cause", [caught.value.__cause__, caught.value.__context__])
    lines = traceback.format_exception(caught.value)
    search.see("traceback", "".join(line for line in lines if __file__ not in line))
    assert [] == search.found()


def test_what_holds_a_secret_is_not_written_out() -> None:
    layer = KeyAuthMiddleware(Witness(), keys=StaticKeys({"a": STATIC}), master_key=MASTER)
    search = Search(MASTER, STATIC)
    search.see("layer", layer)
    found = find_credential({"type": "http", "headers": [(b"x-api-key", STATIC.encode())]}, frozenset({b"x-api-key"}), frozenset())
    assert isinstance(found, Credential)
    search.see("credential", found)
    search.see("copy", copy.copy(found))
    assert [] == search.found()
    for holder in (Secret(MASTER), StaticKey(STATIC)):
        search = Search(MASTER, STATIC)
        try:
            search.see("pickle", pickle.dumps(holder))
        except (TypeError, AttributeError, pickle.PicklingError):
            search.see("error", sys.exc_info()[1])
        if isinstance(holder, Secret):
            assert [] == search.found()
