"""Responses of a language model, with the ranked items at every position that names one.

B prompts of a batch, L padded prompt length, T response positions, V vocabulary, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import LogitsProcessorList

from trainer.common.errors import InputError
from trainer.common.progress import progress_bar
from trainer.data.model_input import SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.decoding import ChooseAndRecord, Decoding, SuppressSpecialTokens
from trainer.evaluation.options import BATCH_SIZE
from trainer.models.causal_lm import MAX_RESPONSE_TOKENS
from trainer.models.language_model import LanguageModel
from trainer.scoring.metrics import list_depth


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How responses are generated."""

    max_new_tokens: int = MAX_RESPONSE_TOKENS
    """The end of text counts."""
    batch_size: int = BATCH_SIZE
    """Prompts per forward; changes speed, and float rounding at most."""
    decoding: Decoding = field(default_factory=Decoding)

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


@dataclass(frozen=True, eq=False, slots=True)
class ItemSlot:
    """One generated item position."""

    item: int
    """Index of the item that was emitted."""
    top_items: np.ndarray
    """Item indices, best first, at the step that emitted it; `list_depth` items, so that the
    largest cutoff is still filled when the context's items are left out.
    """


@dataclass(frozen=True, eq=False, slots=True)
class GeneratedResponse:
    """What a model said in one turn."""

    example_id: str
    token_ids: tuple[int, ...]
    """Generated tokens without the end of text."""
    is_ended: bool
    """Whether the model ended it, before its length did."""
    item_slots: tuple[ItemSlot, ...]
    ranking: np.ndarray
    """Items, best first, at the step with the most mass on items; as many as a slot's."""

    @property
    def num_steps(self) -> int:
        """Tokens that were generated, the end of text included."""
        return len(self.token_ids) + self.is_ended


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
    *,
    title: str | None,
) -> list[GeneratedResponse]:
    """Answer every prompt, in the order given.

    Args:
        model: a language model over the vocabulary, in eval mode.
        vocabulary: the model's.
        prompts: at least one token each.
        config: length limit, batch size and how tokens are chosen.
        title: stands before the progress bar on stderr (drawn on a terminal only); None: no bar.

    Raises:
        InputError: if a prompt and its response would not fit the model.
    """
    check_lengths(model, prompts, config)
    responses: dict[int, GeneratedResponse] = {}
    with progress_bar(hidden=title is None) as bar:
        task = bar.add_task(title or "", total=len(prompts))
        for chosen in cut_batches([len(it.given.tokens) for it in prompts], config.batch_size):
            batch = [prompts[index] for index in chosen]
            answers = generate_batch(model, vocabulary, batch, config)
            responses.update(zip(chosen, answers, strict=True))
            bar.advance(task, len(batch))
            if title is not None and not bar.console.is_terminal:
                # A log keeps lines, not a bar that redraws itself.
                bar.console.print(f"{title} {len(responses)}/{len(prompts)}", highlight=False)
    return [responses[index] for index in range(len(prompts))]


def cut_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices by batches of neighbours in length, longest first: little padding is computed."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate_batch(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prompts: Sequence[Prompt],
    config: GenerateConfig,
) -> list[GeneratedResponse]:
    """Answer the prompts of one batch, in the order given; lists have each prompt's own length."""
    given = [prompt.given for prompt in prompts]
    start = model.prompt_width(given)
    depth = list_depth(vocabulary.num_items, max(prompt.num_mentioned for prompt in prompts))
    names = [prompt.example_id for prompt in prompts]
    choice = config.decoding.choice(names, config.max_new_tokens)
    recorder = ChooseAndRecord(vocabulary, start, depth, choice)
    processors = LogitsProcessorList([SuppressSpecialTokens(vocabulary), recorder])
    with torch.inference_mode():
        output_BL = model.generate(
            given, vocabulary, max_new_tokens=config.max_new_tokens, processors=processors
        )
    rows, rankings = output_BL[:, start:].tolist(), recorder.rankings()
    return [
        _response(prompt, vocabulary, row, tokens, recorder, rankings[row])
        for row, (prompt, tokens) in enumerate(zip(prompts, rows, strict=True))
    ]


def _response(
    prompt: Prompt,
    vocabulary: Vocabulary,
    row: int,
    tokens: list[int],
    recorder: ChooseAndRecord,
    ranking: np.ndarray,
) -> GeneratedResponse:
    is_ended = vocabulary.eos_id in tokens
    if is_ended:
        tokens = tokens[: tokens.index(vocabulary.eos_id)]
    depth = list_depth(vocabulary.num_items, prompt.num_mentioned)
    slots = [
        ItemSlot(token_id - vocabulary.first_item_id, recorder.slot_items(row, step)[:depth])
        for step, token_id in enumerate(tokens)
        if vocabulary.is_item(token_id)
    ]
    return GeneratedResponse(
        example_id=prompt.example_id,
        token_ids=tuple(tokens),
        is_ended=is_ended,
        item_slots=tuple(slots),
        ranking=ranking[:depth],
    )


def check_lengths(model: LanguageModel, prompts: Sequence[Prompt], config: GenerateConfig) -> None:
    """Raise InputError if a prompt and its response would not fit the model."""
    room = model.limits.max_tokens - config.max_new_tokens
    for prompt in prompts:
        if not 1 <= len(prompt.given.tokens) <= room:
            raise InputError(
                f"the prompt of {prompt.example_id} must have 1 to {room} tokens, got "
                f"{len(prompt.given.tokens)}. Prepare the data with a smaller --max-context."
            )
