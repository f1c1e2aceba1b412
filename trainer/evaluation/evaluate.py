"""Score one trained model on one split: text, recommendations and likelihood."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.common.errors import InputError
from trainer.data.dialogue import Mention, split_mentions
from trainer.data.examples import Example
from trainer.data.message_contexts import MessageContext, message_contexts
from trainer.data.prepared import PreparedData
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.actions import ActionChooser, Actions
from trainer.evaluation.answering import answer_all, first_dialogues
from trainer.evaluation.generate import GenerateConfig
from trainer.evaluation.loaded_model import check_knows, load_model
from trainer.evaluation.responders import SpeakingResponder
from trainer.scoring.metrics import scores
from trainer.scoring.paper_view import paper_view
from trainer.scoring.records import Record
from trainer.scoring.sums import DialogueSums


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is evaluated, and how."""

    split: str = "test"
    classifier: str | None = None
    """Folder of a turn classifier, "oracle" for the gold action, "student" for the model's own,
    None: the classifier in student.json, or else the model itself."""
    limit: int | None = None
    """Only the first dialogues; None: all."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit must be at least 1, got {self.limit}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class EvaluationResult:
    """All scores of one model on one split; docs/evaluation.md has the definitions."""

    checkpoint: str
    split: str
    vocabulary_digest: str
    views: Mapping[str, DialogueSums]
    """"all" and "new", of the paper's view."""
    actions: Actions
    records: tuple[Record, ...]
    """Of the split's responses, in order; not in to_dict."""
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the responses, for JSON; headline scores flat."""
        return {
            "checkpoint": self.checkpoint,
            "split": self.split,
            "vocabulary_digest": self.vocabulary_digest,
            "num_responses": len(self.records),
            "num_generated_tokens": sum(record.tokens or 0 for record in self.records),
            **view_scores(self.views),
            "actions": self.actions.to_dict(),
            "seconds": self.seconds,
        }


def view_scores(views: Mapping[str, DialogueSums]) -> dict[str, Any]:
    """Scores over all films flat, and those over new ones below "new_items"."""
    return {**scores(views["all"]), "new_items": scores(views["new"])}


def evaluate_config(arguments: argparse.Namespace) -> EvaluateConfig:
    """The config that these options ask for."""
    return EvaluateConfig(
        split=arguments.split,
        classifier=arguments.classifier,
        limit=arguments.limit,
        generate=GenerateConfig(batch_size=arguments.batch_size),
    )


def response_contexts(data: PreparedData, config: EvaluateConfig) -> list[MessageContext]:
    """The messages that stand for a response: one for each example, in order."""
    contexts = first_dialogues(message_contexts(data, config.split), config.limit)
    return [context for context in contexts if context.stands_for_turn]


def evaluate_model(model_dir: Path, data: PreparedData, config: EvaluateConfig) -> EvaluationResult:
    """Generate and score every response of a split; deterministic but for `seconds`.

    Args:
        model_dir: a run directory, an exported student or a dialogue teacher.
        data: the prepared folder that it was trained on.
        config: split, action token and limits.

    Raises:
        FileNotFoundError: if the folder holds no such model.
        InputError: if its vocabulary is not the data's (with both digests), or its action token has
            no source.
    """
    loaded = load_model(model_dir)
    check_knows(loaded, data)
    choose_actions = ActionChooser(loaded, config.classifier)
    contexts = response_contexts(data, config)
    responder = SpeakingResponder(
        loaded=loaded, choose_actions=choose_actions, config=config.generate
    )
    started = time.perf_counter()
    records = answer_all(responder, contexts, config.generate.batch_size, title="generate")
    generated = time.perf_counter()
    actions = choose_actions([context.example for context in contexts])
    seconds = {"generate": generated - started, "actions": time.perf_counter() - generated}
    return EvaluationResult(
        checkpoint=str(model_dir),
        split=config.split,
        vocabulary_digest=data.vocabulary.digest,
        views=paper_view(records, data, config.split),
        actions=actions,
        records=tuple(records),
        seconds=seconds,
    )


def gold_text(example: Example, vocabulary: Vocabulary) -> str:
    """The gold response as people read it, cut at the response limit."""
    return vocabulary.decode(example.response_ids.tolist()).strip()


def readable(text: str, vocabulary: Vocabulary) -> str:
    """A record's text with films' titles in place of their ids."""
    return "".join(
        vocabulary.titles[vocabulary.item_index(piece.movie_id)]
        if isinstance(piece, Mention)
        else piece
        for piece in split_mentions(text, frozenset(vocabulary.movie_ids))
    )
