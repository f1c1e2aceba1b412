"""A third kind of teacher, as a plugin adds one: word pairs, counted in the training responses.

    python -m teacher_server up --plugin tests.support.toy_teacher --teacher bigram=DIR ...
    deepspeed trainer/main.py ... plugins=[tests.support.toy_teacher] distill.shares.bigram=0.25

Its folder is a frozen folder like the others: card, vocabulary, and one matrix of log-probs.
W words, that is ids below the films'; C = W + 1 contexts: the word before, or any film.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from protos.target_rows import TargetRows
from protos.teacher_pb2 import Compression, Description
from teacher_server.scoring.compress import Support, compress
from teacher_server.scoring.counters import ReplicaCounters
from teacher_server.scoring.description import describe
from teacher_server.scoring.kinds import ServedKind
from teacher_server.scoring.teachers import draw_uniforms
from trainer.data.examples import Example
from trainer.data.model_input import InputLimits, SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.teacher_kind import TeacherKind
from trainer.models.frozen import WEIGHTS_NAME, read_card, write_card

KIND = "bigram"
SMOOTHING = 0.1


def last_tokens(example: Example, limits: InputLimits) -> SequenceInput:
    """The token before each of the response: all that a bigram looks at."""
    before = np.concatenate([example.context_ids[-1:], example.response_ids[:-1]])
    return SequenceInput.at_end(num_rows=len(example.response_ids), tokens=before)


def fit_bigrams(folder: Path, vocabulary: Vocabulary, examples: Sequence[Example]) -> None:
    """Count word pairs, and write a frozen folder."""
    num_words = vocabulary.first_item_id
    counts_CW = np.full((num_words + 1, num_words), SMOOTHING)
    for example in examples:
        before = last_tokens(example, InputLimits()).tokens
        for one, next_one in zip(before, example.response_ids, strict=True):
            if next_one < num_words:
                counts_CW[min(one, num_words), next_one] += 1.0
    log_probs_CW = np.log(counts_CW / counts_CW.sum(-1, keepdims=True))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"log_probs": log_probs_CW.astype(np.float32)}, folder / WEIGHTS_NAME)
    vocabulary.save(folder)
    longest = max(len(example.response_ids) for example in examples)
    card = Description(kind=KIND, vocabulary_digest=vocabulary.digest, max_tokens=longest)
    write_card(folder, card)


class BigramTeacher:
    """P(next word | token before), over words alone."""

    def __init__(self, description: Description, log_probs_CW: torch.Tensor) -> None:
        self.description = description
        self._log_probs_CW = log_probs_CW
        size = description.vocab_size
        self._support = Support(vocab_size=size, first_id=0, first_item_column=0, num_items=0)

    def score(self, inputs: Sequence[SequenceInput], compression: Compression) -> TargetRows:
        """A row for every token of every input."""
        before_T = np.concatenate([each.tokens[-each.num_rows :] for each in inputs])
        contexts_T = torch.from_numpy(before_T.astype(np.int64)).clamp(
            max=len(self._log_probs_CW) - 1
        )
        return compress(
            self._log_probs_CW[contexts_T.to(self._log_probs_CW.device)],
            compression,
            support=self._support,
            temperature=self.description.temperature,
            uniforms_TN=draw_uniforms(inputs, compression),
        )


def load_bigrams(
    folder: Path, device: torch.device, counters: ReplicaCounters, dtype: str
) -> BigramTeacher:
    """The frozen folder's teacher, in float32."""
    description = describe(read_card(folder, KIND), Vocabulary.load(folder))
    log_probs_CW = torch.from_numpy(load_file(folder / WEIGHTS_NAME)["log_probs"])
    return BigramTeacher(description, log_probs_CW.to(device))


TEACHER_KINDS = {
    KIND: TeacherKind(
        reads="tokens",
        to_input=last_tokens,
        rows_per="position",
        support=lambda vocab_size, items: range(items.start),
    )
}
SERVED_KINDS = {KIND: ServedKind(load=load_bigrams)}
