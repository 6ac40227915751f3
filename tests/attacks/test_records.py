"""Secrets and hostile texts, planted wherever a client or the app behind can put them, and every place that records come out of."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import anyio
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from llm_authmw import (
    AuditMiddleware,
    BudgetMiddleware,
    CustomAuthMiddleware,
    KeyAuthMiddleware,
    Price,
    Principal,
    RateLimitMiddleware,
    RBACMiddleware,
    Record,
    Role,
    Stack,
    open_store,
    telemetry,
)
from llm_authmw.asgi import ASGIApp
from llm_authmw.metrics.prometheus import PrometheusMetrics
from llm_authmw.sinks.file import FileSink
from llm_authmw.sinks.frames import SyslogFormat
from llm_authmw.sinks.function import FunctionSink
from llm_authmw.sinks.stdout import StdoutSink
from llm_authmw.testing import fake_principal, lifespan, request, websocket
from llm_authmw.testing.books import called_by
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.witness import Witness
from llm_authmw.trail.encoding import MAX_LINE
from llm_authmw.trail.entry import Entry
from llm_authmw.trail.ocsf import encode_ocsf

pytestmark = pytest.mark.anyio

JWT: Final = "eyJhbGciOiJSUzI1NiIsImtpZCI6InBsYW50ZWQifQ.eyJzdWIiOiJwbGFudGVkLXN1YmplY3QifQ.cGxhbnRlZC1zaWduYXR1cmUtMDEyMzQ1Njc4OQ"
MASTER: Final = "Zq7-Kd92_hWx5TbvLmP0sYcGrEa4JuNf"
PLANTED: Final = {
    name: f"planted{number}x{name}Q7w9Zk3"
    for number, name in enumerate(
        [
            "cookie",
            "query",
            "body",
            "header",
            "basic",
            "subprotocol",
            "answer",
            "raised",
            "authenticate",
            "enrich",
            "authorizer",
            "referer",
            "form",
        ]
    )
}


class Outlets:
    """Every place that records come out of: a file, standard output, syslog, a collector's format, a function, logs, and metrics."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.jsonl"
        self.entries: list[Entry] = []
        self.sinks = [FileSink(self.path, fsync=False), StdoutSink(), FunctionSink(self._take)]
        self.metrics = PrometheusMetrics(CollectorRegistry())
        self.told: list[bytes] = []

    def _take(self, entries: Sequence[Entry]) -> None:
        self.entries.extend(entries)

    async def texts(self, stdout: str, logged: str) -> dict[str, bytes]:
        """Return everything that has come out, by where."""
        frames = SyslogFormat()
        return {
            "file": self.path.read_bytes(),
            "stdout": stdout.encode(),
            "syslog": b"".join(frame for entry in self.entries for frame in frames.frames(entry)),
            "ocsf": b"\n".join(encode_ocsf(entry.record) for entry in self.entries),
            "records": repr([entry.record for entry in self.entries]).encode(),
            "logs": logged.encode(),
            "metrics": (await request(self.metrics.app, "GET /metrics")).body,
            "denials": b"\n".join(self.told),
        }


async def chat(request: Request) -> JSONResponse:
    await request.body()
    if request.headers.get("x-raise"):
        raise RuntimeError(PLANTED["raised"])
    answer = {"model": "sk-" + PLANTED["answer"], "choices": [{"message": {"content": PLANTED["answer"]}}]}
    return JSONResponse({**answer, "usage": {"prompt_tokens": 3, "completion_tokens": 4, "secret": PLANTED["answer"]}})


APP: Final = Starlette(routes=[Route("/v1/chat/completions", chat, methods=["POST"])])


async def authenticate(_: object) -> Principal | None:
    raise RuntimeError(PLANTED["authenticate"])


def enrich(_: Record) -> Mapping[str, Any]:
    raise RuntimeError(PLANTED["enrich"])


async def authorize(_: object) -> bool:
    raise RuntimeError(PLANTED["authorizer"])


async def test_no_secret_comes_out_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    outlets, store = Outlets(tmp_path), open_store("memory://")
    created = await store.keys.create(user="ada", team="blue")
    wrong = await store.keys.create(user="eve")
    await store.keys.revoke(wrong.id, actor="test")
    assert created.key is not None
    assert wrong.key is not None
    secrets = [created.key, created.key.partition("_")[2], wrong.key, wrong.key.partition("_")[2], JWT, JWT.rpartition(".")[2], MASTER]
    secrets += PLANTED.values()

    def stack(*layers: Middleware) -> Stack:
        return Stack(Middleware(AuditMiddleware, sink=outlets.sinks, observers=[outlets.metrics], enrich=enrich), *layers)

    keys = Middleware(KeyAuthMiddleware, keys=store.keys, master_key=MASTER)
    roles = Middleware(RBACMiddleware, roles={"member": Role(routes=["*"], models=["gpt-*"])}, default_role="member")
    limits = Middleware(RateLimitMiddleware, ledger=store.ledger, limits={"team": ["100 concurrent"]})
    budget = Middleware(BudgetMiddleware, ledger=store.ledger, prices={"*": Price(input="1", output="1")}, limits={"team": ["9 usd/day"]})
    full = stack(keys, roles, limits, budget)(APP)
    guards: list[ASGIApp] = [
        full,
        stack(Middleware(CustomAuthMiddleware, authenticate=authenticate))(APP),
        stack(keys, Middleware(RBACMiddleware, authorizer=authorize))(APP),
    ]
    good = (b"authorization", b"Bearer " + created.key.encode())
    planted = [
        (b"cookie", f"session={PLANTED['cookie']}; token={JWT}".encode()),
        (b"x-custom", PLANTED["header"].encode()),
        (b"referer", f"https://x.example/?key={PLANTED['referer']}".encode()),
        (b"user-agent", f"agent {PLANTED['header']}".encode()),
        (b"traceparent", PLANTED["header"].encode()),
        (b"x-forwarded-for", PLANTED["header"].encode()),
    ]
    body = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": PLANTED["body"]}],
        "user": "sk-" + PLANTED["body"],
        "metadata": {"k": PLANTED["body"]},
    }
    query = f"?api_version={PLANTED['query']}&token={JWT}"
    credentials: list[list[tuple[bytes, bytes]]] = [
        [good],
        [(b"x-api-key", MASTER.encode())],
        [(b"x-api-key", wrong.key.encode())],
        [(b"authorization", f"Bearer {JWT}".encode())],
        [(b"authorization", f"Basic {PLANTED['basic']}".encode())],
        [good, (b"x-api-key", MASTER.encode())],
        [],
    ]
    paths = [
        "/v1/chat/completions",
        f"/v1/{created.key}/chat",
        f"/v1/{JWT}",
        f"/{MASTER}/v1/models",
        f"/v1/sk-{PLANTED['form']}",
        f"/v1/token={PLANTED['form']}",
    ]
    with caplog.at_level(logging.DEBUG):
        async with lifespan(full):
            for app in guards:
                for credential in credentials:
                    for path in paths:
                        answer = await request(app, f"POST {path}{query}", headers=[*credential, *planted], json=body, reraise=False)
                        if answer.status >= 400 and answer.headers and path == paths[0]:
                            outlets.told.append(repr(answer.headers).encode() + answer.body)
                for model in (JWT, created.key, "sk-" + PLANTED["form"]):
                    # A denial quotes the model, or the path, that its own client has named, to that client alone.
                    await request(app, "POST /v1/chat/completions", headers=[good], json={"model": model, "messages": []})
                await request(app, "POST /v1/chat/completions", headers=[good, (b"x-raise", b"1")], json=body, reraise=False)
                async with websocket(
                    app, f"/v1/realtime{query}", subprotocols=["realtime", f"openai-insecure-api-key.{PLANTED['subprotocol']}"]
                ):
                    pass
    for sink in outlets.sinks:
        await sink.aclose()
    texts = await outlets.texts(capfd.readouterr().out, caplog.text)
    assert all(texts.values())
    assert 3 * len(credentials) * len(paths) <= sum(entry.record.kind == "request" for entry in outlets.entries)
    assert [] == [(where, secret) for where, text in texts.items() for secret in secrets if secret.encode() in text]
    # What is wanted is there: ids, reasons, and that the enrichment failed.
    for wanted in (created.id, "key_revoked", "[masked]", '"enrichment":"failed"'):
        assert wanted.encode() in texts["file"]
    telemetry.detach(outlets.metrics)


HOSTILE: Final = {
    "line breaks": 'a\r\nb\n{"kind":"request"}\x85\u2028\u2029c',
    "terminal": "\x1b[2J\x1b]0;title\x07\x9b31m\x00\x7f",
    "bidi": "\u202eevil\u2066\u200f\ufeff",
    "half a character": "\ud800x\udfff",
    "a megabyte": "x" * 1_000_000,
    "quotes": '","kind":"policy","x":"\\',
    "syslog": "1 <13>1 - - - - - - forged\n<13>1 2026-11-21T00:00:00Z forged app - - - gone",
}


def hostile_requests(text: str) -> list[tuple[dict[str, Any], bytes]]:
    """Return scopes, each with a body, in which a text is everywhere that a client can put it."""
    raw = text.encode("utf-8", "surrogatepass")
    member = json.dumps(text)
    # As servers decode a path.
    text = raw.decode("utf-8", "replace")
    lines = [
        (name, raw) for name in (b"host", b"traceparent", b"x-forwarded-for", b"forwarded", b"user-agent", b"authorization", b"x-trace")
    ]
    base: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/v1/chat/completions",
        "headers": [],
        "query_string": b"",
        "client": ("192.0.2.7", 1),
    }
    body = b'{"model":"gpt-4o","messages":[]}'
    return [
        ({**base, "method": text}, body),
        ({**base, "path": "/" + text, "raw_path": b"/" + raw}, body),
        ({**base, "path": f"/v1/{text}/chat/completions", "root_path": text}, body),
        ({**base, "path": "/a" * 600_000}, body),
        ({**base, "query_string": raw}, body),
        ({**base, "headers": lines}, body),
        ({**base, "client": (text, 1)}, body),
        (base, b'{"model":%b,"messages":[]}' % member.encode()),
        (base, b'{"model":"gpt-4o","user":%b,"messages":[]}' % member.encode()),
        (base, b'{"model":"gpt-4o","tools":[{"type":%b}],"messages":[]}' % member.encode()),
        (base, b'{"model":"gpt-4o","fallbacks":[%b],"messages":[]}' % b",".join(b'"m%d"' % number for number in range(900))),
    ]


@pytest.mark.parametrize("kind", HOSTILE)
async def test_no_text_of_a_client_breaks_out_of_its_record(kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    outlets = Outlets(tmp_path)
    ledger = open_store("memory://").ledger
    ada = fake_principal(team="blue")
    layers = RBACMiddleware(
        RateLimitMiddleware(Witness(), ledger=ledger, limits={"team": ["100 concurrent"], "model": ["1000 tokens/day"]}, missing="skip"),
        roles={"member": Role(routes=["*"], models=["gpt-*", "m*"], tools=["*"])},
        default_role="member",
    )
    app = AuditMiddleware(layers, sink=outlets.sinks)
    sent = hostile_requests(HOSTILE[kind])
    for scope, body in sent:
        messages = [{"type": "http.request", "body": body, "more_body": False}]
        await app({**scope, **called_by(ada)}, _receiving(messages), _taken)
    for sink in outlets.sinks:
        await sink.aclose()
    lines = outlets.path.read_bytes().splitlines(keepends=True)
    requests = [entry for entry in outlets.entries if entry.record.kind == "request"]
    assert len(sent) == len(requests)
    kinds: list[str] = []
    for line in [*lines, *capfd.readouterr().out.encode().splitlines(keepends=True)]:
        assert line.endswith(b"}\n")
        assert len(line) <= MAX_LINE
        assert all(0x20 <= byte < 0x7F for byte in line[:-1])
        kinds.append(json.loads(line)["kind"])
    assert 2 * len(sent) == kinds.count("request")
    assert 2 == kinds.count("policy")
    frames = SyslogFormat()
    for entry in outlets.entries:
        assert all(0x20 <= byte < 0x7F for byte in encode_ocsf(entry.record))
        for frame in frames.frames(entry):
            length, _, message = frame.partition(b" ")
            assert int(length) == len(message) <= 8192
            assert b"\n" not in message


async def test_what_waits_for_a_sink_is_small_whatever_a_client_sends() -> None:
    put: list[Any] = []

    class Keeps(KeptRecords):
        def put(self, record: Any) -> None:
            put.append(record)

    layers = RBACMiddleware(Witness(), roles={"member": Role(routes=["*"], models=["gpt-*"], tools=["*"])}, default_role="member")
    app = AuditMiddleware(layers, sink=Keeps())
    for scope, body in hostile_requests("x" * 1_000_000):
        await app(
            {**scope, **called_by(fake_principal())}, _receiving([{"type": "http.request", "body": body, "more_body": False}]), _taken
        )
    for notes in put[1:]:
        known = notes.known
        held = [notes.method, notes.path, notes.raw_path, notes.root_path, known.call and known.call.end_user, *known.traced]
        held += [value for _, value in known.forwarded]
        assert all(text is None or len(text) <= 4096 for text in held)


async def test_a_url_that_its_host_header_forges_is_in_no_record(tmp_path: Path) -> None:
    outlets = Outlets(tmp_path)
    app = AuditMiddleware(Witness(), sink=outlets.sinks[0])
    await request(app, "GET /v1/models", headers=[(b"host", b"x/admin?"), (b"x-original-url", b"/admin"), (b"x-rewrite-url", b"/admin")])
    await outlets.sinks[0].aclose()
    text = outlets.path.read_text()
    assert '"path":"/v1/models"' in text
    assert "admin" not in text


def _receiving(messages: list[Any]) -> Any:
    async def receive() -> Any:
        if not messages:
            await anyio.sleep_forever()
        return messages.pop(0)

    return receive


async def _taken(message: Any) -> None:
    pass
