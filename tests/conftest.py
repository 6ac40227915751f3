from typing import Any

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is; pytest's own limit ends what hangs.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


@pytest.fixture(params=[pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"), pytest.param("trio", id="trio")])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param
