"""The settings of the fits of `python -m trainer.pretrain` that are no run of a student."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict

from trainer.config.checks import SETTINGS, require

MAX_FIT_SEED = (1 << 32) - 1
"""A fit multiplies it, and torch takes 64 bits."""
MAX_INPUT = 1 << 16
"""Ids of a context that a model may read."""
EdgeFilter = Literal["kgsf", "all"]
"""Which relations of the graph are kept (trainer/models/rgcn.py)."""


@dataclass(frozen=True, kw_only=True)
class RecommendationConfig:
    """What the recommendation teacher is fitted on, how large it is and how it is fitted."""

    __pydantic_config__: ClassVar[ConfigDict] = SETTINGS

    data: str
    """Prepared folder."""
    seed: int = 0
    hidden_size: int = 128
    num_bases: int = 8
    edge_filter: EdgeFilter = "kgsf"
    """Which of the graph's relations are used (trainer/models/rgcn.py)."""
    item_bias: bool = True
    """A bias per item in the score, as in KGSF's code; Eq. 4 has none."""
    mim_epochs: int = 3
    """Epochs of MIM alone before the fit."""
    mim_weight: float = 0.025
    """Weight of MIM in the loss, next to cross entropy."""
    max_entities: int = 256
    """Entities of a context that are used, the last ones."""
    max_words: int = 256
    """Words of a context that are used, the last ones."""
    epochs: int = 6
    """At most."""
    patience: int = 2
    """Epochs without a better valid loss after which the fit ends."""
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 1e-5
    """L2 in Adam, on the R-GCN's node tables alone; without it they overfit in the second epoch."""
    dropout: float = 0.0
    """On the user vector."""
    clip_norm: float = 0.1
    """Gradients are scaled down to this global norm (KGSF)."""

    def __post_init__(self) -> None:
        _check_fit(
            dataclasses.asdict(self),
            positive=("hidden_size", "num_bases"),
            not_negative=("mim_epochs", "mim_weight", "weight_decay"),
            inputs=("max_entities", "max_words"),
        )


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What the classifier is fitted on, how large it is and how it is fitted."""

    __pydantic_config__: ClassVar[ConfigDict] = SETTINGS

    data: str
    """Prepared folder."""
    seed: int = 0
    hidden_size: int = 300
    num_layers: int = 2
    num_heads: int = 2
    max_tokens: int = 256
    """Tokens of the context that are read, the last ones."""
    dropout: float = 0.1
    epochs: int = 4
    """At most."""
    patience: int = 1
    """Epochs without a better valid loss after which the fit ends."""
    batch_size: int = 64
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    """Steps over which the learning rate rises linearly from 0."""
    weight_decay: float = 0.01
    """AdamW."""
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        _check_fit(
            dataclasses.asdict(self),
            positive=("hidden_size", "num_layers", "num_heads"),
            not_negative=("weight_decay", "warmup_steps"),
            inputs=("max_tokens",),
        )
        divides = self.hidden_size % self.num_heads == 0
        rule = f"divisible by {self.num_heads} heads"
        require([("hidden_size", divides, rule, self.hidden_size)])


def _check_fit(
    values: Mapping[str, Any],
    *,
    positive: Sequence[str],
    not_negative: Sequence[str],
    inputs: Sequence[str],
) -> None:
    """Check the settings of a fit: those that both have, and by name those that one has."""
    positive = (*positive, "epochs", "patience", "batch_size", "learning_rate", "clip_norm")
    require((key, values[key] > 0, "above 0", values[key]) for key in (*positive, *inputs))
    require((key, values[key] <= MAX_INPUT, f"at most {MAX_INPUT}", values[key]) for key in inputs)
    require((key, values[key] >= 0, ">= 0", values[key]) for key in not_negative)
    seed, dropout = values["seed"], values["dropout"]
    require(
        [
            ("seed", 0 <= seed <= MAX_FIT_SEED, f"in [0, {MAX_FIT_SEED}]", seed),
            ("dropout", 0.0 <= dropout < 1.0, "in [0, 1)", dropout),
        ]
    )
