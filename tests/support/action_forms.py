"""How a model reads action tokens, for tests."""

from __future__ import annotations

from typing import Protocol

from trainer.data.action_form import ACTIONS, ActionForm


class Ids(Protocol):
    """What a form needs of a vocabulary."""

    @property
    def first_item_id(self) -> int: ...
    @property
    def rec_id(self) -> int: ...
    @property
    def eos_id(self) -> int: ...


def form_of(vocabulary: Ids, *names: str) -> ActionForm:
    """The form of these names over a vocabulary; `actions` goes without saying."""
    items = range(vocabulary.first_item_id, vocabulary.rec_id)
    form = ActionForm.of((ACTIONS, *names), items, vocabulary.eos_id)
    assert form is not None
    return form
