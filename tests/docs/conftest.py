import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def stand_ins_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a page import what is not installed beside the tests."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parent / "stand_ins")])
