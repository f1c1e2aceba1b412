from __future__ import annotations

import hashlib
import itertools

import pytest

from tests.support.chain_examples import dialogue
from trainer.data.chains import dialogue_id
from trainer.data.dialogue_share import share_of_dialogues
from trainer.data.examples import Example

NUM_DIALOGUES = 16
SHARES = (1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0)


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    turns = [[1, 2], [3], [4, 5], [6]]
    dialogues = (
        dialogue(f"d:{number}", turns, max_context=40, max_response=6)
        for number in range(NUM_DIALOGUES)
    )
    return list(itertools.chain(*dialogues))


def ids_of(examples: list[Example]) -> list[str]:
    return [it.example_id for it in examples]


@pytest.mark.parametrize("seed", [0, 7])
def test_a_share_has_its_part_of_the_dialogues_whole_and_in_order(
    examples: list[Example], seed: int
) -> None:
    for share in SHARES:
        chosen = share_of_dialogues(examples, share, seed)
        dialogues = {dialogue_id(it) for it in chosen}
        assert len(dialogues) == round(share * NUM_DIALOGUES)
        assert ids_of(chosen) == [it.example_id for it in examples if dialogue_id(it) in dialogues]


def test_the_choice_is_the_first_dialogues_by_their_digest(examples: list[Example]) -> None:
    names = {f"d:{number}" for number in range(NUM_DIALOGUES)}
    by_digest = sorted(names, key=lambda it: hashlib.sha256(f"3:{it}".encode()).hexdigest())
    chosen = share_of_dialogues(examples, 1 / 4, 3)
    assert {dialogue_id(it) for it in chosen} == set(by_digest[: NUM_DIALOGUES // 4])


def test_smaller_shares_lie_within_larger_ones_and_seeds_differ(examples: list[Example]) -> None:
    of_share = [set(ids_of(share_of_dialogues(examples, share, 0))) for share in SHARES]
    assert all(small < large for small, large in itertools.pairwise(of_share))
    assert set(ids_of(share_of_dialogues(examples, 1 / 4, 1))) != of_share[1]


def test_the_order_of_the_file_changes_no_choice(examples: list[Example]) -> None:
    backwards = share_of_dialogues(examples[::-1], 1 / 4, 0)
    assert ids_of(backwards)[::-1] == ids_of(share_of_dialogues(examples, 1 / 4, 0))


def test_a_share_of_next_to_nothing_is_one_dialogue(examples: list[Example]) -> None:
    assert len({dialogue_id(it) for it in share_of_dialogues(examples, 1e-9, 0)}) == 1
