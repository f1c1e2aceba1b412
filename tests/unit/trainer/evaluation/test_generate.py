from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.support.action_forms import form_of
from tests.support.evaluation_fakes import (
    tiny_examples,
    tiny_kg_transformer,
    tiny_model,
    tiny_vocabulary,
)
from trainer.data.action_form import ACTION_LOSS
from trainer.data.model_input import InputLimits, SequenceInput, collate, prompt_input
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.generate import (
    GenerateConfig,
    ItemRecorder,
    Prompt,
    SuppressSpecialTokens,
    generate,
)
from trainer.models.language_model import LanguageModel

MAX_NEW = 12


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return tiny_vocabulary()


@pytest.fixture(scope="module", params=["gpt2", "kgsf"])
def model(vocabulary: Vocabulary, request: pytest.FixtureRequest) -> LanguageModel:
    make = tiny_model if request.param == "gpt2" else tiny_kg_transformer
    return make(vocabulary, seed=3)


def prompt(example_id: str, tokens: np.ndarray, num_mentioned: int) -> Prompt:
    return Prompt(example_id, SequenceInput.at_end(num_rows=1, tokens=tokens), num_mentioned)


def prompts_of_all_lengths(vocabulary: Vocabulary) -> list[Prompt]:
    rng = np.random.default_rng(1)
    random = [
        prompt(f"r:{n}", rng.integers(0, vocabulary.rec_id, n).astype(np.int32), n % 3)
        for n in (1, 30, 7, 7, 19, 2, 44, 11)
    ]
    given = [prompt(e.example_id, e.context_ids, 0) for e in tiny_examples(vocabulary)]
    return random + given


def slow_greedy(
    model: LanguageModel, vocabulary: Vocabulary, prompt: Prompt
) -> tuple[list[int], list[list[int]]]:
    """One prompt, no cache, no padding, a full forward per token."""
    tokens, tops = [], []
    for step in range(MAX_NEW):
        read = np.concatenate([prompt.given.tokens, np.array(tokens, np.int32)])
        num_rows = prompt.given.num_rows + step
        inputs = collate([SequenceInput.at_end(num_rows=num_rows, tokens=read)], pad_id=0)
        with torch.no_grad():
            scores_V = model.head(model.response_states(inputs)[-1])
        token = int(scores_V[: vocabulary.rec_id].argmax())
        if token == vocabulary.eos_id:
            break
        if vocabulary.is_item(token):
            items_I = scores_V[vocabulary.first_item_id : vocabulary.rec_id]
            tops.append(items_I.argsort(descending=True)[:50].tolist())
        tokens.append(token)
    return tokens, tops


@pytest.fixture(scope="module")
def slow_answers(
    model: LanguageModel, vocabulary: Vocabulary
) -> list[tuple[list[int], list[list[int]]]]:
    return [slow_greedy(model, vocabulary, each) for each in prompts_of_all_lengths(vocabulary)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_generate_equals_a_loop_without_cache_or_padding(
    model: LanguageModel,
    vocabulary: Vocabulary,
    slow_answers: list[tuple[list[int], list[list[int]]]],
    batch_size: int,
) -> None:
    prompts = prompts_of_all_lengths(vocabulary)
    config = GenerateConfig(max_new_tokens=MAX_NEW, batch_size=batch_size)
    responses = generate(model, vocabulary, prompts, config, title="test")
    ended, named = 0, 0
    for prompt, response, slow in zip(prompts, responses, slow_answers, strict=True):
        tokens, tops = slow
        assert response.example_id == prompt.example_id
        assert list(response.token_ids) == tokens
        assert [slot.top_items[:50].tolist() for slot in response.item_slots] == tops
        assert all(slot.item == slot.top_items[0] for slot in response.item_slots)
        assert response.text == vocabulary.decode(tokens).strip()
        ended += len(tokens) < MAX_NEW
        named += len(tops)
    # The model is only a test if it does both.
    assert ended > 0 and named > 0


def test_generate_goes_on_behind_an_action_that_the_model_predicted(
    model: LanguageModel, vocabulary: Vocabulary
) -> None:
    # The decoder of KGSF's transformer starts with the token before the action, as in training.
    predicting = InputLimits(actions=form_of(vocabulary, ACTION_LOSS))
    prompts = [
        Prompt(each.example_id, prompt_input(each, predicting, recommends=True), 0)
        for each in tiny_examples(vocabulary)
    ]
    config = GenerateConfig(max_new_tokens=MAX_NEW)
    responses = generate(model, vocabulary, prompts, config, title="test")
    for each, response in zip(prompts, responses, strict=True):
        assert each.given.num_rows == 2
        assert list(response.token_ids) == slow_greedy(model, vocabulary, each)[0]


def test_generate_twice_gives_identical_responses(
    model: LanguageModel, vocabulary: Vocabulary
) -> None:
    prompts = prompts_of_all_lengths(vocabulary)
    first, second = (
        generate(model, vocabulary, prompts, GenerateConfig(), title="test") for _ in range(2)
    )
    for one, other in zip(first, second, strict=True):
        assert one.token_ids == other.token_ids
        for a, b in zip(one.item_slots, other.item_slots, strict=True):
            assert np.array_equal(a.top_items, b.top_items)


def test_generate_lists_are_longer_by_the_items_mentioned(
    model: LanguageModel, vocabulary: Vocabulary
) -> None:
    prompts = [Prompt(p.example_id, p.given, 7) for p in prompts_of_all_lengths(vocabulary)]
    responses = generate(model, vocabulary, prompts, GenerateConfig(), title="test")
    lengths = {len(slot.top_items) for r in responses for slot in r.item_slots}
    assert lengths == {57}


def test_generate_with_a_prompt_too_long_is_refused(
    model: LanguageModel, vocabulary: Vocabulary
) -> None:
    too_long = prompt("d:1", np.zeros(67, np.int32), 0)
    with pytest.raises(ValueError, match="d:1 must have 1 to 66 tokens, got 67"):
        generate(model, vocabulary, [too_long], GenerateConfig(), title="test")


def test_suppress_special_tokens_leaves_words_and_items(vocabulary: Vocabulary) -> None:
    scores = SuppressSpecialTokens(vocabulary)(
        torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, vocabulary.size)
    )
    assert torch.isinf(scores[:, [vocabulary.rec_id, vocabulary.gen_id, vocabulary.pad_id]]).all()
    assert (scores[:, : vocabulary.rec_id] == 0).all()


def test_item_recorder_keeps_item_steps_of_unfinished_rows_only(vocabulary: Vocabulary) -> None:
    recorder = ItemRecorder(vocabulary, prompt_length=2, depth=3)
    item = vocabulary.first_item_id
    # Row 0 names item 4, row 1 says a word.
    scores = torch.zeros(2, vocabulary.size)
    scores[0, [item + 4, item + 6, item + 1]] = torch.tensor([3.0, 2.0, 1.0])
    scores[1, 5] = 9.0
    eos = vocabulary.eos_id
    unchanged = scores.clone()
    # Both prompts end in end of text, as contexts do: that ends no response.
    assert recorder(torch.tensor([[1, eos], [1, eos]]), scores) is scores
    assert torch.equal(scores, unchanged)
    # Row 0 has ended; what it would say next is nobody's.
    recorder(torch.tensor([[1, eos, eos], [1, eos, 5]]), scores)
    assert recorder.slot(0, 0, 4).top_items.tolist() == [4, 6, 1]
    for row, step in ((1, 0), (0, 1), (1, 1)):
        with pytest.raises(KeyError):
            recorder.slot(row, step, 4)


def test_generate_config_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generate\.batch_size must be at least 1, got 0"):
        GenerateConfig(batch_size=0)
