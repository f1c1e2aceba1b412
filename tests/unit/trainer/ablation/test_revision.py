from __future__ import annotations

from pathlib import Path

import pytest

from trainer.ablation.revision import SCORING, TRAINING, Revision, SameRevisions

ROOT = Path(__file__).resolve().parents[4]


def write_tree(root: Path) -> Path:
    for place in (*TRAINING, *SCORING):
        path = root / (place if place.endswith(".py") else f"{place}/it.py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(place)
    return root


def test_every_place_of_a_revision_is_there() -> None:
    assert all((ROOT / place).exists() for place in (*TRAINING, *SCORING))


def test_code_that_trains_and_code_that_scores_have_a_digest_each(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    before = Revision.of_this_code(root)
    assert Revision.of_this_code(root) == before
    (root / "trainer/loss/it.py").write_text("other")
    trained = Revision.of_this_code(root)
    assert trained.training != before.training and trained.scoring == before.scoring
    (root / "trainer/scoring/it.py").write_text("other")
    assert Revision.of_this_code(root).scoring != before.scoring


def test_other_files_and_generated_ones_change_no_digest(tmp_path: Path) -> None:
    root = write_tree(tmp_path)
    before = Revision.of_this_code(root)
    (root / "protos/teacher_pb2.py").write_text("generated")
    (root / "docs").mkdir()
    (root / "docs/loss.md").write_text("text")
    (root / "trainer/chat.py").write_text("other")
    assert Revision.of_this_code(root) == before


def test_the_difference_names_the_part_and_both_digests() -> None:
    one, two = Revision(training="a", scoring="s"), Revision(training="b", scoring="s")
    assert SameRevisions([]).difference(one, two) == "training code b, got a"
    assert SameRevisions([["a", "b"]]).difference(one, two) is None
    three = Revision(training="a", scoring="t")
    assert SameRevisions([]).difference(one, three) == "scoring code t, got s"


def test_digests_that_compute_the_same_are_listed_beside_the_cells(tmp_path: Path) -> None:
    assert not SameRevisions.beside(tmp_path).are("a", "b")
    (tmp_path / "same.json").write_text('{"same": [["a", "b"], ["c", "d"]]}')
    same = SameRevisions.beside(tmp_path)
    assert same.are("a", "b") and same.are("c", "d") and not same.are("b", "c")


@pytest.mark.parametrize("text", ["{}", '{"same": 5}', '{"same": [5]}', '{"same": [[5]]}'])
def test_a_broken_list_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "same.json").write_text(text)
    with pytest.raises(ValueError, match=r"same\.json must hold"):
        SameRevisions.beside(tmp_path)
