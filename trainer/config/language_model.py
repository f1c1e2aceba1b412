"""What a language model of a run is: an existing one, or one of given size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.common.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """A causal language model that exists, or a random one of given architecture and size."""

    pretrained: str | None = None
    """Name or folder of a Hugging Face model, e.g. microsoft/DialoGPT-small; None: random."""
    architecture: Literal["gpt2", "kgsf"] = "gpt2"
    """Of a random one: GPT-2, or KGSF's transformer (trainer/models/kg_transformer.py)."""
    num_layers: int = 3
    """Of kgsf's encoder, and of its decoder."""
    hidden_size: int = 256
    num_heads: int = 4
    max_positions: int = 512
    dropout: float = 0.0
    activation_checkpointing: bool = False
    """Keep the inputs of layers alone and compute the rest again in backward: a third more time,
    far less memory."""
    max_entities: int = 50
    """Entities of the context that kgsf attends to, the last ones."""
    max_words: int = 256
    """Words of the context that kgsf attends to, the last ones."""

    def __post_init__(self) -> None:
        for name, value in (
            ("num_layers", self.num_layers),
            ("hidden_size", self.hidden_size),
            ("num_heads", self.num_heads),
            ("max_positions", self.max_positions),
            ("max_entities", self.max_entities),
            ("max_words", self.max_words),
        ):
            if value < 1:
                raise InputError(f"student.{name} must be at least 1, got {value}.")
        if self.hidden_size % self.num_heads:
            raise InputError(
                "student.hidden_size must be divisible by student.num_heads, got "
                f"{self.hidden_size} and {self.num_heads}. Change one of them."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"student.dropout must be in [0, 1), got {self.dropout}.")
        if self.pretrained is not None and (self.dropout or self.architecture != "gpt2"):
            raise InputError(
                "student.dropout must be 0 and student.architecture gpt2 beside "
                f"student.pretrained, got {self.dropout} and {self.architecture}. A pretrained "
                "model has its own."
            )
