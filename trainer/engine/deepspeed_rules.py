"""What a DeepSpeed config of the user may not say: what would be overruled, ignored, or fail late.

DeepSpeed reads what it knows and passes over the rest, so a file written for another program may
ask for much that no run here does; each such thing is refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.config.run import RunConfig

# Block -> what to do instead. None of them would do what its reader expects.
UNSUPPORTED_BLOCKS = {
    "optimizer": "Say it with optimiser.* of the run's config.",
    "scheduler": "Say it with optimiser.schedule and optimiser.warmup_steps.",
    "activation_checkpointing": "Set student.activation_checkpointing=true instead.",
    "amp": "Set train.precision instead.",
    "torch_autocast": "Set train.precision instead.",
    "elasticity": "Batch sizes are those of the run's config at any number of ranks.",
    "pipeline": "A student is not cut into stages; take ZeRO.",
    "tensor_parallel": "A student's layers are not cut; take ZeRO.",
    "hybrid_engine": "It is for models that generate while they train.",
    "sparse_attention": "A student has its own attention.",
    "progressive_layer_drop": "A student runs all of its layers.",
    "curriculum_learning": "The order of data is the run's own (docs/training.md).",
    "data_efficiency": "The order of data is the run's own (docs/training.md).",
    "compression_training": "Compress the exported student.",
    "eigenvalue": "It serves compression_training alone.",
    "datastates_ckpt": "Checkpoints must be written when the step goes on.",
    "sparse_gradients": "The gradient of an output weight is dense.",
    "compile": "A student is not compiled.",
    "graph_harvesting": "DeepSpeed has it no more.",
    "quantize_training": "DeepSpeed has it no more.",
    "nebula": "Checkpoints must be written when the step goes on.",
}
# Of zero_optimization: parts of DeepSpeed that bring their own optimiser or their own model init.
UNSUPPORTED_ZERO = {
    "mics_shard_size": "DeepSpeed has MiCS no more; use zero_hpz_partition_size.",
    "mics_hierarchical_params_gather": "DeepSpeed has MiCS no more.",
    "zeropp_loco_param": "DeepSpeed has it no more.",
    "zenflow": "It brings its own optimiser; use offload_optimizer alone.",
    "legacy_stage1": "DeepSpeed has no such stage any more.",
    "cpu_offload": "Use offload=optimizer, or offload_optimizer in the file.",
    "cpu_offload_params": "Use offload=all, or offload_param in the file.",
    "cpu_offload_param": "Use offload=all, or offload_param in the file.",
}
# Of checkpoint: other ways to write, which the list of a whole checkpoint's files knows nothing of.
UNSUPPORTED_CHECKPOINT = {
    "writer": "Checkpoints must be written when the step goes on.",
    "load_universal": "A run finds out by itself whether it needs one.",
    "use_node_local_storage": "All nodes share the run's output folder.",
}
# Zero++ and offloaded parameters do their work where parameters are partitioned.
STAGE_3_ONLY = ("zero_quantized_weights", "zero_quantized_gradients")


def drop_disabled_sections(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a file without nulls, and without what is unsupported but turned off.

    Many files carry such blocks. DeepSpeed does not read them as meant: it refuses names that it
    has given up whatever they say, and `"datastates_ckpt": {"enabled": false}` turns it on.
    """
    kept = {key: value for key, value in settings.items() if value is not None}
    parts = {"zero_optimization": UNSUPPORTED_ZERO, "checkpoint": UNSUPPORTED_CHECKPOINT}
    for name, unsupported in parts.items():
        if isinstance(block := kept.get(name), dict):
            kept[name] = _without(block, unsupported)
    return _without(kept, UNSUPPORTED_BLOCKS)


def _without(block: dict[str, Any], unsupported: dict[str, str]) -> dict[str, Any]:
    return {k: value for k, value in block.items() if k not in unsupported or not _is_off(value)}


def _is_off(value: object) -> bool:
    if isinstance(value, dict):
        return value.get("enabled") is False or not any(value.values())
    # MiCS said -1.
    return not value or value == -1


def check_agreement(
    path: Path, settings: dict[str, Any], config: RunConfig, ours: dict[str, Any]
) -> None:
    """Refuse a file that says other than the run's config; left out and "auto" say nothing.

    Raises:
        ValueError: naming the key, both values and the setting to change.
    """
    for key, value in ours.items():
        said = settings.get(key, "auto")
        if said not in ("auto", value):
            raise ValueError(
                f"{key} must be {value} in {path}, as the run's config and its number of ranks "
                f"have it, got {said}. Leave it out there, or change train.* or optimiser.*."
            )
    stage = _block(path, settings, "zero_optimization").get("stage", 0)
    if stage != config.zero_stage:
        raise ValueError(
            f"zero_stage must be the stage in {path}, got {config.zero_stage} and {stage} there. "
            f"Set zero_stage={stage}."
        )
    for name in ("bf16", "fp16"):
        said, wanted = _block(path, settings, name).get("enabled", "auto"), config.train.precision
        if said not in ("auto", name == wanted):
            raise ValueError(
                f"{name}.enabled must be {str(name == wanted).lower()} in {path} with "
                f"train.precision {wanted}, got {str(said).lower()}. Change one of them."
            )


def check_supported(path: Path, settings: dict[str, Any], world_size: int) -> None:
    """Refuse what cannot work with this trainer, at this stage, or on so many ranks.

    `settings` are `drop_disabled_sections`.
    """
    _refuse(path, "", settings, UNSUPPORTED_BLOCKS)
    if settings.get("gradient_allreduce_op", "mean") != "mean":
        raise _wrong(path, "gradient_allreduce_op", "mean", settings["gradient_allreduce_op"])
    if settings.get("managed_gradient_accumulation", True) is not True:
        raise _wrong(path, "managed_gradient_accumulation", "true", "false")
    zero = _block(path, settings, "zero_optimization")
    _refuse(path, "zero_optimization.", zero, UNSUPPORTED_ZERO)
    _refuse(path, "checkpoint.", _block(path, settings, "checkpoint"), UNSUPPORTED_CHECKPOINT)
    if zero.get("compute_grad_norm", True) is not True:
        # The norm is what clipping needs, and optimiser.clip_norm is never off.
        raise _wrong(path, "zero_optimization.compute_grad_norm", "true", "false")
    _check_offload(path, zero)
    _check_partition(path, zero, world_size)


def _refuse(path: Path, prefix: str, block: dict[str, Any], unsupported: dict[str, str]) -> None:
    for key, remedy in unsupported.items():
        if key in block:
            got = block[key]
            raise ValueError(f"{prefix}{key} must be left out of {path}, got {got}. {remedy}")


def _check_offload(path: Path, zero: dict[str, Any]) -> None:
    stage = zero.get("stage", 0)
    for name, lowest in (("offload_optimizer", 1), ("offload_param", 3)):
        block = _block(path, zero, name)
        device = block.get("device", "none")
        key = f"zero_optimization.{name}"
        if device not in ("none", "cpu", "nvme"):
            raise _wrong(path, f"{key}.device", "none, cpu or nvme", device)
        if device != "none" and stage < lowest:
            raise _needs_stage(path, key, lowest, stage)
        if device == "nvme" and stage < 3:
            raise _needs_stage(path, f"{key}.device nvme", 3, stage)
        if device == "nvme" and not block.get("nvme_path"):
            raise ValueError(
                f"{key}.nvme_path must name a folder on a local disk with device nvme, got none in "
                f"{path}. Add it."
            )
    optimizer = _block(path, zero, "offload_optimizer")
    if optimizer.get("ratio", 1.0) != 1.0 and stage < 3:
        raise _needs_stage(path, "zero_optimization.offload_optimizer.ratio", 3, stage)
    if optimizer.get("super_offload"):
        raise _wrong(path, "zero_optimization.offload_optimizer.super_offload", "false", "true")


def _check_partition(path: Path, zero: dict[str, Any], world_size: int) -> None:
    stage = zero.get("stage", 0)
    for name in STAGE_3_ONLY:
        if zero.get(name) and stage < 3:
            raise _needs_stage(path, f"zero_optimization.{name}", 3, stage)
    size = zero.get("zero_hpz_partition_size", 1)
    if not isinstance(size, int):
        raise _wrong(path, "zero_optimization.zero_hpz_partition_size", "a whole number", size)
    if size > 1 and stage < 3:
        raise _needs_stage(path, "zero_optimization.zero_hpz_partition_size", 3, stage)
    if size > 1 and world_size % size:
        raise ValueError(
            f"zero_optimization.zero_hpz_partition_size must divide the number of ranks, "
            f"{world_size}, got {size} in {path}. Set it to the number of ranks on a node."
        )


def _block(path: Path, settings: dict[str, Any], name: str) -> dict[str, Any]:
    block = settings.get(name)
    if block is None:
        return {}
    if not isinstance(block, dict):
        raise ValueError(f"{name} must be a JSON object in {path}, got {block}.")
    return block


def _wrong(path: Path, key: str, rule: str, got: object) -> ValueError:
    return ValueError(f"{key} must be {rule} in {path}, got {got}. Leave it out.")


def _needs_stage(path: Path, key: str, lowest: int, stage: int) -> ValueError:
    stages = "3" if lowest == 3 else f"{lowest} to 3"
    return ValueError(
        f"zero_optimization.stage must be {stages} with {key}, got {stage} in {path}. "
        "Raise zero_stage and the file's stage, or leave it out."
    )
