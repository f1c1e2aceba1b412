"""One dialogue between a person, the seeker, and a model that recommends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils.logging import disable_progress_bar

from trainer.common.errors import InputError
from trainer.data.dialogue import Mention
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData, load_prepared
from trainer.evaluation.actions import ORACLE, ActionChooser
from trainer.evaluation.generate import GenerateConfig, generate
from trainer.evaluation.loaded_model import LoadedModel, check_knows, load_model
from trainer.evaluation.mentions import FilmFinder, Heard

MAX_CONTEXT = 256
SAID_NOTHING = "the model ended its turn at once. Say it in other words, or take it back with /undo"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model said to one text."""

    text: str
    """Never empty unless `reason` says why."""
    reason: str
    films: tuple[tuple[str, str], ...]
    """(id, title) of the films that it names."""
    heard: tuple[tuple[str, str], ...]
    """(id, title) of the films that it was told of."""
    hints: tuple[str, ...]
    """What in the text looked like a film and was taken for text."""
    action: str | None
    """"recommend" or "converse", for a model with action tokens."""

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON."""
        return {
            "answer": self.text,
            "reason": self.reason,
            "films": [{"id": movie_id, "title": title} for movie_id, title in self.films],
            "heard": [{"id": movie_id, "title": title} for movie_id, title in self.heard],
            "hints": list(self.hints),
            "action": self.action,
        }


@dataclass(frozen=True, kw_only=True)
class Said:
    """All that was said so far, as the model is given it."""

    tokens: tuple[int, ...] = ()
    entities: tuple[int, ...] = ()
    words: tuple[int, ...] = ()


class Conversation:
    """One dialogue between a person and a model; `said` is what was said so far."""

    def __init__(
        self,
        loaded: LoadedModel,
        classifier: str | None,
        config: GenerateConfig,
        data: PreparedData | None = None,
    ) -> None:
        """`data` links entities and words in the text, for a model that reads them."""
        if classifier == ORACLE:
            raise InputError(
                "a chat must have a classifier or none, got oracle: nobody knows the gold action "
                "here. Give --classifier DIR."
            )
        if loaded.graph_digest and data is None:
            raise InputError(
                f"the model in {loaded.folder} reads entities and words of a graph, got none. "
                "Give --data DIR, the prepared folder that it was trained on."
            )
        if data is not None:
            check_knows(loaded, data)
        self.said = Said()
        self._before: list[Said] = []
        self._data = data
        self._loaded = loaded
        self._finder = FilmFinder(loaded.vocabulary)
        self._choose_actions = ActionChooser(loaded, classifier)
        self._config = config

    def answer(self, text: str) -> Answer:
        """Take in what the person said, and answer."""
        self._before.append(self.said)
        heard = self._finder.hear(text)
        items = self._hear(heard)
        action, ids = self._respond()
        named = self._note_response(ids)
        answer = self._loaded.vocabulary.decode(ids).strip()
        return Answer(
            text=answer,
            reason="" if answer else SAID_NOTHING,
            films=self._films(named),
            heard=self._films(items),
            hints=heard.hints,
            action=action,
        )

    def undo(self) -> bool:
        """Take back the last text and its answer; False if there is none."""
        if not self._before:
            return False
        self.said = self._before.pop()
        return True

    def start_over(self) -> None:
        """Forget all that was said."""
        self.said, self._before = Said(), []

    def _hear(self, heard: Heard) -> list[int]:
        """Note a text of the person's; its items."""
        vocabulary = self._loaded.vocabulary
        films = [p.movie_id for p in heard.pieces if isinstance(p, Mention)]
        items = [vocabulary.item_index(film) for film in films]
        text = " ".join(piece for piece in heard.pieces if not isinstance(piece, Mention))
        self._note(vocabulary.encode(heard.pieces), items, text)
        return items

    def _note_response(self, ids: list[int]) -> list[int]:
        """Note an answer of the model's; its items."""
        vocabulary = self._loaded.vocabulary
        items = [i - vocabulary.first_item_id for i in ids if vocabulary.is_item(i)]
        # Words of titles are none of the context's, as in the prepared examples.
        words = vocabulary.decode([i for i in ids if not vocabulary.is_item(i)])
        self._note(ids, items, words)
        return items

    def _note(self, ids: list[int], items: list[int], text: str) -> None:
        said = self.said
        entities, words = said.entities, said.words
        if self._data is not None:
            entities_I = self._data.graph.item_entities_I
            entities = tuple(dict.fromkeys([*entities, *(int(entities_I[it]) for it in items)]))
            words = (*words, *self._data.words.find(text))
        tokens = (*said.tokens, *ids, self._loaded.vocabulary.eos_id)
        self.said = Said(tokens=tokens, entities=entities, words=words)

    def _respond(self) -> tuple[str | None, list[int]]:
        """The action and the tokens of an answer to all that was said."""
        said = self.said
        example = Example(
            example_id=f"chat:{len(self._before)}",
            context_ids=self._context(),
            response_ids=np.array([self._loaded.vocabulary.eos_id], np.int32),
            context_entities=np.array(said.entities, np.int32),
            context_words=np.array(said.words, np.int32),
            gold_items=np.empty(0, np.int32),
        )
        actions = self._choose_actions([example])
        recommends = bool(actions.recommends_T[0])
        prompt = self._loaded.prompt(example, recommends=recommends)
        (response,) = generate(
            self._loaded.model, self._loaded.vocabulary, [prompt], self._config, title=None
        )
        name = "recommend" if recommends else "converse"
        return None if actions.source == "none" else name, list(response.token_ids)

    def _context(self) -> np.ndarray:
        """The last tokens of what was said that fit, with what stands before a response."""
        limits = self._loaded.limits
        room = limits.max_tokens - self._config.max_new_tokens - 1
        context_ids = np.array(self.said.tokens[-min(MAX_CONTEXT, room) :], np.int32)
        if limits.actions is None:
            return context_ids
        # Action tokens of the history take room, too: without so many tokens it fits.
        return context_ids[max(0, len(limits.actions.history(context_ids)) - room) :]

    def _films(self, items: list[int]) -> tuple[tuple[str, str], ...]:
        vocabulary = self._loaded.vocabulary
        return tuple((vocabulary.movie_ids[item], vocabulary.titles[item]) for item in items)


def load_conversation(checkpoint: Path, classifier: str | None, data: Path | None) -> Conversation:
    """A conversation with the model of a folder.

    Args:
        checkpoint: run or model folder.
        classifier: folder of the turn classifier; None: the model's own, if it has one.
        data: prepared folder, for a model that reads its graph.
    """
    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    loaded = load_model(checkpoint)
    prepared = None if data is None else load_prepared(data)
    return Conversation(loaded, classifier, GenerateConfig(batch_size=1), prepared)
