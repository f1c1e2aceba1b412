"""The action token of each response, [REC] or [GEN]: predicted, from gold, or none.

T responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from trainer.data.examples import Example
from trainer.data.model_input import collate, prompt_input
from trainer.evaluation.loaded_model import (
    STUDENT,
    LoadedModel,
    check_vocabulary,
    resolve_classifier,
)
from trainer.evaluation.turns import gold_turns, turn_scores
from trainer.models.turn_classifier import TurnClassifier, load_classifier

ORACLE = "oracle"
BATCH = 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Actions:
    """The action of every response, and how often it is the gold one."""

    source: Literal["classifier", "student", "oracle", "none"]
    """"student": the model itself. "oracle" is an upper bound: it looks at the gold response.
    "none": no action tokens."""
    classifier: str | None
    """Folder of the classifier."""
    recommends_T: np.ndarray
    """bool [T]: the response starts with [REC]; all False without action tokens."""
    gold_T: np.ndarray
    """bool [T]: the gold response names a movie."""

    def to_dict(self) -> dict[str, Any]:
        """Source, accuracy, and F1 of [REC]; both null where no action was chosen."""
        scores: dict[str, float | None] = {"accuracy": None, "f1": None}
        if self.source != "none":
            scores = {**turn_scores(self.recommends_T, self.gold_T)}
        return {"source": self.source, "classifier": self.classifier, **scores}


class ActionChooser:
    """Chooses the actions for one model's prompts; the classifier is loaded once."""

    def __init__(self, loaded: LoadedModel, choice: str | None) -> None:
        """`choice` is a classifier's folder, "student", "oracle", or None for the one in the
        model's card, or the model itself where there is none.

        Raises:
            FileNotFoundError: if the classifier is missing.
            ValueError: if there is none to ask, or it has another vocabulary than the model.
        """
        self._loaded = loaded
        self._where = resolve_classifier(loaded, choice)
        self._classifier: TurnClassifier | None = None
        self.digest = self._where or ""
        """Of what is asked: of a classifier its weights'."""
        if self._where is not None and self._where not in (ORACLE, STUDENT):
            folder = Path(self._where)
            self._classifier, card = load_classifier(folder)
            check_vocabulary(folder, card.vocabulary_digest, loaded.vocabulary.digest)
            self.digest = card.weights_digest

    def __call__(self, examples: Sequence[Example]) -> Actions:
        """The action of every example's response."""
        gold_T = gold_turns(examples)
        if self._where is None:
            none_T = np.zeros(len(examples), bool)
            return Actions(source="none", classifier=None, recommends_T=none_T, gold_T=gold_T)
        if self._where == STUDENT:
            own_T = own_actions(self._loaded, examples)
            return Actions(source=STUDENT, classifier=None, recommends_T=own_T, gold_T=gold_T)
        if self._classifier is None:
            return Actions(source=ORACLE, classifier=None, recommends_T=gold_T, gold_T=gold_T)
        return Actions(
            source="classifier",
            classifier=self._where,
            recommends_T=self._classifier.predict([e.context_ids for e in examples]),
            gold_T=gold_T,
        )


@torch.inference_mode()
def own_actions(loaded: LoadedModel, examples: Sequence[Example]) -> np.ndarray:
    """Whether the model itself gives [REC] at least as much as [GEN], bool [T]."""
    model, vocabulary = loaded.model, loaded.vocabulary
    weight_2D = model.head.weight[[vocabulary.rec_id, vocabulary.gen_id]]
    limits = loaded.limits
    inputs = [prompt_input(example, limits) for example in examples]
    order = sorted(range(len(inputs)), key=lambda index: -len(inputs[index].tokens))
    recommends_T = np.zeros(len(inputs), bool)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = collate([inputs[index] for index in chosen], pad_id=vocabulary.pad_id)
        scores_B2 = model.response_states(batch.to(model.device)) @ weight_2D.T
        recommends_T[chosen] = (scores_B2[:, 0] >= scores_B2[:, 1]).cpu().numpy()
    return recommends_T
