from __future__ import annotations

from pathlib import Path

import pytest

from cluster.commands.pull import MARK, check_folder
from trainer.common.errors import InputError


def test_new_and_empty_folders_and_earlier_pulls_of_the_run_are_taken(tmp_path: Path) -> None:
    check_folder(tmp_path / "new", "a")
    check_folder(tmp_path, "a")
    (tmp_path / MARK).write_text("a\n")
    (tmp_path / "train.log").write_text("x")
    check_folder(tmp_path, "a")


def test_files_of_others_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="with other files"):
        check_folder(tmp_path, "a")
    (tmp_path / MARK).write_text("b\n")
    with pytest.raises(InputError, match="with the run b"):
        check_folder(tmp_path, "a")
    with pytest.raises(InputError, match="got the file"):
        check_folder(tmp_path / "thesis.tex", "a")
