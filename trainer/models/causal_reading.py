"""Causal language models of Hugging Face, read from a folder or from the hub and its cache.

Whatever is wrong with the files is one line, and no weight is drawn at random unless it is meant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
)
from transformers.configuration_utils import PretrainedConfig
from transformers.utils.logging import CRITICAL, get_verbosity, set_verbosity

from trainer.common.errors import InputError, MissingError, first_line
from trainer.models.frozen import CONFIG_NAME, REMEDY
from trainer.models.student_card import STUDENT_CARD_NAME, check_student_files, read_student_card

# A config that says more would be built for ever.
MAX_LAYERS = 10_000
PRETRAINED_REMEDY = "Fetch the model again, or name another one."


def check_pretrained(name: str, *, check_weights: bool) -> None:
    """Refuse a student's start that is no causal language model, before any work.

    Args:
        check_weights: compare the digests of an exported student's files, too.

    Raises:
        MissingError: if there is no such folder, nor such a model on the hub.
        InputError: if its config or its files are not those of a causal language model.
    """
    _pretrained_config(name)
    if check_weights:
        _check_exported(name)


def read_pretrained(name: str) -> PreTrainedModel:
    """A folder, or a model of the hub or its cache; safetensors or PyTorch's own files.

    Raises as `check_pretrained`, or InputError if it has other weights than its config says. A
    model of the hub may have more: its rows of what is tied, and masks of before.
    """
    check_pretrained(name, check_weights=True)
    what = f"student.pretrained={name}"
    model, info = _read(name, what, PRETRAINED_REMEDY)
    _check_names(info, ("missing_keys", "mismatched_keys"), what, PRETRAINED_REMEDY)
    return model


def read_exported(folder: Path) -> PreTrainedModel:
    """The model of a folder, whose weights must be exactly those of its config.

    Raises:
        InputError: if transformers cannot read the folder, or would draw some of the weights.
    """
    with _broken_is_one_line(f"{folder}", REMEDY):
        check_layers(AutoConfig.from_pretrained(folder))
    model, info = _read(folder, f"{folder}", REMEDY, use_safetensors=True, local_files_only=True)
    names = ("missing_keys", "unexpected_keys", "mismatched_keys")
    _check_names(info, names, f"{folder}", REMEDY)
    return model


def _pretrained_config(name: str) -> PretrainedConfig:
    try:
        with _broken_is_one_line(f"student.pretrained={name}", PRETRAINED_REMEDY):
            config = AutoConfig.from_pretrained(name)
            check_layers(config)
    except InputError as error:
        if (Path(name) / CONFIG_NAME).is_file():
            raise
        raise MissingError(
            f"student.pretrained must be the folder of a causal language model, or its name on the "
            f"hub, got {name}: {first_line(error.__cause__ or error)} Check the name; without a "
            "network, name the folder of a copy."
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise InputError(
            f"student.pretrained={name} must be a causal language model, got one of type "
            f"{config.model_type}. {PRETRAINED_REMEDY}"
        )
    return config


def _check_exported(name: str) -> None:
    folder = Path(name)
    if (folder / STUDENT_CARD_NAME).is_file():
        check_student_files(folder, read_student_card(folder))


def check_layers(config: PretrainedConfig) -> None:
    """Raise ValueError for a config whose model has no layers, or would be built for ever."""
    layers = getattr(config, "num_hidden_layers", 1)
    if isinstance(layers, int) and not 1 <= layers <= MAX_LAYERS:
        raise ValueError(f"{layers} layers")


def _read(
    name: str | Path,
    what: str,
    remedy: str,
    *,
    use_safetensors: bool | None = None,
    local_files_only: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """The model, and what transformers says of its weights' names."""
    with _broken_is_one_line(what, remedy):
        # Any: with output_loading_info it is a pair, which its types do not say.
        read: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=torch.float32,
            use_safetensors=use_safetensors,
            local_files_only=local_files_only,
            output_loading_info=True,
        )
        model, info = read
    return model, info


@contextmanager
def _broken_is_one_line(what: str, remedy: str) -> Iterator[None]:
    """Raise InputError for anything that transformers raises."""
    verbosity = get_verbosity()
    # Its report of what does not fit has a line for each tensor; ours names three.
    set_verbosity(CRITICAL)
    try:
        yield
    except Exception as error:
        # A folder that is broken makes it raise whatever its code happens to stumble over.
        raise InputError(
            f"{what} must hold a causal language model that transformers reads, got "
            f"{type(error).__name__}: {first_line(error)[:200]}. {remedy}"
        ) from error
    finally:
        set_verbosity(verbosity)


def _check_names(info: Any, problems: Sequence[str], what: str, remedy: str) -> None:
    for problem in problems:
        names = sorted(map(str, info[problem]))
        if names:
            raise InputError(
                f"{what} must hold {'exactly ' * ('unexpected_keys' in problems)}the weights of "
                f"its config.json, got {problem.replace('_', ' ')} {', '.join(names[:3])}. {remedy}"
            )
