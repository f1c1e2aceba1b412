"""Action tokens in contexts, against a walk over the turns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.action_forms import form_of
from trainer.data.action_form import ACTION_HISTORY, ACTION_LOSS, ActionForm, action_names
from trainer.data.examples import Example
from trainer.data.model_input import (
    InputLimits,
    dialogue_input,
    merge_sequences,
    prompt_input,
    reads_dialogues,
)
from trainer.data.prepared import load_prepared

EOS, FILM, REC, GEN = 0, 10, 13, 14
FORM = ActionForm(items=range(10, 13), in_history=True, eos_id=EOS)
HEARD = InputLimits(takes_ranges=True, actions=FORM)


def int32(ids: list[int]) -> np.ndarray:
    return np.array(ids, np.int32)


def turns_of(ids: list[int]) -> list[list[int]]:
    """The whole turns, each with its end of text."""
    turns: list[list[int]] = [[]]
    for token in ids:
        turns[-1].append(token)
        if token == EOS:
            turns.append([])
    return turns


def walked(ids: list[int], *, is_seekers: bool = True) -> list[int]:
    """The twin: turn by turn from the end; whose the last one is."""
    *turns, given = turns_of(ids)
    for turn in reversed(turns):
        action = REC if any(10 <= token < 13 for token in turn) else GEN
        given = [*([] if is_seekers else [action]), *turn, *given]
        is_seekers = not is_seekers
    return given


def example(context: list[int], response: list[int], name: str = "7:3") -> Example:
    return Example(
        example_id=name,
        context_ids=int32(context),
        response_ids=int32(response),
        context_entities=int32([]),
        context_words=int32([]),
        gold_items=int32([]),
        is_recommendation=any(10 <= token < 13 for token in response),
    )


def test_each_turn_of_the_recommender_in_the_history_starts_with_its_action() -> None:
    context = [1, EOS, 2, FILM, EOS, 3, FILM, EOS, 4, EOS, 5, EOS]
    expected = [1, EOS, REC, 2, FILM, EOS, 3, FILM, EOS, GEN, 4, EOS, 5, EOS]
    assert FORM.history(int32(context)).tolist() == expected


@given(st.lists(st.sampled_from([EOS, EOS, 1, 2, FILM, 12]), max_size=30))
def test_history_is_that_of_a_walk_over_the_turns(ids: list[int]) -> None:
    assert FORM.history(int32(ids)).tolist() == walked(ids)
    own = FORM.history(int32(ids), continues_turn=True)
    assert own.tolist() == walked(ids, is_seekers=False)
    of_teacher = replace(FORM, eos_id=None)
    assert of_teacher.history(int32([*ids, EOS])).tolist() == walked([*ids, EOS])


def test_only_a_form_with_history_changes_a_context() -> None:
    context = int32([1, EOS, 2, EOS, 3, EOS])
    assert replace(FORM, in_history=False).history(context) is context
    assert not reads_dialogues(replace(HEARD, actions=replace(FORM, in_history=False)))
    assert reads_dialogues(HEARD)


def test_a_form_and_its_names_say_the_same() -> None:
    assert ActionForm.of(["ranges", ACTION_HISTORY], range(10, 13)) is None
    for history in (False, True):
        for loss in (False, True):
            names = action_names(tokens=True, history=history, loss=loss)
            form = ActionForm.of(["ranges", *names], range(10, 13), EOS)
            assert form == replace(FORM, in_history=history, is_predicted=loss)


@pytest.mark.parametrize("is_predicted", [False, True])
def test_rows_wanted_are_those_that_predict_the_response(is_predicted: bool) -> None:
    asked = example([1, EOS, 2, EOS, 3, EOS], [4, FILM, EOS])
    limits = replace(HEARD, actions=replace(FORM, is_predicted=is_predicted))
    given_ = dialogue_input(asked, limits)
    assert given_.tokens.tolist() == [1, EOS, GEN, 2, EOS, 3, EOS, REC, 4, FILM]
    (wanted,) = given_.ranges
    seen = given_.tokens[wanted.start : wanted.end].tolist()
    # The state that predicts a token is the one that has read the token before it.
    assert seen == ([EOS] if is_predicted else []) + [REC, 4, FILM]


def test_a_prompt_ends_with_the_action_that_was_chosen_or_before_it() -> None:
    asked = example([1, EOS], [4, EOS])
    assert prompt_input(asked, HEARD, recommends=True).tokens.tolist() == [1, EOS, REC]
    assert prompt_input(asked, HEARD, recommends=False).tokens.tolist() == [1, EOS, GEN]
    assert prompt_input(asked, HEARD).tokens.tolist() == [1, EOS]
    assert prompt_input(asked, InputLimits(), recommends=True).tokens.tolist() == [1, EOS]


@pytest.mark.parametrize("names", [(), (ACTION_LOSS,)], ids=["given", "predicted"])
def test_actions_in_the_history_keep_one_pass_per_dialogue(
    prepared_dir: Path, names: tuple[str, ...]
) -> None:
    assert_chains_stay(prepared_dir, names)


@pytest.mark.everything
@pytest.mark.parametrize("names", [(), (ACTION_LOSS,)], ids=["given", "predicted"])
def test_actions_in_the_history_keep_one_pass_per_real_dialogue(
    redial_prepared: Path, names: tuple[str, ...]
) -> None:
    assert_chains_stay(redial_prepared, names)


def assert_chains_stay(prepared: Path, names: tuple[str, ...]) -> None:
    data = load_prepared(prepared)
    examples = data.examples("valid")
    plain = merge_sequences([dialogue_input(each, InputLimits()) for each in examples])
    limits = InputLimits(actions=form_of(data.vocabulary, ACTION_HISTORY, *names))
    inputs = [dialogue_input(each, limits) for each in examples]
    merged = merge_sequences(inputs)
    # A response whose film stands behind its cut is [GEN] there, and [REC] in the history.
    assert len(plain) <= len(merged) <= 1.02 * len(plain)
    assert [it.num_rows for it in inputs] == [len(it.response_ids) + len(names) for it in examples]
    apart = [response for each in merged for response in each.responses()]
    for one, twin in zip(apart, inputs, strict=True):
        assert one.ranges == twin.ranges
        np.testing.assert_array_equal(one.tokens, twin.tokens)
