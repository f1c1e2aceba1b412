"""Action tokens in what a model reads: a recommender's turn starts with [REC] or [GEN].

[REC] if the turn names a film, else [GEN] (paper section 3.4). The paper leaves open on which turns
they stand, who sees them and who learns them (docs/training.md has the readings). Prepared
examples hold none: each model is given them in its own form, so a student and its teacher may read
them in different ones. Rows are matched by the index of the response's token, whatever stands
before it.

C tokens of a context without action tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

ACTIONS = "actions"
"""The response's action token stands before it."""
ACTION_HISTORY = "action-history"
"""Those of the recommender's earlier turns stand in the context, too."""
ACTION_LOSS = "action-loss"
"""The model learnt to predict the token."""
ACTION_NAMES = (ACTIONS, ACTION_HISTORY, ACTION_LOSS)
NUM_ACTIONS = 2
"""[REC] and [GEN], the ids behind those of the items."""


def action_names(*, tokens: bool, history: bool, loss: bool) -> tuple[str, ...]:
    """A form by the names that a dialogue teacher lists among its capabilities."""
    named = zip(ACTION_NAMES, (tokens, history, loss), strict=True)
    return tuple(name for name, holds in named if holds)


@dataclass(frozen=True, kw_only=True)
class ActionForm:
    """Where a model reads action tokens, and whether it predicts them."""

    items: range
    """Ids of the films."""
    in_history: bool = False
    """Before each of the recommender's turns; else before the response alone."""
    is_predicted: bool = False
    """The token is the first of those that the model predicts, and a step of its loss."""
    eos_id: int | None = None
    """End of a turn; None: the last id of each context, which ends with a whole turn."""

    @classmethod
    def of(
        cls, names: Collection[str], items: range, eos_id: int | None = None
    ) -> ActionForm | None:
        """The form of these names, and of others beside them; None: no action tokens."""
        if ACTIONS not in names:
            return None
        return cls(
            items=items,
            in_history=ACTION_HISTORY in names,
            is_predicted=ACTION_LOSS in names,
            eos_id=eos_id,
        )

    @property
    def rec_id(self) -> int:
        """Id of [REC]."""
        return self.items.stop

    @property
    def gen_id(self) -> int:
        """Id of [GEN]."""
        return self.items.stop + 1

    def token(self, *, recommends: bool) -> int:
        """The action token of a turn."""
        return self.rec_id if recommends else self.gen_id

    def history(self, context_ids: np.ndarray, *, continues_turn: bool = False) -> np.ndarray:
        """A context as the model reads it: with its action tokens if they stand in the history.

        Turns alternate, and the one before a response is the seeker's, or with `continues_turn` the
        recommender's own. A turn that lost its head to the limit of a context has the token of what
        is left; one that has no end of text yet has none.
        """
        if not self.in_history or not len(context_ids):
            return context_ids
        eos_id = context_ids[-1] if self.eos_id is None else self.eos_id
        end_T = np.flatnonzero(context_ids == eos_id) + 1
        start_T = np.concatenate([[0], end_T[:-1]]).astype(np.int64)[: len(end_T)]
        num_films_C1 = np.concatenate([[0], np.cumsum(self._is_item(context_ids))])
        # The recommender's: every second one, from the last but one back, or from the last.
        mine = slice((len(end_T) + continues_turn) % 2, None, 2)
        recommends_R = num_films_C1[end_T[mine]] > num_films_C1[start_T[mine]]
        action_R = np.where(recommends_R, self.rec_id, self.gen_id)
        return np.insert(context_ids, start_T[mine], action_R).astype(context_ids.dtype)

    def _is_item(self, ids_C: np.ndarray) -> np.ndarray:
        return (ids_C >= self.items.start) & (ids_C < self.items.stop)
