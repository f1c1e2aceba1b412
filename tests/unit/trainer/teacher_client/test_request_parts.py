from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer.data.model_input import SequenceInput
from trainer.teacher_client.request_parts import split_into_requests


def example(num_rows: int, num_tokens: int = 1, num_entities: int = 0) -> SequenceInput:
    return SequenceInput.at_end(
        num_rows=num_rows,
        tokens=np.zeros(num_tokens, np.int32),
        entities=np.zeros(num_entities, np.int32),
    )


@pytest.fixture(autouse=True)
def twenty_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.teacher_client.request_parts.MAX_REPLY_ENTRIES", 20)


def split(inputs: list[SequenceInput]) -> list[list[SequenceInput]]:
    return split_into_requests(inputs, max_row_entries=4)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 12), min_size=1, max_size=30))
def test_split_into_requests_keeps_order_and_never_cuts_an_example(num_rows: list[int]) -> None:
    inputs = [example(number) for number in num_rows]
    parts = split(inputs)
    assert [each for part in parts for each in part] == inputs
    for part in parts:
        assert len(part) == 1 or sum(each.num_rows for each in part) <= 5
    for part, following in itertools.pairwise(parts):
        # No part could have taken one more.
        assert sum(each.num_rows for each in [*part, following[0]]) > 5


@pytest.mark.parametrize("column", ["num_tokens", "num_entities"])
def test_split_into_requests_counts_the_ids_of_each_column(
    column: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.teacher_client.request_parts.MAX_INPUT_IDS", 10)
    lengths = (4, 6, 1, 20, 3)
    parts = split([example(1, **{column: length}) for length in lengths])
    assert [len(part) for part in parts] == [2, 1, 1, 1]


def test_split_into_requests_counts_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.teacher_client.request_parts.MAX_EXAMPLES", 2)
    assert [len(part) for part in split([example(1)] * 5)] == [2, 2, 1]


def test_split_into_requests_counts_draws_where_rows_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.teacher_client.request_parts.MAX_DRAWS", 60)
    parts = split_into_requests([example(1)] * 5, max_row_entries=4, samples=30)
    assert [len(part) for part in parts] == [2, 2, 1]
