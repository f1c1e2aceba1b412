"""What answers a batch of messages: a language model, or a recommendation teacher that only ranks.

B messages of a batch, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from protos.fingerprint import digest_strings
from trainer.data.bags import Bags
from trainer.data.message_contexts import MessageContext
from trainer.data.model_input import InputLimits, recommendation_input
from trainer.data.prepared import PreparedData
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.actions import ActionChooser
from trainer.evaluation.generate import (
    GenerateConfig,
    GeneratedResponse,
    Prompt,
    check_lengths,
    generate_batch,
)
from trainer.evaluation.likelihood import gold_nlls
from trainer.evaluation.loaded_model import LoadedModel, check_digests, check_knows, load_model
from trainer.models.frozen import frozen_kind
from trainer.models.frozen_recommender import FrozenRecommender, load_recommender
from trainer.scoring.metrics import list_depth
from trainer.scoring.records import Record, Slot


class Responder(Protocol):
    """A system that answers messages."""

    @property
    def digest(self) -> str:
        """Of all that its answers depend on, beside data and decoding."""
        ...

    def check(self, contexts: Sequence[MessageContext]) -> None:
        """Raise InputError for contexts that it cannot answer, before any work."""
        ...

    def respond(self, contexts: Sequence[MessageContext]) -> list[Record]:
        """A record for each message of a batch, in the order given."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeakingResponder:
    """A language model: it says something, and ranks films where it names them."""

    loaded: LoadedModel
    choose_actions: ActionChooser
    config: GenerateConfig

    @property
    def digest(self) -> str:
        """Of the model's files, and of what picks its action tokens."""
        return digest_strings([self.loaded.digest, self.choose_actions.digest])

    def check(self, contexts: Sequence[MessageContext]) -> None:
        """Raise InputError for a context that leaves no room for a response."""
        prompts = [self._prompt(context, recommends=True) for context in contexts]
        check_lengths(self.loaded.model, prompts, self.config)

    def prompts(self, contexts: Sequence[MessageContext]) -> list[Prompt]:
        """What the model is given of each context, action tokens chosen."""
        actions = self.choose_actions([context.example for context in contexts])
        return [
            self._prompt(context, recommends=bool(recommends))
            for context, recommends in zip(contexts, actions.recommends_T, strict=True)
        ]

    def respond(self, contexts: Sequence[MessageContext]) -> list[Record]:
        """Generate a batch, and score the gold responses of those that stand for a turn."""
        loaded = self.loaded
        prompts = self.prompts(contexts)
        responses = generate_batch(loaded.model, loaded.vocabulary, prompts, self.config)
        turns = [row for row, context in enumerate(contexts) if context.stands_for_turn]
        nlls = dict(
            zip(turns, gold_nlls(loaded, [contexts[row].example for row in turns]), strict=True)
        )
        return [
            to_record(context, response, nlls.get(row), loaded.vocabulary)
            for row, (context, response) in enumerate(zip(contexts, responses, strict=True))
        ]

    def _prompt(self, context: MessageContext, *, recommends: bool) -> Prompt:
        prompt = self.loaded.prompt(context.example, recommends=recommends)
        return Prompt(prompt.example_id, prompt.given, context.num_films)


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingResponder:
    """A recommendation teacher alone: it ranks the films of each message, and says nothing."""

    recommender: FrozenRecommender
    limits: InputLimits
    vocabulary: Vocabulary
    digest: str

    def check(self, contexts: Sequence[MessageContext]) -> None:
        """It takes any context: of a longer one the last entities and words."""

    @torch.inference_mode()
    def respond(self, contexts: Sequence[MessageContext]) -> list[Record]:
        """Rank the films for a batch."""
        inputs = [recommendation_input(context.example, self.limits) for context in contexts]
        log_probs_BI = self.recommender(
            Bags.of([each.entities for each in inputs]), Bags.of([each.words for each in inputs])
        )
        depths = [list_depth(self.vocabulary.num_items, it.num_films) for it in contexts]
        top_BK = log_probs_BI.topk(max(depths)).indices.numpy()
        return [
            Record(
                dialogue=context.dialogue_id,
                message=context.message_id,
                text="",
                ranking=_films(top_K[:depth], self.vocabulary),
            )
            for context, top_K, depth in zip(contexts, top_BK, depths, strict=True)
        ]


def load_responder(
    folder: Path, data: PreparedData, config: GenerateConfig, classifier: str | None
) -> Responder:
    """The system in a folder: a run, an exported student, or a dialogue or recommendation teacher.

    Raises:
        MissingError: if the folder holds none of these, or the classifier is missing.
        InputError: if its vocabulary or graph is not the data's, or its action tokens have no
            source.
    """
    if frozen_kind(folder) == "recommendation":
        recommender, card = load_recommender(folder)
        check_digests(folder, card.vocabulary_digest, card.graph_digest, data)
        return RankingResponder(
            recommender=recommender,
            limits=InputLimits.of(card),
            vocabulary=data.vocabulary,
            digest=card.weights_digest,
        )
    loaded = load_model(folder)
    check_knows(loaded, data)
    return SpeakingResponder(
        loaded=loaded, choose_actions=ActionChooser(loaded, classifier), config=config
    )


def to_record(
    context: MessageContext,
    response: GeneratedResponse,
    nll: float | None,
    vocabulary: Vocabulary,
) -> Record:
    """A generated response as it is scored."""
    slots = [
        Slot(item=vocabulary.movie_ids[slot.item], ranked=_films(slot.top_items, vocabulary))
        for slot in response.item_slots
    ]
    return Record(
        dialogue=context.dialogue_id,
        message=context.message_id,
        text=vocabulary.decode_with_ids(response.token_ids).strip(),
        slots=tuple(slots),
        ranking=_films(response.ranking, vocabulary),
        tokens=response.num_steps,
        nll=nll,
        gold_tokens=None if nll is None else len(context.example.response_ids),
    )


def _films(items_K: np.ndarray, vocabulary: Vocabulary) -> tuple[str, ...]:
    return tuple(vocabulary.movie_ids[item] for item in items_K.tolist())
