"""The show of `make demo`: a guarded LLM proxy, the real SDKs in front of it, and what each of them sees.

Everything is real but the model: a server process, a SQLite file, keys from the command line, the OpenAI and Anthropic SDKs.
Nothing is left behind. With ONCE=1 it ends when it has shown everything: with 0 if all went as shown, else with 1.
"""

import json
import os
import secrets
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

import httpx
from clients import CLAUDE, GPT, QUESTION, Clients, Seen
from command_line import Operator
from records import PUBLIC_KEY, records
from screen import Scene, Screen

from llm_authmw.testing.servers import RunningServer, serve
from llm_authmw.trail.checkpoints import SigningKey, make_signing_key

APP = "app:app"
HERE: Final = Path(__file__).parent
BOUND: Final = 1.0
"""Seconds within which a revoked key stops in every process: the default of `open_store`."""

PAUSE: Final = 2.0
"""Seconds between two requests that `RATE` lets through."""
RATE: Final = "30 requests/minute, burst 1"
MONEY: Final = "0.0025 usd/day"
"""It pays for the long answer once, and then only for short ones."""

NO_CREDENTIAL: Final = "missing_credential"
NOT_VALID: Final = "invalid_api_key"
USAGE: Final = "2 tokens in, 5 out"  # the mock counts words
STREAMED: Final = f"5 pieces, {USAGE}"


def good_calls(clients: Clients) -> Iterator[Scene]:
    """Show what works with a key: the SDKs, unchanged."""
    said, streamed = (Seen(200, body=f"Hello from {GPT}: {QUESTION}", note=note) for note in (USAGE, STREAMED))
    yield Scene("OpenAI", "chat.completions", said, clients.see(clients.chat))
    yield Scene("OpenAI", "chat.completions, streamed", streamed, clients.see(clients.chat_streamed))
    yield Scene("OpenAI", "responses", said, clients.see(clients.respond))
    yield Scene("OpenAI", "responses, streamed", streamed, clients.see(clients.respond_streamed))
    yield Scene("OpenAI", "embeddings", Seen(200, body="2 vectors of 8 numbers", note="3 tokens in"), clients.see(clients.embed))
    yield Scene("OpenAI", "models", Seen(200, body="gpt-4o-mini, text-embedding-3-small"), clients.see(clients.models))
    said, streamed = (seen._replace(body=f"Hello from {CLAUDE}: {QUESTION}") for seen in (said, streamed))
    yield Scene("Anthropic", "messages", said, clients.see(clients.message))
    yield Scene("Anthropic", "messages, streamed", streamed, clients.see(clients.message_streamed))


def bad_calls(clients: Clients, url: str, key: str) -> Iterator[Scene]:
    """Show what does not work, and what the client is told."""
    nobody = Seen(401, "openai.AuthenticationError", NO_CREDENTIAL)
    yield Scene("OpenAI", "no key", nobody, clients.see(clients.chat_without_key))
    yield Scene("Anthropic", "no key", nobody._replace(error="anthropic.AuthenticationError"), clients.see(clients.message_without_key))
    mistyped = key[:-20] + ("x" if key[-20] != "x" else "y") + key[-19:]
    with Clients(url, mistyped) as others:
        yield Scene("OpenAI", "a key with a typo", nobody._replace(reason=NOT_VALID), others.see(others.chat))
    both = Seen(400, "openai.BadRequestError", "ambiguous_credential")
    yield Scene("OpenAI", "two keys at once", both, clients.see(lambda: clients.chat(**{"x-api-key": key})))


def other_models(clients: Clients) -> Iterator[Scene]:
    """Show what the role does not allow, wherever a request says it."""
    refused = Seen(403, "openai.PermissionDeniedError", "model_not_allowed")
    yield Scene("OpenAI", "another model", refused, clients.see(clients.chat_with_another_model))
    yield Scene("OpenAI", "the same as a fallback", refused, clients.see(clients.chat_with_a_fallback))
    refused = refused._replace(error="anthropic.PermissionDeniedError")
    yield Scene("Anthropic", "another model", refused, clients.see(clients.message_with_another_model))


def rates(clients: Clients, patient: Clients) -> Iterator[Scene]:
    """Show a limit: who is too quick is told for how long to wait, and an SDK that may try again does exactly that."""
    said = Seen(200, body=f"Hello from {GPT}: {QUESTION}", note=USAGE)
    yield Scene("OpenAI", "the first", said, clients.see(clients.chat))
    seen = clients.see(clients.chat)
    told = f"come back in {clients.wait:.3f} s"
    refused = Seen(
        429, "openai.RateLimitError", "rate_limited", note=told if 0 < clients.wait <= PAUSE else f"come back within {PAUSE:g} s"
    )
    yield Scene("OpenAI", "the second, at once", refused, seen._replace(note=told))
    since = time.monotonic()
    seen = patient.see(patient.chat)
    waited = f"served {time.monotonic() - since:.3f} s later, by request {patient.sent}"
    served = waited if patient.sent == 2 else "served by request 2"
    yield Scene("OpenAI", "with leave to try again", said._replace(note=served), seen._replace(note=waited))


def budgets(clients: Clients) -> Iterator[Scene]:
    """Show a budget: the most that a call may cost has to be there, and once it is not, no SDK tries again."""
    long = Seen(200, body="1003 words", note="1000 tokens in, 1003 out")
    yield Scene("OpenAI", "a long answer", long, clients.see(clients.chat_at_length))
    before = clients.sent
    seen = clients.see(clients.chat_at_length)
    tries = f"Asked {clients.sent - before} time, although it may try again 5 times."
    told = f"A budget is used up. {tries}" if "A budget is used up." in seen.body else tries
    note = "A budget is used up. Asked 1 time, although it may try again 5 times."
    yield Scene("OpenAI", "another one", Seen(429, "openai.RateLimitError", "insufficient_quota", note=note), seen._replace(note=told))
    said = Seen(200, body=f"Hello from {GPT}: {QUESTION}", note=USAGE)
    yield Scene("OpenAI", "a short answer", said, clients.see(clients.chat_briefly))


def revocation(clients: Clients, operator: Operator, key_id: str) -> Iterator[Scene]:
    """Show a key that stops while the proxy runs."""
    yield Scene("OpenAI", "before", Seen(200, body=f"Hello from {GPT}: {QUESTION}", note=USAGE), clients.see(clients.chat))
    operator.run(f"keys revoke {key_id}")
    since = time.monotonic()
    while not (seen := clients.see(clients.chat)).error and time.monotonic() - since <= BOUND:
        pass  # each turn is a request, which takes its time
    waited = f"stopped {time.monotonic() - since:.2f} s after the command; the bound is {BOUND:g} s"
    denied = Seen(401, "openai.AuthenticationError", NOT_VALID, note=waited)
    yield Scene("OpenAI", "after", denied, seen._replace(note=waited))


def caller(url: str, key: str, answered: int) -> Scene:
    """Show what an app behind the guard knows: who is calling. And that denied calls never reached it."""
    response = httpx.get(f"{url}/v1/me", headers={"x-api-key": key}, trust_env=False)
    expected = json.dumps({"user": "ada", "team": "blue", "provider_calls": answered}, separators=(",", ":"))
    return Scene("httpx", "GET /v1/me, by x-api-key", Seen(200, body=expected), Seen(response.status_code, body=response.text))


def show(screen: Screen, operator: Operator, server: RunningServer) -> tuple[str, str]:
    """Show everything; return the id and the text of a key that works."""
    screen.title(
        f"A guarded LLM proxy on [bold]{server.url}[/]",
        "uvicorn ─▶ Stack(AuditMiddleware, KeyAuthMiddleware, RBACMiddleware,",
        "                 RateLimitMiddleware, BudgetMiddleware) ─▶ a mock provider",
        "Keys are in a SQLite file, hashed with a pepper; records in one beside it. Each ✓ is an expectation that was met.",
    )
    screen.section("Somebody gets a key")
    key_id, key = operator.mint("--name laptop --user ada --team blue")
    with Clients(server.url, key) as clients:
        screen.section("With the key, SDKs work unchanged")
        for scene in good_calls(clients):
            screen.scene(scene)
        screen.section("Without a good key, nothing gets through")
        for scene in bad_calls(clients, server.url, key):
            screen.scene(scene)
        screen.section("A role says which models, wherever the request names one")
        for scene in other_models(clients):
            screen.scene(scene)
        answered = clients.answered
        sent = clients.sent + 1  # the one with the typo
    screen.section("A key has limits: whoever is too quick is told how long to wait")
    _, quick_key = operator.mint(f"--name quick --user ada --team blue --limit '{RATE}'")
    with Clients(server.url, quick_key) as clients, Clients(server.url, quick_key, max_retries=5) as patient:
        for scene in rates(clients, patient):
            screen.scene(scene)
        answered += clients.answered + patient.answered
        sent += clients.sent + patient.sent
    screen.section("A key has a budget: the most that a call may cost is reserved before it is made")
    _, poor_key = operator.mint(f"--name intern --user ada --team blue --budget '{MONEY}'")
    with Clients(server.url, poor_key, max_retries=5) as clients:
        for scene in budgets(clients):
            screen.scene(scene)
        answered += clients.answered
        sent += clients.sent
    screen.section("A revoked key stops while the proxy runs")
    lost_id, lost_key = operator.mint("--name lost-laptop --user bob --team blue")
    with Clients(server.url, lost_key) as clients:
        for scene in revocation(clients, operator, lost_id):
            screen.scene(scene)
        answered += clients.answered
        sent += clients.sent
    screen.section("The app behind knows who is calling, and saw none of the denied calls")
    screen.scene(caller(server.url, key, answered))
    screen.section("What happened: every request has its record, and none can be changed unnoticed")
    # Besides those of the clients: the one above, and the one by which the server was found to be up, which was denied.
    for scene in records(screen, operator, sent=sent + 2, answered=answered + 1):
        screen.scene(scene)
    screen.section("Which keys there are")
    operator.run("keys list", show=True)
    screen.summary()
    return key_id, key


def invite(screen: Screen, url: str, store: str, key_id: str, key: str) -> None:
    """Print lines to copy."""
    ask: dict[str, Any] = {"model": GPT, "messages": [{"role": "user", "content": "hello"}]}
    stream = {**ask, "stream": True, "stream_options": {"include_usage": True}}
    bearer, as_json = f"-H 'Authorization: Bearer {key}'", "-H 'Content-Type: application/json'"
    claude = f"-H 'x-api-key: {key}' -H 'anthropic-version: 2023-06-01'"
    program = f"AUTHMW_STORE={store} {shlex.quote(str(Path(sys.executable).with_name('llm-authmw')))}"
    screen.section("Your turn: lines to copy")
    screen.to_copy("chat", f"curl -s {url}/v1/chat/completions {bearer} {as_json} -d '{json.dumps(ask)}'")
    screen.to_copy("the same, streamed", f"curl -sN {url}/v1/chat/completions {bearer} {as_json} -d '{json.dumps(stream)}'")
    ask |= {"model": CLAUDE, "max_tokens": 100}
    screen.to_copy("Anthropic's API, and its header", f"curl -s {url}/v1/messages {claude} {as_json} -d '{json.dumps(ask)}'")
    screen.to_copy("without a key", f"curl -si {url}/v1/models")
    screen.to_copy("what has happened", f"{program} audit tail")
    screen.to_copy("which keys there are", f"{program} keys list")
    screen.to_copy("end this key: the calls above stop within a second", f"{program} keys revoke {key_id}")


def main() -> int:
    """Run the show; return its exit code."""
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "ANTHROPIC_"))]:
        del os.environ[name]  # what the SDKs would read there must neither change the show nor be sent anywhere
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="authmw-demo-") as directory:
        store = f"sqlite:///{directory}/authmw.db"
        signing_key = make_signing_key()
        environment = {"AUTHMW_STORE": store, "AUTHMW_PEPPER": secrets.token_urlsafe(32), "AUTHMW_AUDIT_KEY": signing_key.reveal()}
        (Path(directory) / PUBLIC_KEY).write_text(SigningKey(signing_key).public_pem, encoding="ascii")
        with serve(APP, directory=HERE, env=environment) as server:
            key_id, key = show(screen, Operator(screen, Path(directory), environment), server)
            invite(screen, server.url, store, key_id, key)
            if os.environ.get("ONCE", "0") in ("", "0"):
                stay_up(screen, server)
    return 1 if screen.unmet else 0


def stay_up(screen: Screen, server: RunningServer) -> None:
    """Wait until the person has seen enough."""
    screen.remark("The proxy stays up until Ctrl-C.")
    try:
        server.process.wait()
    except KeyboardInterrupt:
        screen.remark("Ended. Nothing is left behind.")
    else:
        raise SystemExit(f"the proxy ended by itself:\n{server.output}")


def _end(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
