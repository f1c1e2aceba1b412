"""One rank's side of the comparison; two ranks that differ are in system/test_split_ranks.py."""

from __future__ import annotations

import json

import pytest

from trainer.engine import same_ranks

OWN = {"seed": 0, "optimiser.learning_rate": 0.5, "teachers.dialogue": "weights-a"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", 5), ("optimiser.learning_rate", 0.002), ("teachers.dialogue", "weights-b")],
)
def test_rank_that_differs_names_both_values(
    name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Exception | None] = []
    monkeypatch.setattr(same_ranks, "raise_on_all_ranks", raised.append)
    monkeypatch.setattr(same_ranks.comm, "get_rank", lambda: 1)
    first = [OWN, OWN | {name: value}]
    monkeypatch.setattr(same_ranks, "text_of_first_rank", lambda _: json.dumps(first.pop(0)))
    same_ranks.check_same_on_all_ranks(OWN)
    same_ranks.check_same_on_all_ranks(OWN)
    assert raised[0] is None
    assert isinstance(raised[1], ValueError)
    expected = (
        f"{name} must be the same on all ranks, got {value} on rank 0 and {OWN[name]} on rank 1"
    )
    assert str(raised[1]).startswith(expected)
