"""Greedy responses of a model, with the ranked items at every position that names one.

B prompts of a batch, L padded prompt length, T response positions, V vocabulary, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
)

from trainer.common.errors import InputError
from trainer.common.progress import progress_bar
from trainer.data.model_input import SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.metrics import GeneratedResponse, ItemSlot, list_depth
from trainer.evaluation.options import BATCH_SIZE
from trainer.models.causal_lm import MAX_RESPONSE_TOKENS
from trainer.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How responses are generated; always greedy."""

    max_new_tokens: int = MAX_RESPONSE_TOKENS
    """The end of text counts."""
    batch_size: int = BATCH_SIZE
    """Prompts per forward; changes speed, and float rounding at most."""

    def __post_init__(self) -> None:
        for name, value in (
            ("max_new_tokens", self.max_new_tokens),
            ("batch_size", self.batch_size),
        ):
            if value < 1:
                raise InputError(f"generate.{name} must be at least 1, got {value}.")


@dataclass(frozen=True, eq=False, slots=True)
class Prompt:
    """What a model answers to."""

    example_id: str
    given: SequenceInput
    """Its tokens: context, then the action token if the model was trained with one."""
    num_mentioned: int
    """Number of items that the context names, or more; ranked lists are longer by it."""


class SuppressSpecialTokens(LogitsProcessor):
    """Makes [REC], [GEN] and <pad>, the last rows of the vocabulary, impossible."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._first_special_id = vocabulary.rec_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] with -inf there, changed in place: `generate` passes its own copy."""
        scores[:, self._first_special_id :] = -torch.inf
        return scores


class ItemRecorder(LogitsProcessor):
    """Keeps the best items of every step whose greedy token is an item; scores pass unchanged.

    It must be the last processor, and serves one call of `generate`.
    """

    def __init__(self, vocabulary: Vocabulary, prompt_length: int, depth: int) -> None:
        self._items = slice(vocabulary.first_item_id, vocabulary.rec_id)
        self._eos_id = vocabulary.eos_id
        self._prompt_length = prompt_length
        self._depth = depth
        self._finished_B: Tensor | None = None
        self._top_items: dict[tuple[int, int], np.ndarray] = {}

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note the items of the rows that go on and name one now."""
        step = input_ids.shape[1] - self._prompt_length
        if self._finished_B is None or step == 0:
            # A prompt may end in end of text; only a generated one ends the response.
            self._finished_B = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        else:
            self._finished_B |= input_ids[:, -1] == self._eos_id
        best_B = scores.argmax(-1)
        names_item_B = (best_B >= self._items.start) & (best_B < self._items.stop)
        rows = (names_item_B & ~self._finished_B).nonzero().squeeze(-1)
        if len(rows):
            top = scores[rows, self._items].topk(self._depth).indices.to("cpu", torch.int32)
            for row, items in zip(rows.tolist(), top.numpy(), strict=True):
                self._top_items[row, step] = items
        return scores

    def slot(self, row: int, step: int, item: int) -> ItemSlot:
        """The item position at a step of a row, where the generated token is `item`."""
        return ItemSlot(item=item, top_items=self._top_items[row, step])


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
    *,
    title: str | None,
) -> list[GeneratedResponse]:
    """Answer every prompt greedily, in the order given.

    Args:
        model: a language model over the vocabulary, in eval mode.
        vocabulary: the model's.
        prompts: at least one token each.
        config: length limit and batch size.
        title: stands before the progress bar on stderr (drawn on a terminal only); None: no bar.

    Raises:
        InputError: if a prompt and its response would not fit the model.
    """
    _check_lengths(model, prompts, config)
    # Neighbours in length share a batch, so that little padding is computed.
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index].given.tokens))
    responses: dict[int, GeneratedResponse] = {}
    with progress_bar(hidden=title is None) as bar:
        task = bar.add_task(title or "", total=len(prompts))
        for start in range(0, len(order), config.batch_size):
            chosen = order[start : start + config.batch_size]
            batch = [prompts[index] for index in chosen]
            answers = _generate_batch(model, vocabulary, batch, config)
            responses.update(zip(chosen, answers, strict=True))
            bar.advance(task, len(batch))
            if title is not None and not bar.console.is_terminal:
                # A log keeps lines, not a bar that redraws itself.
                bar.console.print(f"{title} {start + len(batch)}/{len(order)}", highlight=False)
    return [responses[index] for index in range(len(prompts))]


def _generate_batch(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
) -> list[GeneratedResponse]:
    given = [prompt.given for prompt in prompts]
    start = model.prompt_width(given)
    depth = list_depth(vocabulary.num_items, max(prompt.num_mentioned for prompt in prompts))
    recorder = ItemRecorder(vocabulary, start, depth)
    processors = LogitsProcessorList([SuppressSpecialTokens(vocabulary), recorder])
    with torch.inference_mode():
        output_BL = model.generate(
            given, vocabulary, max_new_tokens=config.max_new_tokens, processors=processors
        )
    rows = output_BL[:, start:].tolist()
    return [
        _response(prompt, vocabulary, row, tokens, recorder)
        for row, (prompt, tokens) in enumerate(zip(prompts, rows, strict=True))
    ]


def _response(
    prompt: Prompt, vocabulary: Vocabulary, row: int, tokens: list[int], recorder: ItemRecorder
) -> GeneratedResponse:
    if vocabulary.eos_id in tokens:
        tokens = tokens[: tokens.index(vocabulary.eos_id)]
    slots = [
        recorder.slot(row, step, token_id - vocabulary.first_item_id)
        for step, token_id in enumerate(tokens)
        if vocabulary.is_item(token_id)
    ]
    return GeneratedResponse(
        example_id=prompt.example_id,
        token_ids=tuple(tokens),
        text=vocabulary.decode(tokens).strip(),
        item_slots=tuple(slots),
    )


def _check_lengths(model: LanguageModel, prompts: Sequence[Prompt], config: GenerateConfig) -> None:
    room = model.limits.max_tokens - config.max_new_tokens
    for prompt in prompts:
        if not 1 <= len(prompt.given.tokens) <= room:
            raise InputError(
                f"the prompt of {prompt.example_id} must have 1 to {room} tokens, got "
                f"{len(prompt.given.tokens)}. Prepare the data with a smaller --max-context."
            )
