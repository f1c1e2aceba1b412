"""Talk to a student: you are the seeker, it recommends.

    python -m trainer.chat --checkpoint DIR [--classifier DIR]

Name a film as "Title (Year)" in double quotes, exactly as in the catalogue, or as @id. Leave with
Ctrl-D or Ctrl-C.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from transformers.utils.logging import disable_progress_bar

from trainer.common.cli import run_main
from trainer.common.errors import InputError
from trainer.data.dialogue import Mention, Piece, split_mentions
from trainer.data.examples import Example
from trainer.data.prepared import PreparedData, load_prepared
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.actions import ORACLE, ActionChooser
from trainer.evaluation.generate import GenerateConfig, generate
from trainer.evaluation.loaded_model import LoadedModel, check_knows, load_model

QUOTED_PATTERN = re.compile(r'"([^"]+)"')
MAX_CONTEXT = 256
PROMPT = "you> "


class Conversation:
    """One dialogue between a person and a model."""

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
        self._data = data
        self._entities: dict[int, None] = {}
        self._words: list[int] = []
        self._loaded = loaded
        self._choose_actions = ActionChooser(loaded, classifier)
        self._config = config
        self._context_ids: list[int] = []
        self._turns = 0

    def answer(self, text: str) -> str:
        """Take in what the person said, and answer; empty if the model says nothing."""
        vocabulary = self._loaded.vocabulary
        self._hear(find_mentions(text, vocabulary))
        response_ids = self._respond()
        self._context_ids += [*response_ids, vocabulary.eos_id]
        items = [i - vocabulary.first_item_id for i in response_ids if vocabulary.is_item(i)]
        # Words of titles are none of the context's, as in the prepared examples.
        words = vocabulary.decode([i for i in response_ids if not vocabulary.is_item(i)])
        self._note(items, words)
        return vocabulary.decode(response_ids).strip()

    def _hear(self, pieces: list[Piece]) -> None:
        vocabulary = self._loaded.vocabulary
        self._context_ids += [*vocabulary.encode(pieces), vocabulary.eos_id]
        films = [p.movie_id for p in pieces if isinstance(p, Mention)]
        text = " ".join(piece for piece in pieces if not isinstance(piece, Mention))
        self._note([vocabulary.item_index(film) for film in films], text)

    def _note(self, items: list[int], text: str) -> None:
        if self._data is not None:
            entities_I = self._data.graph.item_entities_I
            self._entities |= dict.fromkeys(int(entities_I[item]) for item in items)
            self._words += self._data.words.find(text)

    def _respond(self) -> list[int]:
        room = self._loaded.model.limits.max_tokens - self._config.max_new_tokens - 1
        self._turns += 1
        example = Example(
            example_id=f"chat:{self._turns}",
            context_ids=np.array(self._context_ids[-min(MAX_CONTEXT, room) :], np.int32),
            response_ids=np.array([self._loaded.vocabulary.eos_id], np.int32),
            context_entities=np.array(list(self._entities), np.int32),
            context_words=np.array(self._words, np.int32),
            gold_items=np.empty(0, np.int32),
        )
        actions = self._choose_actions([example])
        prompt = self._loaded.prompt(example, recommends=bool(actions.recommends_T[0]))
        (response,) = generate(
            self._loaded.model, self._loaded.vocabulary, [prompt], self._config, title="answer"
        )
        return list(response.token_ids)


def find_mentions(text: str, vocabulary: Vocabulary) -> list[Piece]:
    """Text pieces and films: @id of the catalogue, or an exact title in double quotes.

    Anything else in quotes stays text. Of films that share a title, the first in the catalogue is
    meant.
    """
    pieces: list[Piece] = []
    start = 0
    for match in QUOTED_PATTERN.finditer(text):
        if match.group(1) in vocabulary.titles:
            pieces += split_mentions(text[start : match.start()], vocabulary.movie_ids)
            movie = vocabulary.movie_ids[vocabulary.titles.index(match.group(1))]
            pieces.append(Mention(movie))
            start = match.end()
    return pieces + split_mentions(text[start:], vocabulary.movie_ids)


def chat(conversation: Conversation, lines: Iterable[str], write: Callable[[str], object]) -> None:
    """Answer line by line until there are no more; blank lines are passed over."""
    for line in lines:
        if line.strip():
            write(f"recommender> {conversation.answer(line.strip())}\n")


def typed_lines() -> Iterator[str]:
    """What the user types, until Ctrl-D."""
    while True:
        try:
            yield input(PROMPT if sys.stdin.isatty() else "")
        except EOFError:
            sys.stdout.write("\n")
            return


def main(argv: list[str]) -> None:
    """Load the model, then talk."""
    parser = argparse.ArgumentParser(
        prog="python -m trainer.chat",
        description="Talk to a trained model: you are the seeker, it recommends.",
        epilog='Name a film as "Title (Year)" in double quotes or as @id. Ctrl-D leaves.',
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run or model folder")
    parser.add_argument("--classifier", help="folder of the turn classifier")
    parser.add_argument(
        "--data", type=Path, help="prepared folder, for a model that reads its graph"
    )
    arguments = parser.parse_args(argv)
    # Hugging Face's bar for the reading of weights is noise in logs.
    disable_progress_bar()
    loaded = load_model(arguments.checkpoint)
    data = None if arguments.data is None else load_prepared(arguments.data)
    config = GenerateConfig(batch_size=1)
    conversation = Conversation(loaded, arguments.classifier, config, data)
    try:
        chat(conversation, typed_lines(), sys.stdout.write)
    except KeyboardInterrupt:
        # Ctrl-C is a way to leave a chat, not a failure.
        sys.stdout.write("\n")


if __name__ == "__main__":
    run_main(main)
