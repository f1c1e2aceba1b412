from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from tests.support.ablation_cells import REVISION, cell, drawn_sums, write_cells
from trainer.ablation.arms import CEILING
from trainer.ablation.document import write_document
from trainer.ablation.paper import PAPER, PAPER_ORDER
from trainer.ablation.revision import Revision
from trainer.ablation.table_text import number
from trainer.scoring.metrics import scores
from trainer.scoring.paired import paired

SEEDS = (0, 1, 2)


def page(folder: Path) -> str:
    write_document(folder / "cells", folder / "page.md")
    return (folder / "page.md").read_text()


def write_paper_cells(folder: Path) -> None:
    for arm, hits in (("vanilla", 0.2), ("plus_D_R", 0.5)):
        for seed in SEEDS:
            sums = drawn_sums(seed, hits=hits)
            write_cells(folder / "cells", cell("paper", arm, seed, sums=sums))


def row(text: str, start: str) -> list[str]:
    line = next(it for it in text.splitlines() if it.startswith(start))
    return [it.strip() for it in line.strip("|").split("|")]


def test_the_page_has_means_ratios_and_the_papers_column(tmp_path: Path) -> None:
    write_paper_cells(tmp_path)
    text = page(tmp_path)
    films = row(text, "| plus_D_R | 3")
    of_seeds = [scores(drawn_sums(seed, hits=0.5))["f1_at_10"] or 0.0 for seed in SEEDS]
    assert films[3].startswith(number("f1_at_10", float(np.mean(of_seeds))) + " (.")
    assert films[-1] == ".020, .093, .200, .313"
    against = paired(
        [drawn_sums(seed, hits=0.5) for seed in SEEDS], [drawn_sums(seed) for seed in SEEDS]
    )["f1_at_10"]
    ratio = row(text, "| plus_D_R | " + f"{against.ratio:.2f}")[1]
    assert ratio.startswith(
        f"{against.ratio:.2f} ({against.ratio_low:.2f}-{against.ratio_high:.2f}), p ."
    )
    assert "By F1@10, the best first: plus_D_R, vanilla." in text
    assert "In the paper's Table 5: plus_D_R, vanilla." in text


def test_the_page_says_who_made_it_where_and_how_long_it_took(tmp_path: Path) -> None:
    write_paper_cells(tmp_path)
    text = page(tmp_path)
    assert "Table `paper`: 6 cells, 0.2 hours, the longest 2.0 minutes" in text
    assert "2 cores of two slow ones, 4 GiB" in text
    assert REVISION.training[:12] in text
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 120


def test_a_system_that_never_names_a_film_leaves_no_nan(tmp_path: Path) -> None:
    write_paper_cells(tmp_path)
    silent = drawn_sums(0, names_films=False)
    write_cells(tmp_path / "cells", cell("paper", "plus_D", sums=silent))
    write_cells(tmp_path / "cells", cell("paper", CEILING[0], sums=silent))
    text = page(tmp_path)
    assert "nan" not in text.lower() and "inf" not in text.replace("info", "")
    assert row(text, "| plus_D | 1")[3].startswith(".000")


def test_an_arm_without_a_baseline_is_told_and_not_compared(tmp_path: Path) -> None:
    write_cells(tmp_path / "cells", cell("paper", "plus_D"))
    assert "Not compared yet: that needs a cell of vanilla" in page(tmp_path)


def test_an_unfinished_table_counts_its_seeds(tmp_path: Path) -> None:
    write_paper_cells(tmp_path)
    (tmp_path / "cells" / "paper" / "vanilla-seed2.json").unlink()
    assert row(page(tmp_path), "| vanilla | 2")[1] == "2"


def test_no_cell_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="--cells must hold finished cells, got none"):
        page(tmp_path)


def test_cells_of_other_dialogues_or_code_are_one_error(tmp_path: Path) -> None:
    write_paper_cells(tmp_path)
    sums = drawn_sums(0)
    others = dataclasses.replace(sums, dialogues=tuple(f"e{it}" for it in sums.dialogues))
    write_cells(tmp_path / "cells", cell("paper", "plus_R", sums=others))
    with pytest.raises(ValueError, match=r"plus_R-seed0\.json must be of the dialogues of vanilla"):
        page(tmp_path)
    revision = Revision(training="dd", scoring="bb")
    write_cells(tmp_path / "cells", cell("paper", "plus_R", revision=revision))
    with pytest.raises(ValueError, match="training code"):
        page(tmp_path)


def test_the_papers_order_is_that_of_its_numbers() -> None:
    by_f1 = sorted(PAPER_ORDER, key=lambda name: PAPER[name]["f1_at_10"], reverse=True)
    assert list(PAPER_ORDER) == by_f1


def test_numbers_are_written_as_tables_have_them() -> None:
    assert number("f1_at_10", 0.0634) == ".063"
    assert number("rec_ratio", 1.0) == "1.000"
    assert number("perplexity", 59.94) == "59.9"


def test_the_page_says_where_arms_have_a_dialogue_teacher_of_their_own(tmp_path: Path) -> None:
    one, two = ({"teachers": {"dialogue": it}} for it in ("one", "two"))
    write_cells(tmp_path / "cells", cell("paper", "plus_D_R", sources=one))
    write_cells(tmp_path / "cells", cell("paper", "soft", sources=one))
    assert "a dialogue teacher that was fitted with it" not in " ".join(page(tmp_path).split())
    write_cells(tmp_path / "cells", cell("paper", "soft", sources=two))
    assert "a dialogue teacher that was fitted with it" in " ".join(page(tmp_path).split())
