from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from protos.codec import check_rows, concat_rows
from protos.target_rows import COLUMNS
from protos.teacher_pb2 import Compression
from teacher_server.scoring.compress import Support, compress

V = 40
WORDS_AND_ITEMS = Support(vocab_size=V, first_id=0, first_item_column=30, num_items=7)


def random_log_probs(num_rows: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    scores = torch.randn(num_rows, V, generator=torch.Generator().manual_seed(seed)) * scale
    return scores.log_softmax(-1)


def dense_twin(
    log_probs_TV: Tensor, top_k: int, top_p: float
) -> list[tuple[list[int], float, float]]:
    """Kept ids, tail and item mass of each row, in float64 and one entry at a time."""
    rows = []
    for row in log_probs_TV.double().exp().numpy():
        order = sorted(range(V), key=lambda j: -row[j])
        kept, mass = [], 0.0
        for j in order:
            if (top_k and len(kept) == top_k) or (0 < top_p < 1 and mass >= top_p):
                break
            kept.append(j)
            mass += row[j]
        tail = sum(row[j] for j in range(V) if j not in kept)
        rows.append((sorted(kept), tail, row[30:37].sum()))
    return rows


@pytest.mark.parametrize(
    ("top_k", "top_p"), [(5, 0.0), (1, 0.0), (0, 0.8), (8, 0.9), (39, 0.0), (0, 1.0), (0, 0.0)]
)
def test_compress_matches_the_dense_twin(top_k: int, top_p: float) -> None:
    log_probs_TV = random_log_probs(50)
    rows = compress(log_probs_TV, Compression(top_k=top_k, top_p=top_p), support=WORDS_AND_ITEMS)
    check_rows(rows)
    start = 0
    for row, (ids, tail, item_mass) in enumerate(dense_twin(log_probs_TV, top_k, top_p)):
        end = start + int(rows.counts_R[row])
        assert rows.ids_E[start:end].tolist() == ids
        wanted = log_probs_TV[row, ids].numpy()
        np.testing.assert_allclose(rows.log_probs_E[start:end], wanted, atol=2e-6)
        assert rows.tail_R[row] == pytest.approx(tail, abs=1e-7, rel=1e-5)
        assert rows.item_mass_R[row] == pytest.approx(item_mass, rel=1e-5)
        start = end
    assert start == len(rows.ids_E)


def test_compress_of_a_hand_worked_row_keeps_two_and_sums_the_rest() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.25, 0.05]])
    support = Support(vocab_size=5, first_id=0, first_item_column=3, num_items=2)
    rows = compress(probs.log(), Compression(top_k=2), support=support)
    assert rows.ids_E.tolist() == [1, 3]
    assert np.exp(rows.log_probs_E) == pytest.approx([0.4, 0.25])
    assert rows.tail_R == pytest.approx([0.35])
    assert rows.item_mass_R == pytest.approx([0.30])


def test_compress_with_top_p_gives_rows_of_unequal_length_up_to_top_k() -> None:
    probs = torch.tensor([[0.9, 0.05, 0.03, 0.02], [0.4, 0.3, 0.2, 0.1], [0.25] * 4])
    support = Support(vocab_size=4, first_id=0, first_item_column=2, num_items=2)
    rows = compress(probs.log(), Compression(top_k=3, top_p=0.6), support=support)
    assert rows.counts_R.tolist() == [1, 2, 3]


def test_compress_with_the_whole_support_has_a_tail_of_exactly_zero() -> None:
    rows = compress(random_log_probs(200), Compression(), support=WORDS_AND_ITEMS)
    assert np.all(rows.counts_R == V)
    assert np.all(rows.tail_R == 0.0)


def test_compress_never_keeps_an_impossible_entry_and_calls_the_rest_whole() -> None:
    log_probs = torch.tensor([[math.log(0.5), -math.inf, math.log(0.5), -math.inf]])
    support = Support(vocab_size=4, first_id=0, first_item_column=0, num_items=1)
    for cut in (Compression(), Compression(top_k=3), Compression(top_p=0.99)):
        rows = compress(log_probs, cut, support=support)
        check_rows(rows)
        assert rows.ids_E.tolist() == [0, 2]
        assert rows.tail_R[0] == 0.0


def test_compress_tail_of_a_peaked_row_is_small_and_not_negative() -> None:
    # In float32 1 - 0.99999999 would be 0 or below; the tail is summed over what was dropped.
    scores = torch.zeros(1, V)
    scores[0, 3] = 30.0
    rows = compress(scores, Compression(top_k=1), support=WORDS_AND_ITEMS)
    assert rows.tail_R[0] == pytest.approx((V - 1) * math.exp(-30.0), rel=1e-4)


def test_compress_of_items_only_shifts_ids_and_has_item_mass_one() -> None:
    support = Support(vocab_size=20, first_id=10, first_item_column=0, num_items=4)
    probs = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    rows = compress(probs.log(), Compression(top_k=2), support=support)
    assert rows.ids_E.tolist() == [12, 13]
    assert rows.item_mass_R.tolist() == [1.0]


def test_compress_divides_by_the_temperature_before_anything_is_cut() -> None:
    scores = torch.tensor([[2.0, 0.0, -2.0]])
    support = Support(vocab_size=3, first_id=0, first_item_column=1, num_items=1)
    rows = compress(scores, Compression(top_k=1), support=support, temperature=2.0)
    whole = 1 + math.exp(-1.0) + math.exp(-2.0)
    assert np.exp(rows.log_probs_E) == pytest.approx([1 / whole])
    assert rows.item_mass_R == pytest.approx([math.exp(-1.0) / whole])
    assert rows.tail_R == pytest.approx([1 - 1 / whole])


@pytest.mark.parametrize("cut", [Compression(top_k=5), Compression(top_p=0.8), Compression()])
def test_compress_leaves_the_scores_as_they_were(cut: Compression) -> None:
    scores = random_log_probs(7)
    before = scores.clone()
    compress(scores, cut, support=WORDS_AND_ITEMS)
    assert torch.equal(scores, before)


@pytest.mark.parametrize("cut", [Compression(top_k=5), Compression(top_p=0.8), Compression()])
def test_compress_of_bfloat16_logits_is_that_of_the_same_numbers_in_float32(
    cut: Compression,
) -> None:
    scores = (random_log_probs(20) + 3.0).bfloat16()
    half = compress(scores, cut, support=WORDS_AND_ITEMS, temperature=1.5)
    single = compress(scores.float(), cut, support=WORDS_AND_ITEMS, temperature=1.5)
    assert half.log_probs_E.dtype == half.tail_R.dtype == half.item_mass_R.dtype == np.float32
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(half, name), getattr(single, name))


def sampled_twin(probs: np.ndarray, uniforms: np.ndarray) -> dict[int, float]:
    """Id -> weight of one row, one draw at a time."""
    weights: dict[int, float] = {}
    for u in uniforms:
        above = np.flatnonzero(np.cumsum(probs) > u * np.cumsum(probs)[-1])
        drawn = int(above[0]) if len(above) else int(np.flatnonzero(probs)[-1])
        weights[drawn] = weights.get(drawn, 0.0) + 1.0 / len(uniforms)
    return weights


def test_compress_by_samples_equals_drawing_one_at_a_time() -> None:
    log_probs = random_log_probs(30)
    log_probs[:, 3] = -math.inf
    uniforms_TN = np.random.default_rng(0).random((30, 12))
    uniforms_TN[0, :2] = 0.0, np.nextafter(1.0, 0.0)
    cut = Compression(samples=12)
    rows = compress(log_probs, cut, support=WORDS_AND_ITEMS, uniforms_TN=uniforms_TN)
    check_rows(rows)
    assert np.all(rows.tail_R == 0.0)
    ends = np.cumsum(rows.counts_R)
    for row, end in enumerate(ends):
        start = end - rows.counts_R[row]
        weights = np.exp(rows.log_probs_E[start:end])
        probs = log_probs[row].double().exp().numpy()
        expected = sampled_twin(probs, uniforms_TN[row])
        assert rows.ids_E[start:end].tolist() == sorted(expected)
        assert weights == pytest.approx([expected[i] for i in sorted(expected)])
        assert rows.item_mass_R[row] == pytest.approx(probs[30:37].sum() / probs.sum(), rel=1e-5)


def test_compress_by_samples_is_unbiased_and_top_k_is_not() -> None:
    probs = random_log_probs(1, scale=1.0).double().exp().numpy()[0]
    num_rows, num_draws = 4000, 8
    uniforms_TN = np.random.default_rng(1).random((num_rows, num_draws))
    scores = torch.from_numpy(np.log(probs)).float().expand(num_rows, V).clone()
    rows = compress(
        scores, Compression(samples=num_draws), support=WORDS_AND_ITEMS, uniforms_TN=uniforms_TN
    )
    mean = np.bincount(rows.ids_E, weights=np.exp(rows.log_probs_E), minlength=V) / num_rows
    deviation = np.sqrt(probs * (1 - probs) / (num_draws * num_rows))
    assert np.all(np.abs(mean - probs) < 5 * deviation)
    cut = compress(scores[:1], Compression(top_k=num_draws), support=WORDS_AND_ITEMS)
    kept = np.bincount(cut.ids_E, weights=np.exp(cut.log_probs_E), minlength=V)
    assert np.any(np.abs(kept - probs) > 5 * deviation)


def test_take_rows_in_any_order_equals_compressing_those_rows() -> None:
    log_probs = random_log_probs(6)
    cut = Compression(top_k=9, top_p=0.7)
    parts = [compress(log_probs[i : i + 2], cut, support=WORDS_AND_ITEMS) for i in (0, 2, 4)]
    index = [4, 0, 5]
    taken = concat_rows(parts).take(np.array(index))
    direct = compress(log_probs[index], cut, support=WORDS_AND_ITEMS)
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(taken, name), getattr(direct, name))
