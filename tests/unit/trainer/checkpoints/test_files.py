from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.checkpoints import commit
from trainer.checkpoints import files as checkpoint
from trainer.checkpoints.files import WholeCheckpoint


def write(folder: Path, step: int, *, keep: int = 2, is_committed: bool = True) -> Path:
    """A checkpoint of two ranks."""
    path = folder / checkpoint.tag_of(step)
    path.mkdir(parents=True)
    for rank in range(2):
        (path / f"rank-{rank}.pt").write_bytes(bytes(100 + step))
    if is_committed:
        commit(folder, step, ranks=2, keep=keep)
    return path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_newest_whole_checkpoint_is_found_and_the_last_two_stay(tmp_path: Path) -> None:
    assert checkpoint.newest_whole(tmp_path) is None
    for step in (10, 20, 30):
        write(tmp_path, step)
    assert checkpoint.newest_whole(tmp_path) == WholeCheckpoint(step=30, ranks=2)
    assert names(tmp_path) == ["step-00000020", "step-00000030"]


def test_torn_checkpoint_is_never_loaded_and_makes_room_for_the_next(tmp_path: Path) -> None:
    torn = write(tmp_path, 20, is_committed=False)
    assert checkpoint.newest_whole(tmp_path) is None
    write(tmp_path, 10, keep=1)
    assert checkpoint.newest_whole(tmp_path) == WholeCheckpoint(step=10, ranks=2)
    assert not torn.exists()
    torn = write(tmp_path, 20, is_committed=False)
    assert checkpoint.damaged(tmp_path) == [(torn, "it was not finished")]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda file: file.unlink(), "rank-1.pt must have 120 bytes, got no file"),
        (lambda file: file.write_bytes(bytes(7)), "rank-1.pt must have 120 bytes, got 7"),
        (
            lambda file: (file.parent / "whole.json").write_text("{"),
            "whole.json lists nothing: JSONDecodeError",
        ),
    ],
)
def test_damaged_checkpoint_is_passed_over_for_the_one_before(
    damage, problem: str, tmp_path: Path
) -> None:
    write(tmp_path, 10)
    path = write(tmp_path, 20)
    damage(path / "rank-1.pt")
    assert checkpoint.newest_whole(tmp_path) == WholeCheckpoint(step=10, ranks=2)
    ((found, told),) = checkpoint.damaged(tmp_path)
    assert found == path
    assert told.startswith(problem)


@pytest.mark.parametrize("rank", [0, 1])
def test_checkpoint_of_the_right_sizes_and_wrong_bytes_is_found_by_its_reader_and_passed_over(
    rank: int, tmp_path: Path
) -> None:
    write(tmp_path, 10)
    path = write(tmp_path, 20)
    content = bytearray((path / f"rank-{rank}.pt").read_bytes())
    content[60] ^= 1
    (path / f"rank-{rank}.pt").write_bytes(content)
    found = [checkpoint.find_changed(path, share=share, shares=2) for share in range(2)]
    assert found[rank].startswith(f"rank-{rank}.pt must have digest ")
    assert found[1 - rank] == ""
    checkpoint.mark_damaged(path, found[rank])
    assert checkpoint.newest_whole(tmp_path) == WholeCheckpoint(step=10, ranks=2)
    assert checkpoint.damaged(tmp_path) == [(path, found[rank])]
    checkpoint.mark_damaged(tmp_path / "step-00000010", "torn")
    with pytest.raises(FileNotFoundError, match=r"must be whole, got step-00000020: rank-\d\.pt"):
        checkpoint.newest_whole(tmp_path)


def test_share_of_a_rank_does_not_depend_on_what_the_others_are_writing(tmp_path: Path) -> None:
    path = write(tmp_path, 20, is_committed=False)
    for unfinished in (".digests-00001.json.x", ".whole.json.y"):
        (path / unfinished).touch()
    checkpoint.write_digests(path, share=0, shares=2)
    assert list(json.loads((path / "digests-00000.json").read_text())) == ["rank-0.pt"]
    checkpoint.write_digests(path, share=1, shares=2)
    assert list(json.loads((path / "digests-00001.json").read_text())) == ["rank-1.pt"]


def test_checkpoint_of_another_format_is_refused_and_stays(tmp_path: Path) -> None:
    path = write(tmp_path, 10)
    files = {"rank-0.pt": 110, "rank-1.pt": 110}
    (path / "whole.json").write_text(json.dumps({"step": 10, "ranks": 2, "files": files}))
    with pytest.raises(ValueError, match=r"whole\.json must have format 2, got None"):
        checkpoint.newest_whole(tmp_path)
    assert checkpoint.damaged(tmp_path) == []
    assert path.is_dir()


def test_only_damaged_checkpoints_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (write(tmp_path, 10) / "rank-0.pt").unlink()
    with pytest.raises(FileNotFoundError, match=r"must be whole, got step-00000010: rank-0\.pt"):
        checkpoint.newest_whole(tmp_path)


def test_what_else_lies_beside_the_checkpoints_is_neither_read_nor_removed(tmp_path: Path) -> None:
    write(tmp_path, 10)
    for name in ("step-00000020.bak", "mine"):
        shutil.copytree(tmp_path / "step-00000010", tmp_path / name)
    for name in ("universal-step-00000010", ".universal-step-00000010"):
        (tmp_path / name).mkdir()
    # Of an earlier version; it names a folder that is gone.
    (tmp_path / "latest_universal").write_text(".universal-step-00000010")
    assert checkpoint.newest_whole(tmp_path) == WholeCheckpoint(step=10, ranks=2)
    checkpoint.clear_unfinished(tmp_path)
    assert not (tmp_path / ".universal-step-00000010").exists()
    assert not (tmp_path / "latest_universal").exists()
    write(tmp_path, 20)
    write(tmp_path, 30)
    whole = ["step-00000020", "step-00000030"]
    assert names(tmp_path) == sorted([*whole, "step-00000020.bak", "mine"])
    assert checkpoint.oldest_whole(tmp_path) == 20


def test_removal_that_is_cut_short_leaves_nothing_that_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 10)
    path = write(tmp_path, 20)

    def crash(_path: Path) -> None:
        raise InterruptedError("killed")

    monkeypatch.setattr("trainer.checkpoints.files.shutil.rmtree", crash)
    with pytest.raises(InterruptedError):
        checkpoint.remove(path)
    assert checkpoint.newest_whole(tmp_path) == WholeCheckpoint(step=10, ranks=2)
    with pytest.raises(InterruptedError):
        checkpoint.forget(tmp_path)
    assert checkpoint.newest_whole(tmp_path) is None


def test_checkpoints_that_are_forgotten_are_never_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint.forget(folder)
    write(folder, 10)
    for name in ("universal-step-00000010", "step-00000010.bak", "mine"):
        (folder / name).mkdir()
    (folder / "latest_universal").write_text("universal-step-00000010")
    checkpoint.forget(folder)
    assert checkpoint.newest_whole(folder) is None
    # What is not a run's stays.
    assert names(folder) == ["mine", "step-00000010.bak"]


def test_checkpoints_of_an_earlier_version_are_an_error_and_stay(tmp_path: Path) -> None:
    file = tmp_path / "step-00000010" / "rank-0.pt"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    (tmp_path / "newest.json").write_text('{"tag": "step-00000010", "step": 10}')
    with pytest.raises(ValueError, match=r"must have been written by this version"):
        checkpoint.newest_whole(tmp_path)
    assert file.is_file()
    checkpoint.forget(tmp_path)
    assert names(tmp_path) == []
