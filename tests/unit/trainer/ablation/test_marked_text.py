from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.ablation_cells import cell, drawn_sums, write_cells
from trainer.ablation.document import ELSEWHERE, write_document
from trainer.ablation.marked_text import BEGIN, END, fill

DOCS = Path(__file__).resolve().parents[4] / "docs"
BOTH = f"before\n{BEGIN.format(name='x')}\nold\n{END.format(name='x')}\nafter\n"


def test_what_stands_between_the_marks_is_replaced_as_often_as_one_likes(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_text(BOTH)
    for lines in (["one", "two"], ["three"]):
        assert fill(path, "x", lines)
        assert path.read_text() == BOTH.replace("old", "\n".join(lines))


@pytest.mark.parametrize("text", ["nothing\n", BEGIN.format(name="x"), END.format(name="x")])
def test_a_document_without_both_marks_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.md"
    assert not fill(path, "x", ["new"])
    path.write_text(text)
    assert not fill(path, "x", ["new"])
    assert path.read_text() == text


def test_documents_have_the_marks_of_the_tables_that_they_show() -> None:
    for name, (document, _) in ELSEWHERE.items():
        text = (DOCS / document).read_text()
        assert text.index(BEGIN.format(name=name)) < text.index(END.format(name=name))


def test_the_page_fills_the_document_beside_its_folder(tmp_path: Path) -> None:
    for arm in ("bucket_64", "drop_64"):
        write_cells(tmp_path / "cells", cell("tail", arm, sums=drawn_sums(0)))
    (tmp_path / "loss.md").write_text(
        BOTH.replace("x: made", "tail: made").replace("of x", "of tail")
    )
    (tmp_path / "results").mkdir()
    write_document(tmp_path / "cells", tmp_path / "results" / "page.md")
    text = (tmp_path / "loss.md").read_text()
    assert "| bucket_64 | 1 | - |" in text and "| drop_64 | 1 |" in text
    assert "(results/ablation-tail.png)" in text and "old" not in text
    assert (tmp_path / "results" / "ablation-tail.png").is_file()
