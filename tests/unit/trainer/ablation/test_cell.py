from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.ablation_cells import cell, drawn_sums, write_cells
from trainer.ablation.cell import read_cell, read_cells
from trainer.scoring.sums import DialogueSums


def test_a_cell_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = cell("paper", "plus_D", 2)
    write_cells(tmp_path, made)
    path = tmp_path / "paper" / "plus_D-seed2.json"
    assert read_cell(path) == made
    sums = DialogueSums.from_dict(read_cell(path).sums["paper.all"], "here")
    assert (sums.counts["matched_10"] == drawn_sums(2).counts["matched_10"]).all()


def test_a_cell_has_a_line_for_each_key(tmp_path: Path) -> None:
    write_cells(tmp_path, cell("paper", "vanilla"))
    lines = (tmp_path / "paper" / "vanilla-seed0.json").read_text().splitlines()
    keys = [line.split('"')[1] for line in lines if '"' in line]
    assert keys[:5] == ["format", "table", "arm", "seed", "settings"]
    assert keys[-2:] == ["scores", "sums"]


def test_cells_of_a_table_are_those_of_its_folder(tmp_path: Path) -> None:
    write_cells(tmp_path, cell("paper", "vanilla", 1), cell("paper", "vanilla", 0))
    assert [each.seed for each in read_cells(tmp_path, "paper")] == [0, 1]
    assert read_cells(tmp_path, "tail") == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"format": 0}, "must be a cell of format 1, got 0"),
        ({"arm": "plus_R"}, "must be the cell of its name, got paper/plus_R-seed0"),
        ({"sums": {}}, r"must be a whole cell, got KeyError"),
        ({"revision": {"training": "x"}}, r"must be a whole cell"),
        ({"settings": 5}, "must be the cell of its name"),
        ({"strange": 5}, r"must be a whole cell"),
    ],
)
def test_what_is_no_cell_is_one_error(tmp_path: Path, change: dict[str, object], rule: str) -> None:
    write_cells(tmp_path, cell("paper", "vanilla"))
    path = tmp_path / "paper" / "vanilla-seed0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=rule):
        read_cell(path)
