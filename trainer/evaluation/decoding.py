"""How the next token of a response is chosen, and what is noted of the films at each step.

Everything here is one logits processor for the greedy loop of a language model: a chosen token that
is not the likeliest is the only one that the processor leaves possible.

B prompts of a batch, T response positions, V vocabulary, I items.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor

from trainer.common.errors import InputError
from trainer.data.vocabulary import Vocabulary
from trainer.evaluation.options import METHODS, Method

Choice = Callable[[Tensor, int], Tensor]
"""From scores [B, V] and the step to the chosen tokens, int64 [B]."""
WIDTHS = (256, 8192)
"""Likeliest tokens that are sorted before all are."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen."""

    method: Method = "greedy"
    top_p: float = 0.9
    """Of nucleus: the likeliest tokens that have this mass together are drawn from."""
    seed: int = 0
    """Of nucleus: with a message's ids it decides all that is drawn for it."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(
                f"decoding must be one of {', '.join(METHODS)}, got {self.method}. Change it."
            )
        if not 0.0 < self.top_p <= 1.0:
            raise InputError(f"top_p must be in (0, 1], got {self.top_p}. Change it.")

    @property
    def text(self) -> str:
        """As a card has it, all that counts named."""
        if self.method == "greedy":
            return "greedy"
        return f"nucleus p {self.top_p} seed {self.seed}"

    def choice(self, example_ids: Sequence[str], num_steps: int) -> Choice:
        """The choice for a batch: it depends on a response's id, not on its place in the batch."""
        if self.method == "greedy":
            return lambda scores_BV, _: scores_BV.argmax(-1)
        uniforms_BT = torch.from_numpy(
            np.stack([_uniforms(self.seed, name, num_steps) for name in example_ids])
        )
        return lambda scores_BV, step: nucleus_tokens(scores_BV, uniforms_BT[:, step], self.top_p)


def nucleus_tokens(scores_BV: Tensor, uniforms_B: Tensor, top_p: float) -> Tensor:
    """One token a row, int64 [B], from the likeliest ones that have `top_p` of the mass together.

    Args:
        scores_BV: logits, float [B, V]; -inf is no choice.
        uniforms_B: numbers of [0, 1), float64 [B]: at u the token is taken whose share of the
            nucleus, the likeliest token first, holds u.
        top_p: of (0, 1].

    Source: Holtzman et al., ICLR 2020, section 3.1.
    """
    log_total_B1 = scores_BV.logsumexp(-1, keepdim=True)
    for width in (*WIDTHS, scores_BV.shape[1]):
        top = scores_BV.topk(min(width, scores_BV.shape[1]))
        masses_BK = (top.values - log_total_B1).double().exp().cumsum(-1)
        if bool((masses_BK[:, -1] >= top_p).all()):
            break
    # Rounding may leave all tokens short of 1; a token without any mass is never the last.
    wanted_B1 = masses_BK[:, -1:].clamp(max=top_p)
    last_B1 = (masses_BK < wanted_B1).sum(-1, keepdim=True)
    drawn_B1 = uniforms_B.to(masses_BK)[:, None] * masses_BK.gather(1, last_B1)
    place_B1 = (masses_BK <= drawn_B1).sum(-1, keepdim=True).minimum(last_B1)
    return top.indices.gather(1, place_B1).squeeze(1)


def _uniforms(seed: int, example_id: str, num_steps: int) -> np.ndarray:
    digest = hashlib.sha256(example_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")]).random(num_steps)


class SuppressSpecialTokens(LogitsProcessor):
    """Makes [REC], [GEN] and <pad>, the last rows of the vocabulary, impossible."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._first_special_id = vocabulary.rec_id

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] with -inf there, changed in place: `generate` passes its own copy."""
        scores[:, self._first_special_id :] = -torch.inf
        return scores


class ChooseAndRecord(LogitsProcessor):
    """Chooses the token of every step, and keeps the order of the films where it counts.

    It must be the last processor, and serves one call of `generate`. Steps of a response are those
    up to its end of text.
    """

    def __init__(
        self, vocabulary: Vocabulary, prompt_length: int, depth: int, choice: Choice
    ) -> None:
        self._items = slice(vocabulary.first_item_id, vocabulary.rec_id)
        self._eos_id = vocabulary.eos_id
        self._prompt_length = prompt_length
        self._depth = depth
        self._choice = choice
        self._finished_B = torch.zeros(0, dtype=torch.bool)
        self._top_items: dict[tuple[int, int], np.ndarray] = {}
        self._mass_B = torch.zeros(0)
        self._scores_BI = torch.zeros(0)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] in which the chosen token is the likeliest."""
        step = input_ids.shape[1] - self._prompt_length
        if step == 0:
            # A prompt may end in end of text; only a generated one ends the response.
            self._finished_B = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        else:
            self._finished_B |= input_ids[:, -1] == self._eos_id
        chosen_B = self._choice(scores, step)
        self._note_slots(scores, chosen_B, step)
        self._note_heaviest(scores, step)
        chosen_B1 = chosen_B[:, None]
        return torch.full_like(scores, -torch.inf).scatter_(
            1, chosen_B1, scores.gather(1, chosen_B1)
        )

    def slot_items(self, row: int, step: int) -> np.ndarray:
        """The best items, best first, int32, at a step of a row whose token is an item."""
        return self._top_items[row, step]

    def rankings(self) -> np.ndarray:
        """The best items at each row's step with the most mass on items, int32 [B, depth]."""
        return self._best(self._scores_BI)

    def _note_slots(self, scores_BV: Tensor, chosen_B: Tensor, step: int) -> None:
        names_item_B = (chosen_B >= self._items.start) & (chosen_B < self._items.stop)
        rows = (names_item_B & ~self._finished_B).nonzero().squeeze(-1)
        if len(rows):
            top = self._best(scores_BV[rows, self._items])
            for row, items in zip(rows.tolist(), top, strict=True):
                self._top_items[row, step] = items

    def _note_heaviest(self, scores_BV: Tensor, step: int) -> None:
        """Keep the items' scores of the rows whose items never had as much mass before."""
        items_BI = scores_BV[:, self._items]
        # The logit of the mass: near 1 the mass itself would round steps to ties.
        mass_B = items_BI.logsumexp(-1) - scores_BV[:, : self._items.start].logsumexp(-1)
        if step == 0:
            self._mass_B, self._scores_BI = mass_B, items_BI.clone()
            return
        is_heavier_B = (mass_B > self._mass_B) & ~self._finished_B
        self._mass_B = torch.where(is_heavier_B, mass_B, self._mass_B)
        self._scores_BI[is_heavier_B] = items_BI[is_heavier_B]

    def _best(self, scores_RI: Tensor) -> np.ndarray:
        return scores_RI.topk(self._depth).indices.to("cpu", torch.int32).numpy()
