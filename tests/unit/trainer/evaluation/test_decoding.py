from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.evaluation_fakes import tiny_vocabulary
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.decoding import (
    WIDTHS,
    ChooseAndRecord,
    Decoding,
    SuppressSpecialTokens,
    nucleus_tokens,
)


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_vocabulary()


def slow_nucleus(scores_V: Tensor, uniform: float, top_p: float) -> int:
    """One row, a loop over tokens from the likeliest on."""
    masses = torch.softmax(scores_V.double(), -1).tolist()
    nucleus: list[tuple[int, float]] = []
    total = 0.0
    for token in sorted(range(len(masses)), key=lambda it: -masses[it]):
        nucleus.append((token, masses[token]))
        total += masses[token]
        if total >= top_p:
            break
    left = uniform * total
    for token, mass in nucleus:
        left -= mass
        if left < 0:
            return token
    return nucleus[-1][0]


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.99, 1.0])
# The likeliest tokens sorted alone, more of them, and all.
@pytest.mark.parametrize("num_tokens", [40, WIDTHS[0] * 4, WIDTHS[1] + 100])
def test_nucleus_tokens_are_those_of_a_loop(top_p: float, num_tokens: int) -> None:
    generator = torch.Generator().manual_seed(num_tokens)
    scores_BV = 2.0 * torch.randn(12, num_tokens, generator=generator)
    scores_BV[:, 3] = -torch.inf
    uniforms_B = torch.rand(12, dtype=torch.float64, generator=generator)
    uniforms_B[:2] = torch.tensor([0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    tokens = nucleus_tokens(scores_BV, uniforms_B, top_p).tolist()
    expected = [
        slow_nucleus(scores_V, uniform, top_p)
        for scores_V, uniform in zip(scores_BV, uniforms_B.tolist(), strict=True)
    ]
    assert tokens == expected


def test_nucleus_tokens_come_as_often_as_their_share_of_the_nucleus() -> None:
    # .5, .3 and .2: of .8 the first two are left, 5 to 3; .8 in float32 is a little short of .8.
    scores_BV = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(800, -1)
    uniforms_B = (torch.arange(800, dtype=torch.float64) + 0.5) / 800
    counts = torch.bincount(nucleus_tokens(scores_BV, uniforms_B, 0.79), minlength=3)
    assert counts.tolist() == [500, 300, 0]


def test_what_is_drawn_for_a_response_depends_on_its_id_and_the_seed_alone() -> None:
    decoding = Decoding(method="nucleus", top_p=1.0, seed=1)
    scores_BV = torch.zeros(1, 1000)

    def drawn(decoding: Decoding, names: list[str], name: str) -> list[int]:
        choice = decoding.choice(names, 8)
        rows = scores_BV.expand(len(names), -1)
        return [int(choice(rows, step)[names.index(name)]) for step in range(8)]

    alone = drawn(decoding, ["d:1"], "d:1")
    assert len(set(alone)) > 4
    assert drawn(decoding, ["d:3", "d:1", "e:1"], "d:1") == alone
    assert drawn(decoding, ["d:3", "d:1"], "d:3") != alone
    assert drawn(Decoding(method="nucleus", top_p=1.0, seed=2), ["d:1"], "d:1") != alone


def test_decoding_out_of_range_is_refused() -> None:
    for top_p in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=r"top_p must be in \(0, 1\], got"):
            Decoding(method="nucleus", top_p=top_p)
    with pytest.raises(ValueError, match="decoding must be one of greedy, nucleus, got beam"):
        Decoding(method="beam")  # type: ignore[arg-type]
    assert Decoding().text == "greedy"
    assert Decoding(method="nucleus", top_p=0.5, seed=7).text == "nucleus p 0.5 seed 7"


def test_suppress_special_tokens_leaves_words_and_items(vocabulary: Vocabulary) -> None:
    scores = SuppressSpecialTokens(vocabulary)(
        torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, vocabulary.size)
    )
    assert torch.isinf(scores[:, [vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id]]).all()
    assert (scores[:, : vocabulary.rec_id] == 0).all()


def test_the_recorder_keeps_item_steps_of_unfinished_rows_only(vocabulary: Vocabulary) -> None:
    recorder = ChooseAndRecord(vocabulary, 2, 3, Decoding().choice(["a", "b"], 4))
    item = vocabulary.first_item_id
    # Row 0 names item 4, row 1 says a word.
    scores = torch.zeros(2, vocabulary.size)
    scores[0, [item + 4, item + 6, item + 1]] = torch.tensor([3.0, 2.0, 1.0])
    scores[1, 5] = 9.0
    eos = vocabulary.eos_id
    unchanged = scores.clone()
    # Both prompts end in end of text, as contexts do: that ends no response.
    chosen = recorder(torch.tensor([[1, eos], [1, eos]]), scores)
    assert chosen.argmax(-1).tolist() == [item + 4, 5]
    assert torch.equal(scores, unchanged)
    # Row 0 has ended; what it would say next is nobody's.
    recorder(torch.tensor([[1, eos, eos], [1, eos, 5]]), scores)
    assert recorder.slot_items(0, 0).tolist() == [4, 6, 1]
    for row, step in ((1, 0), (0, 1), (1, 1)):
        with pytest.raises(KeyError):
            recorder.slot_items(row, step)


def test_the_recorder_chooses_what_is_drawn(vocabulary: Vocabulary) -> None:
    # Both rows draw their second likeliest token, an item.
    item = vocabulary.first_item_id
    scores = torch.zeros(2, vocabulary.size)
    scores[:, 7], scores[:, item + 2], scores[:, item + 9] = 3.0, 2.0, 2.5
    recorder = ChooseAndRecord(
        vocabulary, 1, 2, lambda scores_BV, _: torch.full((len(scores_BV),), item + 2)
    )
    chosen = recorder(torch.tensor([[1], [1]]), scores)
    assert chosen.argmax(-1).tolist() == [item + 2, item + 2]
    assert torch.isinf(chosen).sum(-1).tolist() == [vocabulary.size - 1] * 2
    # The list is the model's, whatever was drawn.
    assert recorder.slot_items(0, 0).tolist() == [9, 2]


def test_rankings_are_of_the_step_with_the_most_mass_on_items(vocabulary: Vocabulary) -> None:
    recorder = ChooseAndRecord(vocabulary, 1, 2, Decoding().choice(["a", "b"], 4))
    item, eos = vocabulary.first_item_id, vocabulary.eos_id

    def step(ids: list[list[int]], rows: list[dict[int, float]]) -> None:
        scores = torch.full((2, vocabulary.size), -9.0)
        for row, values in zip(scores, rows, strict=True):
            for token, value in values.items():
                row[token] = value
        recorder(torch.tensor(ids), scores)

    # Mass on items: row 0 .5, .73 and .27; row 1 .27, then it has ended.
    step([[1], [1]], [{3: 1.0, item + 1: 1.0}, {eos: 1.0, item + 5: 0.0, item + 6: -1.0}])
    step([[1, 3], [1, eos]], [{3: 0.0, item + 2: 1.0, item + 3: 0.5}, {item + 8: 9.0}])
    step([[1, 3, 4], [1, eos, 0]], [{3: 1.0, item + 4: 0.0}, {item + 8: 9.0}])
    assert recorder.rankings().tolist() == [[2, 3], [5, 6]]
    assert recorder.rankings().dtype == np.int32
