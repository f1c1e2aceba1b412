"""A trained model ready to generate: an exported student or a frozen dialogue teacher."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from protos.fingerprint import digest_strings
from trainer.common.errors import InputError, MissingError
from trainer.data.action_form import ACTION_LOSS, ACTION_NAMES, ACTIONS, ActionForm
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, prompt_input
from trainer.data.prepared import PreparedData
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.generate import Prompt
from trainer.models.frozen import CARD_NAME, read_card
from trainer.models.language_model import LanguageModel, load_language_model
from trainer.models.student_card import (
    MODEL_FOLDER,
    STUDENT_CARD_NAME,
    StudentCard,
    check_student_files,
    read_student_card,
)

STUDENT = "student"
"""In the place of a classifier's folder: the model predicts the action token itself."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedModel:
    """A language model with everything that generation needs."""

    folder: Path
    """Where its weights are: DIR, or DIR/model for a run directory."""
    model: LanguageModel
    vocabulary: Vocabulary
    actions: tuple[str, ...]
    """How it reads [REC] and [GEN], by the names of its form; empty: it reads none."""
    classifier: str | None
    """The turn classifier named in its card, if any."""
    graph_digest: str
    """Of the graphs whose entities and words it reads; empty if it reads tokens alone."""
    digest: str
    """Of its card, which names the digests of its files."""

    @property
    def limits(self) -> InputLimits:
        """What it takes of an example, with action tokens as it was trained."""
        vocabulary = self.vocabulary
        items = range(vocabulary.first_item_id, vocabulary.rec_id)
        actions = ActionForm.of(self.actions, items, vocabulary.eos_id)
        return replace(self.model.limits, actions=actions)

    def prompt(self, example: Example, *, recommends: bool) -> Prompt:
        """Context and, if the model was trained with them, action tokens."""
        given = prompt_input(example, self.limits, recommends=recommends)
        return Prompt(example.example_id, given, len(example.context_entities))


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """Card of a model's folder, read before its weights."""

    folder: Path
    actions: tuple[str, ...]
    """How it reads action tokens, by the names of its form; empty: it reads none."""
    classifier: str | None
    vocabulary_digest: str
    graph_digest: str
    digest: str
    """Of the card, which names the digests of its files."""
    student: StudentCard | None = None
    """The whole card, if it is a student's."""


def read_model_card(folder: Path) -> ModelCard:
    """The card of a run directory's student, an exported student or a dialogue teacher.

    Raises:
        MissingError: if the folder is none of the three.
        InputError: if the card is none, or a teacher's weights were changed.
    """
    if (folder / MODEL_FOLDER / STUDENT_CARD_NAME).is_file():
        folder = folder / MODEL_FOLDER
    if (folder / STUDENT_CARD_NAME).is_file():
        student = read_student_card(folder)
        return ModelCard(
            folder=folder,
            actions=student.actions,
            classifier=student.classifier,
            vocabulary_digest=student.vocabulary_digest,
            graph_digest=student.graph_digest,
            digest=digest_strings([json.dumps(dataclasses.asdict(student), sort_keys=True)]),
            student=student,
        )
    if (folder / CARD_NAME).is_file():
        card = read_card(folder, "dialogue")
        return ModelCard(
            folder=folder,
            actions=tuple(it for it in card.capabilities if it in ACTION_NAMES),
            classifier=None,
            vocabulary_digest=card.vocabulary_digest,
            graph_digest=card.graph_digest,
            digest=card.weights_digest,
        )
    raise MissingError(
        f"{folder} must be a run directory, an exported student or a dialogue teacher, got "
        f"neither {MODEL_FOLDER}/{STUDENT_CARD_NAME} nor {STUDENT_CARD_NAME} nor {CARD_NAME} "
        "there. Let the training finish first."
    )


def load_model(folder: Path) -> LoadedModel:
    """The model of a run directory, an exported student's or a dialogue teacher's folder.

    Raises:
        MissingError: if the folder is none of the three, or a file of it is missing.
        InputError: if a file was changed, or its card and its vocabulary disagree.
    """
    card = read_model_card(folder)
    if card.student is not None:
        check_student_files(card.folder, card.student)
    vocabulary = Vocabulary.load(card.folder)
    check_vocabulary(card.folder, card.vocabulary_digest, vocabulary.digest)
    model = load_language_model(card.folder, vocabulary)
    model.module.to("cuda" if torch.cuda.is_available() else "cpu")
    return LoadedModel(
        folder=card.folder,
        model=model,
        vocabulary=vocabulary,
        actions=card.actions,
        classifier=card.classifier,
        graph_digest=card.graph_digest,
        digest=card.digest,
    )


def check_vocabulary(folder: Path, model_digest: str, data_digest: str) -> None:
    """Refuse a model that was trained with another vocabulary than the data's."""
    if model_digest != data_digest:
        raise InputError(
            f"the model in {folder} must have vocabulary digest {data_digest}, got {model_digest}. "
            "Use data and models that were prepared together."
        )


def check_knows(loaded: LoadedModel, data: PreparedData) -> None:
    """Refuse a model to which the data's tokens, entities or words mean something else."""
    check_digests(loaded.folder, loaded.vocabulary.digest, loaded.graph_digest, data)


def check_digests(folder: Path, vocabulary: str, graph: str, data: PreparedData) -> None:
    """Refuse a model of another vocabulary, or of another graph; "" is a model without a graph."""
    check_vocabulary(folder, vocabulary, data.vocabulary.digest)
    if graph not in ("", data.graphs_digest):
        raise InputError(
            f"the model in {folder} must have the data's graph {data.graphs_digest}, got {graph}. "
            "Use data and models that were prepared together."
        )


def resolve_classifier(loaded: LoadedModel | ModelCard, choice: str | None) -> str | None:
    """Where the action token comes from: "oracle", "student", a folder, or None without any.

    The user's choice stands before the one in the student's card, a folder inside the student's.

    Raises:
        InputError: if the model needs action tokens and there is no classifier.
    """
    if ACTIONS not in loaded.actions:
        return None
    if choice == STUDENT and ACTION_LOSS not in loaded.actions:
        raise InputError(
            f"the student in {loaded.folder} must have learnt its action tokens to choose them, "
            "got one that did not (action_loss). Give --classifier DIR, or oracle."
        )
    if choice is not None:
        return choice
    if loaded.classifier is None and ACTION_LOSS in loaded.actions:
        return STUDENT
    if loaded.classifier is None:
        raise InputError(
            f"the student in {loaded.folder} needs an action token for each response, got no "
            "classifier. Give --classifier DIR, or --classifier oracle for the gold tokens."
        )
    candidate = loaded.folder / loaded.classifier
    if not candidate.is_dir():
        raise MissingError(
            f"the classifier of {loaded.folder} must be in {candidate}, got no folder there. "
            "Give --classifier DIR."
        )
    return str(candidate)
