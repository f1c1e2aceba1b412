from __future__ import annotations

from pathlib import Path

import pytest

from trainer.common.outputs import check_output


def test_output_that_can_be_written_leaves_nothing_of_the_try(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for folder in (tmp_path / "full", tmp_path / "new" / "deep"):
        check_output("--output", folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/new", "/proc/1/new"])
def test_output_that_cannot_be_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^--output must be a folder that can be written, got "):
        check_output("--output", tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
