import signal
from typing import Any

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts a runner in the background lets it ignore Ctrl-C, and the programs that tests interrupt would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is; pytest's own limit ends what hangs.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"), pytest.param("trio", id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
