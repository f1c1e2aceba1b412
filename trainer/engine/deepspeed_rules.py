"""What a DeepSpeed config of the user may set; every other key is refused by name.

DeepSpeed ignores keys that it does not know, and reads many that a run of this trainer overrules or
cannot work with. So the keys that work are listed: a new release of DeepSpeed adds nothing here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.common.errors import InputError
from trainer.config.run import RunConfig

_OFFLOAD = "device nvme_path pin_memory buffer_count"
# Section -> its keys. A key of a section that is not named here takes any value.
SUPPORTED = {
    "": """
        train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps steps_per_print
        gradient_clipping fp16 bf16 zero_optimization zero_allow_untested_optimizer
        zero_force_ds_cpu_optimizer aio checkpoint communication_data_type prescale_gradients
        gradient_predivide_factor gradient_allreduce_op managed_gradient_accumulation
        disable_allgather disable_python_gc wall_clock_breakdown memory_breakdown flops_profiler
        comms_logger dump_state log_level
    """,
    "aio": "block_size queue_depth intra_op_parallelism single_submit overlap_events use_gds",
    "bf16": "enabled immediate_grad_update check_grad_overflow",
    "checkpoint": "tag_validation",
    "fp16": """
        enabled auto_cast loss_scale initial_scale_power loss_scale_window hysteresis
        consecutive_hysteresis min_loss_scale
    """,
    "zero_optimization": """
        stage reduce_bucket_size allgather_bucket_size sub_group_size overlap_comm reduce_scatter
        allgather_partitions contiguous_gradients round_robin_gradients compute_grad_norm
        use_multi_rank_bucket_allreduce load_from_fp32_weights ignore_unused_parameters
        memory_efficient_linear override_module_apply offload_optimizer offload_param
        stage3_prefetch_bucket_size stage3_param_persistence_threshold
        stage3_model_persistence_threshold stage3_max_live_parameters stage3_max_reuse_distance
        stage3_module_granularity_threshold stage3_allgather_sequential
        stage3_use_all_reduce_for_fetch_params stage3_gather_16bit_weights_on_model_save
        zero_hpz_partition_size zero_quantized_weights zero_quantized_gradients
        zero_quantized_nontrainable_weights
    """,
    "zero_optimization.offload_optimizer": f"""
        {_OFFLOAD} pipeline_read pipeline_write fast_init ratio cpuadam_cores_perc
    """,
    "zero_optimization.offload_param": f"{_OFFLOAD} buffer_size max_in_cpu",
}
# Section -> unsupported keys that files carry turned off; a misspelt key is in no list.
OFTEN_OFF = {
    "": """
        optimizer scheduler activation_checkpointing amp torch_autocast elasticity pipeline
        tensor_parallel hybrid_engine sparse_attention progressive_layer_drop curriculum_learning
        data_efficiency compression_training eigenvalue datastates_ckpt sparse_gradients compile
        graph_harvesting quantize_training nebula tensorboard wandb csv_monitor comet autotuning
        data_types monitor_config
    """,
    "checkpoint": "writer load_universal use_node_local_storage parallel_write",
    "zero_optimization": """
        mics_shard_size mics_hierarchical_params_gather zeropp_loco_param zenflow legacy_stage1
        cpu_offload cpu_offload_params cpu_offload_param cpu_offload_use_pin_memory
        elastic_checkpoint log_trace_cache_warnings enable_sanity_checks
    """,
}
DEVICES = ("none", "cpu", "nvme")
VALUES: dict[str, tuple[object, ...]] = {
    "gradient_allreduce_op": ("mean",),
    "managed_gradient_accumulation": (True,),
    # Clipping needs the norm, and optimiser.clip_norm is never off.
    "zero_optimization.compute_grad_norm": (True,),
    "zero_optimization.offload_optimizer.device": DEVICES,
    "zero_optimization.offload_param.device": DEVICES,
}
# Key of zero_optimization, values that need no stage, and the lowest stage of all others.
LOWEST_STAGES: tuple[tuple[str, tuple[object, ...], int], ...] = (
    ("offload_optimizer.device", ("none",), 1),
    ("offload_optimizer.device", ("none", "cpu"), 3),
    ("offload_optimizer.ratio", (1,), 3),
    ("offload_param.device", ("none",), 3),
    ("zero_quantized_weights", (False,), 3),
    ("zero_quantized_gradients", (False,), 3),
    ("zero_hpz_partition_size", (0, 1), 3),
)
REMEDIES = {
    "optimizer": "Set optimiser.* of the run's config instead.",
    "scheduler": "Set optimiser.schedule and optimiser.warmup_steps instead.",
    "activation_checkpointing": "Set student.activation_checkpointing=true instead.",
    "amp": "Set train.precision instead.",
    "torch_autocast": "Set train.precision instead.",
    "zero_optimization.cpu_offload": "Set zero_optimization.offload_optimizer instead.",
    "zero_optimization.mics_shard_size": "Set zero_optimization.zero_hpz_partition_size instead.",
}
OTHER_REMEDY = "Remove it: trainer/engine/deepspeed_rules.py lists what a run supports."


def supported_settings(path: Path, settings: dict[str, Any], section: str = "") -> dict[str, Any]:
    """The settings of a file without nulls, and without unsupported keys that are turned off.

    Many files carry such keys. DeepSpeed refuses names that it has given up whatever they say, and
    takes `"datastates_ckpt": {"enabled": false}` for turned on.

    Args:
        path: of the file, for the error.
        settings: of the whole file, or of one section.
        section: its dotted name.

    Raises:
        InputError: for any other unsupported key or value; names it and says what to do.
    """
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{section}.{name}" if section else name
        is_known = name in SUPPORTED[section].split()
        may_be_off = name in OFTEN_OFF.get(section, "").split()
        if value is None or (may_be_off and _is_off(value)):
            continue
        if not section and not is_known and _is_disabled(value):
            continue  # a section of another release
        if not is_known:
            remedy = REMEDIES.get(key, OTHER_REMEDY)
            raise InputError(f"{key} must be left out of {path}, got {value}. {remedy}")
        if key in SUPPORTED and not isinstance(value, dict):
            raise InputError(f"{key} must be a JSON object in {path}, got {value}.")
        if value not in VALUES.get(key, (value,)):
            rule = " or ".join(map(str, VALUES[key]))
            raise InputError(f"{key} must be {rule} in {path}, got {value}. Leave it out.")
        if key in ("bf16", "fp16") and _is_disabled(value):
            value = {"enabled": False}
        kept[name] = supported_settings(path, value, key) if key in SUPPORTED else value
    return kept


def _is_disabled(value: object) -> bool:
    return isinstance(value, dict) and value.get("enabled") is False


def _is_off(value: object) -> bool:
    if isinstance(value, dict):
        return _is_disabled(value) or not any(value.values())
    # -1 turns MiCS off.
    return not value or value in ("auto", -1)


def check_agreement(
    path: Path, settings: dict[str, Any], config: RunConfig, ours: dict[str, Any]
) -> None:
    """Refuse supported settings that contradict the run's; absent keys and "auto" agree.

    Raises:
        InputError: naming the key, both values and the setting to change.
    """
    for key, value in ours.items():
        got = settings.get(key, "auto")
        if got not in ("auto", value):
            raise InputError(
                f"{key} must be {value} in {path}, as the run's config and its number of ranks "
                f"have it, got {got}. Leave it out there, or change train.* or optimiser.*."
            )
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if stage != config.zero_stage:
        raise InputError(
            f"zero_stage must be the stage in {path}, got {config.zero_stage} and {stage} there. "
            f"Set zero_stage={stage}."
        )
    for name in ("bf16", "fp16"):
        got, wanted = settings.get(name, {}).get("enabled", "auto"), config.train.precision
        if got not in ("auto", name == wanted):
            raise InputError(
                f"{name}.enabled must be {str(name == wanted).lower()} in {path} with "
                f"train.precision {wanted}, got {str(got).lower()}. Change one of them."
            )


def check_stage(path: Path, zero: dict[str, Any], world_size: int) -> None:
    """Refuse supported settings of zero_optimization that need another stage or number of ranks.

    Raises:
        InputError: naming the key, its value and what to do.
    """
    stage = zero.get("stage", 0)
    for key, neutral, lowest in LOWEST_STAGES:
        value = _look_up(zero, key)
        if stage < lowest and value not in (None, "auto", *neutral):
            raise InputError(
                f"zero_optimization.stage must be at least {lowest} with {key} {value}, got "
                f"{stage} in {path}. Raise zero_stage and the file's stage, or leave {key} out."
            )
    for block in ("offload_optimizer", "offload_param"):
        if _look_up(zero, f"{block}.device") == "nvme" and not _look_up(zero, f"{block}.nvme_path"):
            raise InputError(
                f"zero_optimization.{block}.nvme_path must name a folder on a local disk with "
                f"device nvme, got none in {path}. Add it."
            )
    size = zero.get("zero_hpz_partition_size", 1)
    if size not in (0, 1) and not (isinstance(size, int) and world_size % size == 0):
        raise InputError(
            f"zero_optimization.zero_hpz_partition_size must divide the number of ranks, "
            f"{world_size}, got {size} in {path}. Set it to the number of ranks on a node."
        )


def _look_up(zero: dict[str, Any], key: str) -> object:
    block, _, name = key.rpartition(".")
    return (zero.get(block, {}) if block else zero).get(name)
