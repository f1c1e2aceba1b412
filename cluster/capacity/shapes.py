"""Sizes of GPT-2's family by name, without torch; a test holds them to the models themselves.

V vocabulary, P positions, D hidden, N layers.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.common.errors import InputError

DIALOGPT = "DialoGPT-"
# 50,257 tokens of DialoGPT, ReDial's 6,924 films, [REC], [GEN] and <pad>.
VOCABULARY = 57_184
MAX_POSITIONS = 1_024


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One causal language model whose output weight is its embedding."""

    name: str
    num_layers: int
    hidden_size: int
    vocab_size: int = VOCABULARY
    max_positions: int = MAX_POSITIONS

    @property
    def layer_parameters(self) -> int:
        """Of all layers and the last norm."""
        hidden = self.hidden_size
        return self.num_layers * (12 * hidden**2 + 13 * hidden) + 2 * hidden

    @property
    def num_parameters(self) -> int:
        """All of it: layers, positions and the embedding."""
        return self.layer_parameters + self.hidden_size * (self.max_positions + self.vocab_size)


SHAPES = {
    "small": Shape(name="DialoGPT-small", num_layers=12, hidden_size=768),
    "medium": Shape(name="DialoGPT-medium", num_layers=24, hidden_size=1_024),
    "large": Shape(name="DialoGPT-large", num_layers=36, hidden_size=1_280),
    # trainer/configs/redial-mini.yaml, and the dialogue teacher that is fitted for it.
    "redial-mini": Shape(name="redial-mini", num_layers=3, hidden_size=128, max_positions=320),
}


def shape_of(option: str, name: str) -> Shape:
    """The shape of a name: small, DialoGPT-small or microsoft/DialoGPT-small, and so on.

    Raises:
        InputError: if there is no such name; `option` is where it was given.
    """
    word = name.removeprefix("microsoft/").removeprefix(DIALOGPT)
    if word not in SHAPES:
        known = ", ".join(shape.name for shape in SHAPES.values())
        raise InputError(f"{option} must be one of {known}, got {name}. Name one of them.")
    return SHAPES[word]
