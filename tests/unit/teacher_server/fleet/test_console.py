"""What `status` makes of the record and of what Serve runs."""

from __future__ import annotations

import pytest

from teacher_server.fleet import console
from teacher_server.fleet.console import watch_status
from teacher_server.fleet.local_cluster import FleetState
from tests.support.fake_serve import FakeServe

BEFORE = FleetState(ray_address="a", directory="127.0.0.1:5", options={"dialogue": {}})
AFTER = FleetState(
    ray_address="a",
    directory="127.0.0.1:5",
    options={"dialogue": {}, "dialogue.2": {}},
    retiring={"dialogue": 9.0},
)


def test_watch_reads_the_record_anew_and_no_group_hides_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    serve = FakeServe()
    groups = serve.fleet_status()
    groups = {"dialogue": groups["dialogue"], "dialogue.2": groups["recommendation"]}
    monkeypatch.setattr(console, "kinds_status", lambda: groups)
    monkeypatch.setattr(console, "fetch_fleet", lambda *_: [])
    records = iter([BEFORE, AFTER])
    # It ends where there is no third record.
    with pytest.raises(StopIteration):
        watch_status(lambda: next(records), 0.0)
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "RUNNING" in line]
    assert [(it[1], it[3]) for it in rows if it[0] == "dialogue"] == [
        ("2", "d1"),
        ("2", "d2"),
        ("unrecorded", "r1"),
        ("1", "r1"),
        ("retiring", "d1"),
        ("retiring", "d2"),
    ]
