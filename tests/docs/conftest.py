import sys
from pathlib import Path

import pytest

from llm_authmw import telemetry


@pytest.fixture(autouse=True)
def whoever_a_page_lets_listen_stops_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "_observers", ())


@pytest.fixture(autouse=True)
def stand_ins_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page import what is not installed beside the tests."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent / "stand_ins")])
