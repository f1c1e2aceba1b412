"""DeepSpeed's config: what the run's config puts into it, and which files of a user are refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from deepspeed.runtime.config import DeepSpeedConfig
from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

from trainer.config.run import RunConfig, TrainConfig
from trainer.engine.deepspeed_config import deepspeed_config, offloads_optimiser
from trainer.engine.deepspeed_rules import SUPPORTED
from trainer.engine.loss_scale import MAX_SKIPS_IN_A_ROW, SkippedSteps

Stage = Literal[0, 1, 2, 3]
STAGES: tuple[Stage, ...] = (0, 1, 2, 3)


def run_config(file: Path | None = None, stage: Stage = 1) -> RunConfig:
    train = TrainConfig(batch_size=32, micro_batch_size=4)
    return RunConfig(
        data="", output="", zero_stage=stage, deepspeed=file and str(file), train=train
    )


def with_file(folder: Path, settings: object, stage: Stage = 1) -> RunConfig:
    path = folder / "deepspeed.json"
    path.write_text(json.dumps(settings))
    return run_config(path, stage)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_the_runs_batch_sizes_and_clipping(stage: Stage) -> None:
    settings = deepspeed_config(run_config(stage=stage), 2)
    assert settings["zero_optimization"]["stage"] == stage
    assert settings["train_batch_size"] == 32
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["gradient_accumulation_steps"] == 4
    assert settings["gradient_clipping"] == 1.0
    assert not settings["fp16"]["enabled"]
    assert not settings["bf16"]["enabled"]
    assert not offloads_optimiser(settings)


@pytest.mark.parametrize(
    ("precision", "other", "detail"),
    [
        ("bf16", "fp16", {"immediate_grad_update": True}),
        ("fp16", "bf16", {"loss_scale_window": 500}),
    ],
)
def test_precision_turns_on_one_block_and_keeps_the_files_details_of_it(
    precision: Literal["bf16", "fp16"], other: str, detail: dict[str, object], tmp_path: Path
) -> None:
    path = tmp_path / "deepspeed.json"
    block = {"enabled": "auto", **detail}
    path.write_text(json.dumps({precision: block, "zero_optimization": {"stage": 1}}))
    train = TrainConfig(precision=precision)
    config = RunConfig(data="", output="", deepspeed=str(path), train=train)
    settings = deepspeed_config(config, 1)
    assert settings[precision] == {"enabled": True, **detail}
    assert settings[other] == {"enabled": False}


def test_offload_puts_the_optimiser_or_everything_on_the_host() -> None:
    half = RunConfig(data="", output="", zero_stage=2, offload="optimizer")
    cpu = {"device": "cpu", "pin_memory": True}
    settings = deepspeed_config(half, 1)
    assert settings["zero_optimization"]["offload_optimizer"] == cpu
    assert "offload_param" not in settings["zero_optimization"]
    assert offloads_optimiser(settings)
    whole = RunConfig(data="", output="", zero_stage=3, offload="all")
    zero = deepspeed_config(whole, 1)["zero_optimization"]
    assert (zero["stage"], zero["offload_optimizer"], zero["offload_param"]) == (3, cpu, cpu)


@pytest.mark.parametrize(
    ("stage", "offload", "message"),
    [
        (0, "optimizer", "zero_stage must be at least 1 with offload optimizer, got 0"),
        (2, "all", "zero_stage must be at least 3 with offload all, got 2"),
    ],
)
def test_offload_below_its_stage_is_refused(
    stage: Stage, offload: Literal["optimizer", "all"], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RunConfig(data="", output="", zero_stage=stage, offload=offload)


def test_offload_beside_a_file_is_refused() -> None:
    with pytest.raises(ValueError, match="offload must be none beside deepspeed, got optimizer"):
        RunConfig(data="", output="", offload="optimizer", deepspeed="mine.json")


def test_file_that_says_the_same_or_auto_is_taken_as_it_is(tmp_path: Path) -> None:
    said = {
        "train_batch_size": 32,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_clipping": 1.0,
        "fp16": {"enabled": False},
        "activation_checkpointing": {},
        "flops_profiler": {"enabled": False},
        "zero_optimization": {"stage": 3, "stage3_prefetch_bucket_size": 1000},
    }
    settings = deepspeed_config(with_file(tmp_path, said, stage=3), 2)
    assert settings["zero_optimization"] == said["zero_optimization"]
    assert settings["train_micro_batch_size_per_gpu"] == 4
    assert settings["flops_profiler"] == {"enabled": False}


@pytest.mark.parametrize("block", [{}, {"zero_optimization": None}, {"zero_optimization": {}}])
def test_file_without_a_stage_has_the_runs(block: dict[str, object], tmp_path: Path) -> None:
    assert deepspeed_config(with_file(tmp_path, block, stage=0), 2)["zero_optimization"] == {
        "stage": 0
    }


UNSUPPORTED = (
    *("optimizer", "scheduler", "activation_checkpointing", "amp", "torch_autocast", "elasticity"),
    *("pipeline", "tensor_parallel", "sparse_gradients", "datastates_ckpt", "graph_harvesting"),
    *("nebula", "compile"),
)
UNSUPPORTED_ZERO = (
    "mics_shard_size",
    "zenflow",
    "legacy_stage1",
    "cpu_offload",
    "zeropp_loco_param",
)


@pytest.mark.parametrize("off", [{"enabled": False}, {"some": False, "more": None}, {}, None])
def test_what_is_turned_off_is_no_reason_to_refuse_and_is_kept_from_deepspeed(
    off: object, tmp_path: Path
) -> None:
    settings = {
        **dict.fromkeys(UNSUPPORTED, off),
        "zero_optimization": {"stage": 3, **dict.fromkeys(UNSUPPORTED_ZERO, off)},
        "checkpoint": {"tag_validation": "Fail", "writer": off, "load_universal": off},
    }
    taken = deepspeed_config(with_file(tmp_path, settings, stage=3), 1)
    assert taken["zero_optimization"] == {"stage": 3}
    assert taken["checkpoint"] == {"tag_validation": "Fail"}
    assert not set(UNSUPPORTED) & taken.keys()
    # DeepSpeed refuses what it has given up whatever it says, and takes {} for asynchronous files.
    assert not DeepSpeedConfig(taken).datastates_config.enabled


@pytest.mark.parametrize(
    "settings",
    [
        {"zero_optimization": {"stage": 3, "mics_shard_size": -1}},
        {"zero_optimization": {"stage": 3, "cpu_offload": False, "legacy_stage1": 0}},
        {"zero_optimization": {"stage": 3}, "sparse_gradients": False, "checkpoint": None},
    ],
)
def test_other_ways_to_say_off_are_understood(settings: dict[str, object], tmp_path: Path) -> None:
    taken = deepspeed_config(with_file(tmp_path, settings, stage=3), 1)
    assert taken["zero_optimization"] == {"stage": 3}
    assert DeepSpeedConfig(taken).zero_config.stage == 3


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"zero_optimization": {"stage": 3, "reduce_scater": False}}, "reduce_scater"),
        ({"zero_optimization": {"stage": 3, "prefetch_bucket_size": 0}}, "prefetch_bucket_size"),
        ({"zero_optimizaton": {"stage": 0}}, "zero_optimizaton"),
        ({"gradient_cliping": 0}, "gradient_cliping"),
    ],
)
def test_unknown_name_is_refused_although_its_value_is_off(
    settings: dict[str, object], key: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{key} must be left out of"):
        deepspeed_config(with_file(tmp_path, settings, stage=3), 1)


def test_sections_turned_off_may_hold_whatever_another_release_knows(tmp_path: Path) -> None:
    settings = {
        "of_a_later_deepspeed": {"enabled": False, "detail": 3},
        "fp16": {"enabled": False, "fp16_master_weights_and_grads": True},
        "zero_optimization": {"stage": 3},
    }
    taken = deepspeed_config(with_file(tmp_path, settings, stage=3), 1)
    assert "of_a_later_deepspeed" not in taken
    assert taken["fp16"] == {"enabled": False}


def test_auto_in_the_block_of_the_precision_says_nothing(tmp_path: Path) -> None:
    fp16 = {"enabled": "auto", "min_loss_scale": "auto", "hysteresis": 1}
    config = with_file(tmp_path, {"zero_optimization": {"stage": 1}, "fp16": fp16})
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, precision="fp16"))
    assert deepspeed_config(config, 2)["fp16"] == {"enabled": True, "hysteresis": 1}


@pytest.mark.parametrize(
    ("world_size", "message"),
    [
        (3, "train.batch_size must be divisible by the number of ranks, got 32 and 3"),
        (16, "train.micro_batch_size must divide a rank's share of 2 examples, got 4"),
    ],
)
def test_number_of_ranks_that_does_not_divide_the_batch_is_refused(
    world_size: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        deepspeed_config(run_config(), world_size)


ZERO_1 = {"zero_optimization": {"stage": 1}}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "must hold a JSON object, got a list"),
        ({"zero_optimization": 3}, "zero_optimization must be a JSON object in .*, got 3"),
        ({}, "zero_stage must be the stage in .*, got 1 and 0 there"),
        ({"zero_optimization": {"stage": 3}}, "zero_stage must be .*, got 1 and 3 there"),
        ({**ZERO_1, "train_batch_size": 64}, "train_batch_size must be 32 in .*, got 64"),
        (
            {**ZERO_1, "gradient_accumulation_steps": 1},
            "gradient_accumulation_steps must be 4 in .*, got 1",
        ),
        ({**ZERO_1, "gradient_clipping": 0.5}, "gradient_clipping must be 1.0 in .*, got 0.5"),
        (
            {**ZERO_1, "fp16": {"enabled": True}},
            "fp16.enabled must be false in .* with train.precision float32, got true",
        ),
        (
            {**ZERO_1, "optimizer": {"type": "Adam"}},
            r"optimizer must be left out of .* Set optimiser\.\* of the run's config",
        ),
        ({**ZERO_1, "scheduler": {"type": "WarmupLR"}}, "scheduler must be left out of"),
        (
            {**ZERO_1, "activation_checkpointing": {"partition_activations": True}},
            "activation_checkpointing must be left out .* student.activation_checkpointing=true",
        ),
        ({**ZERO_1, "torch_autocast": {"enabled": True}}, "torch_autocast must be left out of"),
        ({**ZERO_1, "tensor_parallel": {"autotp_size": 2}}, "tensor_parallel must be left out"),
        (
            {**ZERO_1, "checkpoint": {"writer": {"decoupled": True}}},
            r"checkpoint\.writer must be left out of .*, got .* Remove it: .*deepspeed_rules",
        ),
        (
            {**ZERO_1, "checkpoint": {"load_universal": True}},
            r"checkpoint\.load_universal must be left out",
        ),
        ({**ZERO_1, "datastates_ckpt": {"host_cache_size": 16}}, "datastates_ckpt must be left"),
        ({**ZERO_1, "gradient_allreduce_op": "sum"}, "gradient_allreduce_op must be mean in"),
        ({**ZERO_1, "managed_gradient_accumulation": False}, "managed_.* must be True in"),
        ({**ZERO_1, "gradient_cliping": 1.0}, "gradient_cliping must be left out of .*, got 1.0"),
        ({**ZERO_1, "aio": {"thread_count": 4}}, r"aio\.thread_count must be left out of"),
        ({**ZERO_1, "fp16": {"window": 5}}, r"fp16\.window must be left out of"),
        ({"zero_optimization": {"stage": 1, "offload_param": 3}}, r"offload_param must be a JSON"),
    ],
)
def test_file_that_disagrees_or_would_be_ignored_is_refused(
    settings: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        deepspeed_config(with_file(tmp_path, settings), 2)


@pytest.mark.parametrize(
    ("stage", "zero", "message"),
    [
        (0, {"offload_optimizer": {"device": "cpu"}}, "stage must be at least 1 with .*, got 0"),
        (
            2,
            {"offload_param": {"device": "cpu"}},
            "at least 3 with offload_param.device cpu, got 2",
        ),
        (2, {"offload_optimizer": {"device": "nvme"}}, "at least 3 with .* nvme, got 2"),
        (3, {"offload_param": {"device": "nvme"}}, "nvme_path must name a folder on a local"),
        (3, {"offload_param": {"device": "disk"}}, "must be none or cpu or nvme in .*, got disk"),
        (1, {"offload_optimizer": {"device": "cpu", "ratio": 0.5}}, "ratio 0.5, got 1"),
        (3, {"offload_optimizer": {"super_offload": True}}, "super_offload must be left out"),
        (3, {"mics_shard_size": 2}, "mics_shard_size must be left out of .*zero_hpz"),
        (2, {"zenflow": {"topk_ratio": 0.1}}, "zenflow must be left out"),
        (1, {"compute_grad_norm": False}, "compute_grad_norm must be True"),
        (2, {"zero_quantized_weights": True}, "at least 3 with .*quantized_weights True, got 2"),
        (2, {"zero_hpz_partition_size": 2}, "at least 3 with .*hpz_partition_size 2, got 2"),
        (3, {"zero_hpz_partition_size": 3}, "must divide the number of ranks, 2, got 3"),
    ],
)
def test_zero_feature_that_cannot_work_is_refused(
    stage: Stage, zero: dict[str, Any], message: str, tmp_path: Path
) -> None:
    settings = {"zero_optimization": {"stage": stage, **zero}}
    with pytest.raises(ValueError, match=message):
        deepspeed_config(with_file(tmp_path, settings, stage), 2)


def test_supported_keys_are_handed_on_and_known_to_deepspeed(tmp_path: Path) -> None:
    nvme = {"device": "nvme", "nvme_path": "/local", "buffer_count": 4}
    settings: dict[str, Any] = {
        "zero_optimization": {"stage": 3, "offload_param": nvme, "zero_hpz_partition_size": 2},
        "aio": {"block_size": 1 << 20, "queue_depth": 8, "single_submit": False},
        "communication_data_type": "fp32",
        "prescale_gradients": False,
        "comms_logger": {"enabled": True, "verbose": False},
    }
    taken = deepspeed_config(with_file(tmp_path, settings, stage=3), 2)
    assert {key: taken[key] for key in settings} == settings
    fields = DeepSpeedZeroConfig.model_fields
    known = set(fields) | {field.alias for field in fields.values()}
    assert set(SUPPORTED["zero_optimization"].split()) <= known


def test_skipped_step_is_a_problem_without_a_loss_scale_only() -> None:
    skips = SkippedSteps({})
    assert skips.find_problem(False, None) is None
    assert skips.find_problem(True, 1024.0) is None
    assert "the gradient must be finite" in str(skips.find_problem(True, None))


def test_skips_at_the_smallest_scale_or_without_end_are_a_problem() -> None:
    skips = SkippedSteps({"fp16": {"min_loss_scale": 16}})
    assert skips.find_problem(True, 32.0) is None
    assert "2 skipped steps in a row down to a scale of 16" in str(skips.find_problem(True, 16.0))
    static = SkippedSteps({"fp16": {"loss_scale": 128}})
    for _ in range(MAX_SKIPS_IN_A_ROW - 1):
        assert static.find_problem(True, 128.0) is None
    assert static.find_problem(False, 128.0) is None
    for _ in range(MAX_SKIPS_IN_A_ROW - 1):
        assert static.find_problem(True, 128.0) is None
    assert "40 skipped steps in a row" in str(static.find_problem(True, 128.0))
