"""Memory of a student from its shape alone: parameters, and activations that autograd keeps.

Nothing is allocated: the model is built of fake tensors, which have a shape and no memory.

B examples, L input positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

# Private by name, and the only way to let a forward choose the kernels of a real device (attention
# on the meta device keeps other tensors than attention on a CPU does).
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedModel
from transformers.configuration_utils import PretrainedConfig

from trainer.common.errors import InputError, MissingError, first_line
from trainer.config.language_model import LanguageModelConfig
from trainer.models.causal_lm import enable_checkpointing, hidden_states, output_weight
from trainer.models.causal_reading import check_layers

# Layers, width and heads of DialoGPT, which are those of GPT-2.
SHAPES = {
    "small": LanguageModelConfig(num_layers=12, hidden_size=768, num_heads=12),
    "medium": LanguageModelConfig(num_layers=24, hidden_size=1024, num_heads=16),
    "large": LanguageModelConfig(num_layers=36, hidden_size=1280, num_heads=20),
}
DIALOGPT = "microsoft/DialoGPT-"
MAX_POSITIONS = 1024


@dataclass(frozen=True, kw_only=True)
class StudentSize:
    """Counts of one student; activations in bytes."""

    num_parameters: int
    output_weight: int
    """Elements of the output weight [V, D]."""
    vocab_size: int
    num_layers: int
    is_tied: bool
    """The output weight is the input embedding."""
    activations: int
    """What autograd keeps of a forward of one example."""
    activations_per_example: int
    """And of each example more."""
    layer_activations_per_example: int
    """What one layer keeps of an example without activation checkpointing."""


def student_config(student: str, vocab_size: int) -> PretrainedConfig:
    """The config of a size in words, of DialoGPT by name, or of a folder that holds one."""
    word = student.removeprefix(DIALOGPT)
    if word in SHAPES:
        shape = SHAPES[word]
        # Random students have no dropout by default; DialoGPT has GPT-2's.
        dropout = 0.0 if word == student else 0.1
        return GPT2Config(
            vocab_size=vocab_size,
            n_positions=MAX_POSITIONS,
            n_embd=shape.hidden_size,
            n_layer=shape.num_layers,
            n_head=shape.num_heads,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
        )
    if not (Path(student) / "config.json").is_file():
        raise MissingError(
            f"--student must be {', '.join(SHAPES)}, {DIALOGPT} with one of them, or a folder with "
            f"a config.json, got {student}. Download the model's config.json into a folder."
        )
    try:
        config = AutoConfig.from_pretrained(student, local_files_only=True)
    except Exception as error:
        # A file that is broken makes it raise whatever its code happens to stumble over.
        raise InputError(
            f"--student must be a folder whose config.json transformers reads, got {student}: "
            f"{first_line(error)[:200]} Fetch the file again."
        ) from error
    config.vocab_size = vocab_size
    return config


def student_size(
    config: PretrainedConfig,
    *,
    length: int,
    dtype: torch.dtype,
    checkpointing: bool = False,
    flash_attention: bool = False,
) -> StudentSize:
    """Count the parameters, and what autograd keeps of `length` positions.

    Args:
        checkpointing: layers keep their input alone.
        flash_attention: attention keeps no [L, L] for its dropout, as on a GPU; a CPU does.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if isinstance(positions, int) and length > positions:
        raise InputError(f"--length must be at most the student's {positions}, got {length}.")
    if flash_attention:
        for key in ("attn_pdrop", "attention_dropout"):
            if hasattr(config, key):
                setattr(config, key, 0.0)
    with FakeTensorMode():
        model = _built(config, dtype)
        torch.nn.Module.train(model)
        whole = [saved_bytes(model, (num, length)) for num in (1, 2)]
        kept = whole
        if checkpointing:
            enable_checkpointing(model)
            kept = [saved_bytes(model, (num, length)) for num in (1, 2)]
        weight = output_weight(model)
        return StudentSize(
            num_parameters=sum(it.numel() for it in model.parameters()),
            output_weight=weight.numel(),
            vocab_size=weight.shape[0],
            num_layers=config.num_hidden_layers,
            is_tied=model.get_input_embeddings().weight is weight,
            activations=kept[0],
            activations_per_example=kept[1] - kept[0],
            layer_activations_per_example=(whole[1] - whole[0]) // config.num_hidden_layers,
        )


def _built(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a config; InputError unless it is a causal one that computes."""
    try:
        check_layers(config)
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        hidden_states(model, torch.ones((1, 1), dtype=torch.int64))
    except Exception as error:
        # A config that is well formed and wrong makes it raise whatever it happens to stumble over.
        raise InputError(
            f"--student must be a folder whose config.json makes a causal language model, got "
            f"{config.name_or_path}: {type(error).__name__}: {first_line(error)[:200]}. Fetch the "
            "file again, or name another model."
        ) from error
    return model


def saved_bytes(model: PreTrainedModel, shape_BL: tuple[int, int]) -> int:
    """Bytes that autograd keeps for the backward pass of one forward, each storage once."""
    own = {it.untyped_storage()._cdata for it in (*model.parameters(), *model.buffers())}
    # The tensors stay referenced: a freed storage's number may be given to the next one.
    saved: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = hidden_states(model, torch.ones(shape_BL, dtype=torch.int64))
    del states
    return sum(it.untyped_storage().nbytes() for key, it in saved.items() if key not in own)
