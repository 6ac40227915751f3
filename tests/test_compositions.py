"""The neighbour rule as a property: any composition of layers lets in whom every run of them lets in, and nobody else."""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import anyio
from hypercorn.middleware import ProxyFixMiddleware
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.middleware import Middleware
from starlette.routing import Mount, Router

from llm_authmw import AuditMiddleware, KeyAuthMiddleware, Stack, StaticKeys
from llm_authmw.asgi import ASGIApp
from llm_authmw.testing import request, websocket
from llm_authmw.testing.records import KeptRecords
from llm_authmw.testing.tickets import TicketLayer
from llm_authmw.testing.witness import Witness

KEY = "sk-ci-7hG2kQ9zLw4XvB8nRt5YpD3mFc6Js1Ae"
KEYS: Final = StaticKeys({"ci": KEY})

Headers: TypeAlias = Sequence[tuple[bytes, bytes]]

Layer: TypeAlias = tuple[str, bool]
"""The kind of a layer, and whether it requires a caller."""

CREDENTIALS: Final[dict[str, Headers]] = {
    "none": (),
    "key": ((b"authorization", b"Bearer " + KEY.encode()),),
    "bad key": ((b"x-api-key", KEY[::-1].encode()),),
    "ticket": ((b"x-ticket", b"good-ada"),),
    "bad ticket": ((b"x-ticket", b"forged"),),
    "garbage": ((b"authorization", b"Basic garbage"),),
    "key and ticket": ((b"x-api-key", KEY.encode()), (b"x-ticket", b"good-ada")),
}


class Opaque:
    """A foreign layer that does not show what stands behind it, and may pass a copy of the scope on."""

    def __init__(self, app: ASGIApp, *, copies: bool = False) -> None:
        self._inner = app
        self._copies = copies

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._inner(dict(scope) if self._copies else scope, receive, send)


# None is a whole Starlette app: ProxyFix copies `scope["app"]`, and recurses for ever in its state.
SEPARATORS: Final[dict[str, Callable[[ASGIApp], ASGIApp]]] = {
    "mount": lambda app: Router([Mount("/", app)]),
    "opaque": Opaque,
    "copying mount": lambda app: Opaque(Router([Mount("/", app)]), copies=True),
    "proxy fix": lambda app: Opaque(ProxyFixMiddleware(app)),
}


def entry(kind: str, *, required: bool) -> Middleware:
    if kind == "key":
        return Middleware(KeyAuthMiddleware, keys=KEYS, required=required)
    return Middleware(TicketLayer, required=required)


layers = st.sampled_from(["key", "ticket"])
runs = st.lists(layers, min_size=1, max_size=2, unique=True).flatmap(
    lambda kinds: st.tuples(*(st.tuples(st.just(kind), st.booleans()) for kind in kinds))
)


def model(all_runs: Sequence[Sequence[Layer]], credential: str) -> str | None:
    """Say who reaches the app, or None: each run of layers decides on its own, and the innermost one says who it is."""
    subject = "anonymous"
    for run in all_runs:
        kinds = {kind for kind, _ in run}
        presented = {"key and ticket": {"key", "ticket"}}.get(credential, {credential} - {"none"})
        # A header that none of the run's layers looks for is not there.
        seen = {one for one in presented if "ticket" not in one or "ticket" in kinds}
        if len(seen) > 1 or not seen <= kinds:
            return None
        if not seen and any(required for _, required in run):
            return None
        subject = {"key": "key:ci", "ticket": "ada"}[seen.pop()] if seen else "anonymous"
    return subject


@settings(max_examples=120, deadline=None)
@given(
    all_runs=st.lists(runs, min_size=1, max_size=3),
    separators=st.lists(st.sampled_from(sorted(SEPARATORS)), min_size=3, max_size=3),
    stacked=st.booleans(),
    credential=st.sampled_from(sorted(CREDENTIALS)),
)
def test_any_composition_lets_in_whom_every_run_of_layers_lets_in(
    all_runs: list[tuple[Layer, ...]], separators: list[str], stacked: bool, credential: str
) -> None:
    witness = Witness()
    app: ASGIApp = witness
    for number, (run, separator) in enumerate(zip(reversed(all_runs), separators, strict=False)):
        if number:
            app = SEPARATORS[separator](app)
        entries = [entry(kind, required=required) for kind, required in run]
        if stacked:
            app = Stack(*entries)(app)
        else:
            for layer in reversed(entries):
                app = layer.cls(app, *layer.args, **layer.kwargs)

    sink = KeptRecords()
    recorded = AuditMiddleware(app, sink=sink)

    async def ask() -> None:
        response = await request(recorded, "GET /v1/x", headers=CREDENTIALS[credential])
        async with websocket(recorded, "/v1/x", headers=CREDENTIALS[credential]) as socket:
            assert (response.status == 200) == socket.accepted
        assert response.status in (200, 400, 401)

    anyio.run(ask)
    expected = model(all_runs, credential)
    assert ([] if expected is None else [expected] * 2) == witness.subjects
    assert ["denied" if expected is None else "allowed"] * 2 == [record.outcome for record in sink.of("request")]
