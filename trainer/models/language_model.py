"""What a language model must be, whatever its architecture; how one is built and read.

B examples, P wanted positions, D hidden, I items, K of the items' vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import LogitsProcessorList

from trainer.common.errors import InputError, MissingError
from trainer.common.text_files import read_json_object
from trainer.config.language_model import LanguageModelConfig
from trainer.data.model_input import InputLimits, ModelInput, SequenceInput
from trainer.data.vocabulary import Vocabulary
from trainer.models.causal_lm import (
    CausalLanguageModel,
    build_causal_lm,
    causal_lm_bytes,
    load_causal_lm,
)
from trainer.models.frozen import CONFIG_NAME
from trainer.models.frozen_recommender import FrozenRecommender
from trainer.models.kg_language_model import build_kgsf, kgsf_bytes, load_kgsf
from trainer.models.placing import PLAIN, Placement
from trainer.models.room import check_fits


class LanguageModel(Protocol):
    """A module, and all that the rest of the code does with it."""

    @property
    def module(self) -> nn.Module:
        """The parameters, in an order that a seed repeats."""
        ...

    @property
    def head(self) -> nn.Linear:
        """The output projection without bias: logits are its product with `response_states`."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    @property
    def limits(self) -> InputLimits:
        """What the model takes of an example; tokens with the response."""
        ...

    @property
    def knowledge_size(self) -> tuple[int, int]:
        """Entities and words that may be given to the model; 0: it takes none."""
        ...

    def response_states(self, inputs: ModelInput) -> Tensor:
        """Last hidden states of the wanted positions, examples end to end, float [P, D].

        Nothing else in the batch changes them, but for float rounding.
        """
        ...

    def write(self, folder: Path, whole: dict[str, Tensor]) -> None:
        """Write config.json and model.safetensors from a whole state dict; OSError if it fails."""
        ...

    def prompt_width(self, prompts: Sequence[SequenceInput]) -> int:
        """Columns S before the response in what `generate` returns."""
        ...

    def generate(
        self,
        prompts: Sequence[SequenceInput],
        vocabulary: Vocabulary,
        *,
        max_new_tokens: int,
        processors: LogitsProcessorList,
    ) -> Tensor:
        """Answer prompts greedily: int64 [B, S + T], a response ended by pads."""
        ...


@dataclass(frozen=True)
class Architecture:
    """How models of one architecture are built (last argument: knowledge) and read."""

    build: Callable[
        [LanguageModelConfig, Vocabulary, Tensor | None, FrozenRecommender | None], LanguageModel
    ]
    load: Callable[[Path, Vocabulary, Placement], LanguageModel]
    num_bytes: Callable[[LanguageModelConfig, Vocabulary], float]
    """Of the weights of a random one."""


def _build_gpt2(
    config: LanguageModelConfig,
    vocabulary: Vocabulary,
    item_vectors_IK: Tensor | None,
    knowledge: FrozenRecommender | None,
) -> CausalLanguageModel:
    if knowledge is not None:
        raise InputError(
            "knowledge must be null unless student.architecture is kgsf, got a recommendation "
            "teacher. Leave it out."
        )
    return build_causal_lm(config, vocabulary, item_vectors_IK)


ARCHITECTURES = {
    "gpt2": Architecture(_build_gpt2, load_causal_lm, causal_lm_bytes),
    "kgsf": Architecture(build_kgsf, load_kgsf, kgsf_bytes),
}
"""By the name of `student.architecture`."""
OWN_TYPES = {"conkd-kg-transformer": "kgsf"}
"""`model_type` of a folder -> architecture; all other types are causal LMs of Hugging Face."""


def check_model_fits(config: LanguageModelConfig, vocabulary: Vocabulary) -> None:
    """Raise InputError if this machine's memory is less than the weights of a random model."""
    if config.pretrained is None:
        num_bytes = ARCHITECTURES[config.architecture].num_bytes(config, vocabulary)
        check_fits(
            f"a model of hidden_size {config.hidden_size}, num_layers {config.num_layers} and "
            f"max_positions {config.max_positions}",
            num_bytes,
        )


def build_language_model(
    config: LanguageModelConfig,
    vocabulary: Vocabulary,
    *,
    item_vectors_IK: Tensor | None = None,
    knowledge: FrozenRecommender | None = None,
) -> LanguageModel:
    """A model to be trained, drawn by torch's generator.

    Args:
        item_vectors_IK: float [I, K], start of the items' rows; None: random.
        knowledge: whose entities and words KGSF's transformer attends to; None: it does not.

    Raises:
        InputError: if knowledge is given to another architecture, or has no words, or if the model
            is larger than this machine's memory.
    """
    check_model_fits(config, vocabulary)
    build = ARCHITECTURES[config.architecture].build
    return build(config, vocabulary, item_vectors_IK, knowledge)


def load_language_model(
    folder: Path, vocabulary: Vocabulary, placement: Placement = PLAIN
) -> LanguageModel:
    """An exported model in eval mode, refused unless it has the vocabulary's rows.

    Raises:
        InputError: if the folder holds no such model, or it cannot compute as placed.
    """
    model = ARCHITECTURES[architecture_of(folder)].load(folder, vocabulary, placement)
    nn.Module.train(model.module, False)
    return model


def architecture_of(folder: Path) -> str:
    """Which of ARCHITECTURES a model's folder holds."""
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise MissingError(
            f"{folder} must be a model folder, got no {CONFIG_NAME} there. Export the model again."
        )
    model_type = read_json_object(path, remedy="Export the model again.").get("model_type")
    if not isinstance(model_type, str):
        raise InputError(
            f"{path} must give a model_type, got {model_type}. Export the model again."
        )
    return OWN_TYPES.get(model_type, "gpt2")


def write_language_model(
    folder: Path, model: LanguageModel, whole: dict[str, Tensor] | None = None
) -> None:
    """Write config.json and model.safetensors; a causal LM's folder is Hugging Face's.

    `whole` is the model's state dict where its own parameters are cut up among ranks.
    """
    model.write(folder, model.module.state_dict() if whole is None else whole)
