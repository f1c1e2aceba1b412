"""`make same-loss`: what counts as a difference between two trees."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save

from tests.same_loss.compare import (
    compare_files,
    compare_metrics,
    compare_served,
    compare_tensors,
)

STEPS = [
    {"event": "start", "world_size": 2},
    {"step": 1, "loss": 4.5, "nll": 8.25, "step_s": 0.5, "teacher_requests": 0},
    {"step": 2, "loss": 0.1, "nll": 8.125, "step_s": 0.25, "teacher_requests": 0},
    {"event": "end", "steps": 2, "seconds": 0.75},
]
WEIGHTS = {
    "bias": np.zeros(3, np.float32),
    "ids": np.arange(4),
    "weight": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3),
}


def test_compare_metrics_equal_but_for_times_passes() -> None:
    slower = [{**it, "step_s": 9.0, "seconds": 9.0, "teacher_requests": 1} for it in STEPS]
    assert compare_metrics(STEPS, slower) == []


def test_compare_metrics_one_ulp_in_one_loss_is_reported() -> None:
    changed = [*STEPS[:2], {**STEPS[2], "loss": float(np.nextafter(0.1, 1))}, STEPS[3]]
    (found,) = compare_metrics(STEPS, changed)
    assert str(found) == "metric loss: first at step 2: 0.1 against 0.10000000000000002"


def test_compare_metrics_other_keys_types_and_numbers_of_lines_are_reported() -> None:
    renamed = {"step": 1, "loss": 4.5, "gold": 8.25, "step_s": 0.5}
    changed = [STEPS[0], renamed, {**STEPS[2], "loss": None}]
    found = {it.name: it.detail for it in compare_metrics(STEPS, changed)}
    assert found == {
        "lines": "4 lines against 3",
        "nll": "first at step 1: 8.25 against absent",
        "gold": "first at step 1: absent against 8.25",
        "loss": "first at step 2: 0.1 against None",
    }


def test_compare_tensors_equal_passes() -> None:
    assert compare_tensors(save(WEIGHTS), save(WEIGHTS)) == []


def test_compare_tensors_one_ulp_in_one_weight_is_reported() -> None:
    weight = WEIGHTS["weight"].copy()
    weight[1, 2] = np.nextafter(weight[1, 2], np.float32(2))
    (found,) = compare_tensors(save(WEIGHTS), save({**WEIGHTS, "weight": weight}))
    detail = "first at [1, 2]: 1.0 (0x3f800000) against 1.0000001 (0x3f800001)"
    assert str(found) == f"weight weight: {detail}; 1 of 6 elements differ"


def test_compare_tensors_sign_of_zero_and_integers_are_reported() -> None:
    changed = {**WEIGHTS, "bias": -WEIGHTS["bias"], "ids": WEIGHTS["ids"][::-1].copy()}
    found = {it.name: it.detail for it in compare_tensors(save(WEIGHTS), save(changed))}
    assert found["bias"].startswith("first at [0]: 0.0 (0x00000000) against -0.0 (0x80000000); 3 ")
    assert found["ids"].startswith("first at [0]: 0x0000000000000000 against 0x0000000000000003; 4")


def test_compare_tensors_other_names_shapes_and_dtypes_are_reported() -> None:
    changed = {
        "bias": WEIGHTS["bias"].astype(np.float16),
        "weight": WEIGHTS["weight"].T.copy(),
        "more": WEIGHTS["ids"],
    }
    found = {it.name: it.detail for it in compare_tensors(save(WEIGHTS), save(changed))}
    assert found == {
        "bias": "dtype F32 against F16",
        "ids": "only in BASE",
        "more": "only in the tree",
        "weight": "shape [2, 3] against [3, 2]",
    }


def test_compare_files_names_the_first_byte_or_the_tensor() -> None:
    base = {"a": b"12345", "b": b"123", "c": b"", "w.safetensors": save(WEIGHTS)}
    weights = save({**WEIGHTS, "bias": np.ones(3, np.float32)})
    tree = {"a": b"12945", "b": b"12", "d": b"", "w.safetensors": weights}
    assert compare_files("corpus", base, dict(base)) == []
    found = {it.name: (it.kind, it.detail) for it in compare_files("corpus", base, tree)}
    assert found.pop("bias")[0] == "weight"
    assert found == {
        "a": ("corpus", "first at byte 2, of 5 against 5"),
        "b": ("corpus", "first at byte 2, of 3 against 2"),
        "c": ("corpus", "only in BASE"),
        "d": ("corpus", "only in the tree"),
    }


def test_compare_files_same_tensors_in_another_header_are_reported() -> None:
    base, tree = ({"w.safetensors": save(WEIGHTS, it)} for it in (None, {"format": "pt"}))
    (found,) = compare_files("export", base, tree)
    assert (found.kind, found.name) == ("export", "w.safetensors")


@pytest.mark.parametrize(("factor", "count"), [(1 + 5e-6, 0), (1 + 2e-5, 1), (float("nan"), 1)])
def test_compare_served_allows_rounding(factor: float, count: int) -> None:
    served = [{**it, "loss": it["loss"] * factor} if "loss" in it else it for it in STEPS]
    assert len(compare_served(STEPS, served)) == count


def test_compare_served_with_a_missing_step_is_reported() -> None:
    assert len(compare_served(STEPS, STEPS[:2])) == 1
