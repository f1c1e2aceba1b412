from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cluster.bench.wire.recommendation_cuts import TOP_PS, cut_rows
from tests.support import tiny_teachers
from trainer.config.distill import DistillConfig
from trainer.data.examples import Example

NOTHING = np.empty(0, np.int32)


def example(number: int, *gold: int) -> Example:
    rng = np.random.default_rng(number)
    return Example(
        example_id=str(number),
        context_ids=NOTHING,
        response_ids=NOTHING,
        context_entities=rng.integers(0, tiny_teachers.NUM_ENTITIES, 4).astype(np.int32),
        context_words=NOTHING,
        gold_items=np.array(gold, np.int32),
    )


def test_longer_recommendation_rows_cost_more_bytes_and_turn_the_gradient_less(
    tmp_path: Path,
) -> None:
    tiny_teachers.write_recommendation_teacher(tmp_path / "r", tiny_teachers.tiny_vocabulary())
    # One response names no item: it has no gold token to learn.
    examples = [*(example(number, number, 3) for number in range(10)), example(10)]
    config = DistillConfig(gamma=0.8, recommendation_top_p=0.85)
    rows = cut_rows(tmp_path / "r", examples, config)
    top_ps = sorted({*TOP_PS, 0.85})
    assert [(it["top_p"], it["student"]) for it in rows] == [
        (top_p, student) for top_p in top_ps for student in ("near", "far")
    ]
    for student in ("near", "far"):
        of_student = [row for row in rows if row["student"] == student]
        for name in ("entries", "kept_mass", "row_bytes"):
            values = [float(row[name]) for row in of_student]
            assert values == sorted(values) and values[0] < values[-1]
        errors = [float(row["rel_error"]) for row in of_student]
        assert errors[-1] < errors[0] / 4
        # The gold token, which is exact, dilutes the error of the teacher's part.
        assert all(float(row["rel_error_loss"]) < row["rel_error"] for row in of_student)  # type: ignore[operator]
    assert all(float(row["kept_mass"]) >= float(row["top_p"]) - 1e-3 for row in rows)


def test_whole_recommendation_rows_leave_the_rounding_of_their_values(tmp_path: Path) -> None:
    tiny_teachers.write_recommendation_teacher(tmp_path / "r", tiny_teachers.tiny_vocabulary())
    config = DistillConfig(recommendation_top_p=1.0, recommendation_top_k=0)
    rows = cut_rows(tmp_path / "r", [example(number, 3) for number in range(8)], config)
    assert [row["entries"] for row in rows[-2:]] == [len(tiny_teachers.TITLES)] * 2
    assert max(float(row["rel_error"]) for row in rows[-2:]) == pytest.approx(0.0, abs=0.05)
