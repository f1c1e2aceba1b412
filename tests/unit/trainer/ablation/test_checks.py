from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.support.ablation_cells import REVISION, ablation_config, cell
from trainer.ablation.arms import TABLES
from trainer.ablation.cell import Cell
from trainer.ablation.checks import (
    check_done,
    check_same_sources,
    check_together,
    declared_settings,
    shared_settings,
)
from trainer.ablation.plan import planned_cells
from trainer.ablation.revision import Revision, SameRevisions

NONE_SAME = SameRevisions([])
OTHER = Revision(training="cc" * 32, scoring=REVISION.scoring)


def together(*cells: Cell, table: str = "paper", same: SameRevisions = NONE_SAME) -> None:
    check_together(TABLES[table], cells, same, Path("cells"))


def test_cells_that_differ_as_declared_belong_together() -> None:
    together(*(cell("paper", arm.name, seed) for arm in TABLES["paper"].arms for seed in (0, 1)))


def test_a_setting_that_differs_and_is_not_declared_is_named_with_both_values() -> None:
    longer = cell("paper", "plus_D", shared={"train.steps": 5, "train.batch_size": 2})
    with pytest.raises(ValueError, match=r"train\.steps of .*plus_D-seed0\.json must be 4, got 5"):
        together(cell("paper", "vanilla"), longer)


def test_a_cell_that_is_not_what_its_arm_declares_is_refused() -> None:
    made = cell("paper", "plus_D")
    other = dataclasses.replace(made, settings={**made.settings, "distill.fixed_lambda": 0.5})
    with pytest.raises(ValueError, match=r"distill\.fixed_lambda of .* must be 0\.0, got 0\.5"):
        together(other)


def test_cells_of_two_revisions_are_refused_unless_these_are_known_to_be_the_same() -> None:
    cells = (cell("paper", "vanilla"), cell("paper", "plus_D", revision=OTHER))
    with pytest.raises(ValueError, match=r"must be of vanilla-seed0's training code aaaa"):
        together(*cells)
    together(*cells, same=SameRevisions([[REVISION.training, OTHER.training]]))


@pytest.mark.parametrize(
    ("sources", "what"),
    [
        ({"vocabulary": "w" * 8}, "vocabulary vvvvvvvv, got wwwwwwww"),
        ({"weights": {"item_vectors": "two"}}, "weights item_vectors one, got two"),
        ({"teachers": {"dialogue": "two"}}, "teachers dialogue one, got two"),
    ],
)
def test_cells_of_other_data_rows_or_teachers_are_refused(
    sources: dict[str, object], what: str
) -> None:
    first = {
        "vocabulary": "v" * 8,
        "weights": {"item_vectors": "one"},
        "teachers": {"dialogue": "one"},
    }
    cells = (cell("paper", "plus_D", sources=first), cell("paper", "plus_R", sources=sources))
    with pytest.raises(ValueError, match=what):
        together(*cells)


def test_a_cell_without_teachers_fits_those_with_them() -> None:
    together(
        cell("paper", "vanilla", sources={"vocabulary": "v", "teachers": {}}),
        cell("paper", "plus_D", sources={"vocabulary": "v", "teachers": {"dialogue": "one"}}),
    )


def test_a_finished_cell_of_other_code_or_settings_is_one_error(tmp_path: Path) -> None:
    planned = planned_cells(ablation_config(tmp_path), tables=[], num_seeds=1)[0]
    path = Path("cells/paper/vanilla-seed0.json")
    made = dataclasses.replace(
        cell("paper", "vanilla"),
        settings=declared_settings(planned),
        shared=shared_settings(planned),
    )
    check_done(planned, made, REVISION, NONE_SAME, path)
    with pytest.raises(ValueError, match=r"must be of this revision's training code cccc"):
        check_done(planned, made, OTHER, NONE_SAME, path)
    check_done(planned, made, OTHER, SameRevisions([[OTHER.training, REVISION.training]]), path)
    shorter = dataclasses.replace(made, shared={**made.shared, "train.steps": 3})
    with pytest.raises(ValueError, match=r"train\.steps of .* must be 4, got 3\. Make it again"):
        check_done(planned, shorter, REVISION, NONE_SAME, path)


def test_a_setting_of_a_later_version_is_no_difference(tmp_path: Path) -> None:
    planned = planned_cells(ablation_config(tmp_path), tables=[], num_seeds=1)[0]
    made = dataclasses.replace(
        cell("paper", "vanilla"), settings=declared_settings(planned), shared={"no.such": 1}
    )
    check_done(planned, made, REVISION, NONE_SAME, Path("cell"))


def test_arms_with_the_special_token_may_have_teachers_of_their_own() -> None:
    one, two = ({"teachers": {"dialogue": it}} for it in ("one", "two"))
    together(
        cell("paper", "plus_D_R", sources=one),
        cell("paper", "plus_D_R_ST", sources=two),
        cell("paper", "soft", sources=two),
    )
    with pytest.raises(ValueError, match="teachers dialogue of arms with the special token two"):
        together(cell("paper", "plus_D_R_ST", sources=two), cell("paper", "soft", sources=one))


def test_a_finished_cell_of_teachers_that_are_gone_is_one_error() -> None:
    sources = {"vocabulary": "v", "teachers": {"dialogue": "one"}}
    made, path = cell("paper", "plus_D", sources=sources), Path("cell")
    now = {"dialogue": "one", "recommendation": "r"}
    check_same_sources(made, vocabulary="v", teachers=now, path=path)
    with pytest.raises(ValueError, match="must be of the dialogue teacher two, got one"):
        check_same_sources(made, vocabulary="v", teachers={"dialogue": "two"}, path=path)
    with pytest.raises(ValueError, match="must be of the vocabulary w, got v"):
        check_same_sources(made, vocabulary="w", teachers=now, path=path)
