from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def checks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines and patience are looked at ten times as often as in a run: less is waited for."""
    monkeypatch.setattr("trainer.teacher_client.dispatch.CHECK_S", 0.05)
    monkeypatch.setattr("trainer.teacher_client.streams.RETRY_S", 0.05)
