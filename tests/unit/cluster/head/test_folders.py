"""What lies on the shared folder, and how it gets there and away."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from cluster.head import incoming, outgoing
from cluster.head.digests import digests, fingerprint, num_bytes
from cluster.head.runs import UNKNOWN, all_runs, named, newest
from cluster.head.shared import SharedFolder, outlives_this_machine, shared_folder
from cluster.students.following import SILENT_S
from trainer.common.errors import InputError, MachineError, MissingError

NOW_S = 1_000_000.0
SHA_OF_X = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


@pytest.fixture
def shared(tmp_path: Path) -> SharedFolder:
    return SharedFolder(root=tmp_path)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def supervised(shared: SharedFolder, name: str, **state: object) -> None:
    content = {"state": "running", "updated": NOW_S, "exit_status": None, **state}
    write(shared.root / "runs" / name, **{"supervisor.json": json.dumps(content)})


def test_node_without_a_shared_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="CONKD_SHARED must name"):
        shared_folder({})
    with pytest.raises(MissingError, match="must be the shared folder"):
        shared_folder({"CONKD_SHARED": str(tmp_path / "absent")})
    assert shared_folder({"CONKD_SHARED": str(tmp_path)}).root == tmp_path
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MachineError, match="must be writable"):
        shared_folder({"CONKD_SHARED": str(tmp_path)})


def test_full_shared_folder_is_refused(shared: SharedFolder) -> None:
    with pytest.raises(MachineError, match="GB free"):
        shared.check_room(1 << 60)


def test_names_lead_nowhere_else(shared: SharedFolder) -> None:
    for name in ("..", "a/b", "", ".hidden"):
        with pytest.raises(InputError, match="names must be"):
            shared.of("runs", name)


@pytest.mark.parametrize(
    ("kind", "outlives"), [("nfs4", True), ("lustre", True), ("ext4", False), ("overlay", False)]
)
def test_folder_of_another_machine_outlives_this_one(
    kind: str, outlives: bool, tmp_path: Path
) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"disk / ext4 rw 0 0\nserver:/ {tmp_path} {kind} rw 0 0\n")
    assert outlives_this_machine(tmp_path / "runs", mounts) is outlives


def test_digests_are_of_content_and_leave_out_what_is_skipped(tmp_path: Path) -> None:
    write(tmp_path, **{"a/b": "x", "run/c": "y"})
    (tmp_path / "link").symlink_to(tmp_path / "a" / "b")
    assert digests(tmp_path, skipped="run") == {"a/b": SHA_OF_X, "link": SHA_OF_X}
    assert num_bytes(tmp_path, skipped="run") == 2


def test_fingerprint_changes_with_any_file(tmp_path: Path) -> None:
    write(tmp_path, a="x")
    seen = [fingerprint(tmp_path)]
    write(tmp_path, a="xy")
    seen.append(fingerprint(tmp_path))
    write(tmp_path, b="")
    seen.append(fingerprint(tmp_path))
    assert len(set(seen)) == 3


def test_folder_takes_its_place_whole(shared: SharedFolder) -> None:
    offer = incoming.prepare(shared, "data", "redial", 1)
    assert offer["there"] is None
    write(Path(offer["part"]), a="x")
    wrong = incoming.place(shared, "data", "redial", {"a": SHA_OF_X, "b": SHA_OF_X})
    assert wrong["wrong"] == ["b"]
    assert not (shared.root / "data" / "redial").exists()
    # What has arrived stays for the next try.
    assert incoming.prepare(shared, "data", "redial", 1)["part"] == offer["part"]
    assert incoming.place(shared, "data", "redial", {"a": SHA_OF_X})["wrong"] == []
    assert [it.name for it in (shared.root / "data").iterdir()] == ["redial"]


def test_folder_that_is_replaced_stays_for_those_who_read_it(shared: SharedFolder) -> None:
    place = write(shared.root / "teachers" / "dialogue", a="old")
    with (place / "a").open() as reader:
        offer = incoming.prepare(shared, "teachers", "dialogue", 1)
        assert set(offer["there"]) == {"a"}
        write(Path(offer["part"]), a="x")
        assert incoming.place(shared, "teachers", "dialogue", {"a": SHA_OF_X})["wrong"] == []
        assert reader.read() == "old"
    assert (place / "a").read_text() == "x"


def test_folder_that_does_not_fit_is_refused_before_it_is_sent(shared: SharedFolder) -> None:
    with pytest.raises(MachineError, match="GB free"):
        incoming.prepare(shared, "data", "redial", 1 << 60)


def test_run_is_pulled_until_it_changes(shared: SharedFolder) -> None:
    supervised(shared, "a", exit_status=0, state="done")
    offer = outgoing.offer(shared, "a")
    assert not all_runs(shared)[0].pulled
    assert outgoing.taken(shared, "a", offer["fingerprint"]) == {"whole": True}
    assert all_runs(shared)[0].pulled
    write(shared.root / "runs" / "a", log="more")
    assert not all_runs(shared)[0].pulled
    assert outgoing.taken(shared, "a", offer["fingerprint"]) == {"whole": False}


def test_run_goes_on_as_long_as_its_supervisor_writes(shared: SharedFolder) -> None:
    supervised(shared, "a", nodes=["10.0.0.1"], wanted_nodes=2, step=7)
    (run,) = all_runs(shared)
    assert run.is_going(NOW_S + 1)
    shown = run.shown(NOW_S + 1)
    assert (shown["state"], shown["nodes"], shown["wanted_nodes"]) == ("running", 1, 2)
    assert not run.is_going(NOW_S + SILENT_S + 1)
    assert run.shown(NOW_S + SILENT_S + 1)["state"] == UNKNOWN


def test_run_by_hand_is_a_run_that_can_be_pulled(shared: SharedFolder) -> None:
    write(shared.root / "runs" / "hand", log="x")
    (run,) = all_runs(shared)
    assert run.shown(time.time())["state"] == UNKNOWN
    assert not run.pulled


def test_newest_run_is_the_one_that_last_wrote(shared: SharedFolder) -> None:
    with pytest.raises(MissingError, match="a run must be on"):
        newest(shared)
    for age, name in ((10, "b"), (20, "a")):
        supervised(shared, name)
        folder = shared.root / "runs" / name
        for path in (folder / "supervisor.json", folder):
            os.utime(path, (NOW_S - age, NOW_S - age))
    assert newest(shared) == "b"
    with pytest.raises(MissingError, match=r"\(b, a\), got c"):
        named(shared, "c")
