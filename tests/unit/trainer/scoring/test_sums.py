from __future__ import annotations

import json

import numpy as np
import pytest

from trainer.scoring.metrics import scores
from trainer.scoring.sums import DialogueSums


def test_sums_go_through_json_with_whole_numbers_as_such() -> None:
    sums = DialogueSums(
        dialogues=("a", "b"),
        counts={"nll": np.array([1.5, 2.0 / 3.0]), "gold": np.array([3.0, 0.0])},
    )
    text = json.dumps(sums.to_dict())
    assert '"gold": [3, 0]' in text
    back = DialogueSums.from_dict(json.loads(text), "here")
    assert back.dialogues == sums.dialogues
    assert back.counts["nll"] == pytest.approx(sums.counts["nll"], abs=1e-9)
    assert scores(back) == pytest.approx(scores(sums))


def test_without_leaves_counts_out() -> None:
    sums = DialogueSums(dialogues=("a",), counts={"x": np.ones(1), "y": np.ones(1)})
    assert set(sums.without(frozenset({"y", "z"})).counts) == {"x"}


@pytest.mark.parametrize(
    "content",
    [None, [], {}, {"dialogues": ["a"]}, {"dialogues": ["a"], "counts": {"x": [1, 2]}},
     {"dialogues": ["a"], "counts": {"x": ["y"]}}, {"dialogues": 3, "counts": {}},
     {"dialogues": ["a"], "counts": [1]}, {"dialogues": ["a"], "counts": {"x": [float("nan")]}}],
)  # fmt: skip
def test_what_is_no_sums_is_refused_by_its_place(content: object) -> None:
    with pytest.raises(ValueError, match="here must h"):
        DialogueSums.from_dict(content, "here")
