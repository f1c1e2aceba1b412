from __future__ import annotations

import math

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
from trainer.evaluation.decoding import Decoding
from trainer.evaluation.generate import GenerateConfig, Prompt, generate
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


Slow = tuple[list[int], list[list[int]], list[int]]
"""Tokens, the items of each item step, and those of the step with the most mass on items."""


def slow_greedy(model: LanguageModel, vocabulary: Vocabulary, prompt: Prompt) -> Slow:
    """One prompt, no cache, no padding, a full forward per token."""
    tokens, tops, heaviest = [], [], (-math.inf, [])
    for step in range(MAX_NEW):
        read = np.concatenate([prompt.given.tokens, np.array(tokens, np.int32)])
        num_rows = prompt.given.num_rows + step
        inputs = collate([SequenceInput.at_end(num_rows=num_rows, tokens=read)], pad_id=0)
        with torch.no_grad():
            scores_V = model.head(model.response_states(inputs)[-1])
        token = int(scores_V[: vocabulary.rec_id].argmax())
        items_I = scores_V[vocabulary.first_item_id : vocabulary.rec_id]
        best = items_I.argsort(descending=True)[:50].tolist()
        words_W = scores_V[: vocabulary.first_item_id].double()
        odds = float(items_I.double().logsumexp(-1) - words_W.logsumexp(-1))
        heaviest = max(heaviest, (odds, best))
        if token == vocabulary.eos_id:
            break
        if vocabulary.is_item(token):
            tops.append(best)
        tokens.append(token)
    return tokens, tops, heaviest[1]


@pytest.fixture(scope="module")
def slow_answers(model: LanguageModel, vocabulary: Vocabulary) -> list[Slow]:
    return [slow_greedy(model, vocabulary, each) for each in prompts_of_all_lengths(vocabulary)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_generate_equals_a_loop_without_cache_or_padding(
    model: LanguageModel,
    vocabulary: Vocabulary,
    slow_answers: list[Slow],
    batch_size: int,
) -> None:
    prompts = prompts_of_all_lengths(vocabulary)
    config = GenerateConfig(max_new_tokens=MAX_NEW, batch_size=batch_size)
    responses = generate(model, vocabulary, prompts, config, title="test")
    ended, named = 0, 0
    for prompt, response, slow in zip(prompts, responses, slow_answers, strict=True):
        tokens, tops, heaviest = slow
        assert response.example_id == prompt.example_id
        assert list(response.token_ids) == tokens
        assert [slot.top_items[:50].tolist() for slot in response.item_slots] == tops
        assert all(slot.item == slot.top_items[0] for slot in response.item_slots)
        assert response.ranking[:50].tolist() == heaviest
        assert response.is_ended == (len(tokens) < MAX_NEW)
        assert response.num_steps == len(tokens) + response.is_ended
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
    # Whatever others in the batch need.
    prompts = [
        Prompt(p.example_id, p.given, n % 2 * 7)
        for n, p in enumerate(prompts_of_all_lengths(vocabulary))
    ]
    responses = generate(model, vocabulary, prompts, GenerateConfig(), title="test")
    for prompt, response in zip(prompts, responses, strict=True):
        lists = [response.ranking, *(slot.top_items for slot in response.item_slots)]
        assert {len(items) for items in lists} == {50 + prompt.num_mentioned}


def test_generate_with_a_prompt_too_long_is_refused(
    model: LanguageModel, vocabulary: Vocabulary
) -> None:
    too_long = prompt("d:1", np.zeros(67, np.int32), 0)
    with pytest.raises(ValueError, match="d:1 must have 1 to 66 tokens, got 67"):
        generate(model, vocabulary, [too_long], GenerateConfig(), title="test")


def test_nucleus_responses_depend_on_the_prompt_and_its_id_alone(
    model: LanguageModel, vocabulary: Vocabulary
) -> None:
    prompts = prompts_of_all_lengths(vocabulary)
    decoding = Decoding(method="nucleus", top_p=0.9, seed=5)
    config = GenerateConfig(max_new_tokens=MAX_NEW, decoding=decoding)
    together = generate(model, vocabulary, prompts, config, title=None)
    alone = [generate(model, vocabulary, [each], config, title=None)[0] for each in prompts]
    assert [it.token_ids for it in together] == [it.token_ids for it in alone]
    greedy = generate(
        model, vocabulary, prompts, GenerateConfig(max_new_tokens=MAX_NEW), title=None
    )
    assert [it.token_ids for it in greedy] != [it.token_ids for it in together]


def test_generate_config_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"generate\.batch_size must be at least 1, got 0"):
        GenerateConfig(batch_size=0)
