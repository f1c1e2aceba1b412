"""DeepSpeed's config of a run: a file of ours or of the user, completed from the run's config.

Needs no deepspeed, so that a mistake is reported before any rank starts to work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.common.errors import InputError
from trainer.common.text_files import read_json_object
from trainer.config.run import RunConfig
from trainer.engine.deepspeed_rules import check_agreement, check_stage, supported_settings

CONFIG_FOLDER = Path(__file__).resolve().parents[1] / "configs"


def deepspeed_config(config: RunConfig, world_size: int) -> dict[str, Any]:
    """The config for `deepspeed.initialize`.

    Raises:
        FileNotFoundError, ValueError: if there is no such file, if the batch cannot be shared by so
            many ranks, or if the file contradicts the run's config or sets what is unsupported.
    """
    path = Path(config.deepspeed or CONFIG_FOLDER / f"zero{config.zero_stage}.json")
    ours = _batch_sizes(config, world_size)
    ours["gradient_clipping"] = config.optimiser.clip_norm
    settings = supported_settings(path, _read_settings(path))
    check_agreement(path, settings, config, ours)
    check_stage(path, settings.get("zero_optimization", {}), world_size)
    return {
        **settings,
        **ours,
        "steps_per_print": 1 << 40,
        **_precision(settings, config),
        "zero_optimization": _zero_optimization(settings, config),
    }


def offloads_optimiser(settings: dict[str, Any]) -> bool:
    """Whether `deepspeed_config` put the optimiser's states outside the device."""
    block = settings["zero_optimization"].get("offload_optimizer") or {}
    return block.get("device", "none") != "none"


def _batch_sizes(config: RunConfig, world_size: int) -> dict[str, Any]:
    batch_size = config.train.batch_size
    if batch_size % world_size:
        raise InputError(
            "train.batch_size must be divisible by the number of ranks, got "
            f"{batch_size} and {world_size}. Change one of them."
        )
    share = batch_size // world_size
    micro = config.train.micro_batch_size or share
    if share % micro:
        raise InputError(
            f"train.micro_batch_size must divide a rank's share of {share} examples, got {micro}. "
            "Change it, train.batch_size or the number of ranks."
        )
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": share // micro,
    }


def _read_settings(path: Path) -> dict[str, Any]:
    return read_json_object(path, remedy="Name a DeepSpeed config file.")


def _precision(settings: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """The blocks that turn train.precision on, with the file's details of it."""
    name = config.train.precision
    if name == "float32":
        return {each: {"enabled": False} for each in ("bf16", "fp16")}
    other = "fp16" if name == "bf16" else "bf16"
    # DeepSpeed, too, takes "auto" for left out.
    details = {key: value for key, value in settings.get(name, {}).items() if value != "auto"}
    return {name: {**details, "enabled": True}, other: {"enabled": False}}


def _zero_optimization(settings: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    # Pinned memory is what makes copies to a GPU asynchronous; a CPU's DeepSpeed ignores it.
    cpu = {"device": "cpu", "pin_memory": True}
    # A file may leave the block or the stage out; where it has one, it is the run's.
    block = {**settings.get("zero_optimization", {}), "stage": config.zero_stage}
    if config.offload != "none":
        block = {**block, "offload_optimizer": cpu}
    if config.offload == "all":
        block = {**block, "offload_param": cpu}
    return block
