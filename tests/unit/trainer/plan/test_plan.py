"""The memory plan: against torch, against DeepSpeed, and against numbers worked out by hand."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from trainer.common.atomic import write_json
from trainer.common.errors import InputError
from trainer.models.causal_lm import hidden_states
from trainer.plan.__main__ import PRECISIONS, main, memory_bytes
from trainer.plan.memory import (
    CPU_OVERHEAD,
    GPU_OVERHEAD,
    Buckets,
    Setting,
    _at_start,
    held,
    largest_micro_batch,
    plan_stage,
    read_buckets,
)
from trainer.plan.shape import SHAPES, StudentSize, saved_bytes, student_config, student_size
from trainer.plan.stages import CONFIGS, DTYPES, lines

# A student whose plan can be worked out in the head: 1,000 parameters, half of them in the output.
SIZE = StudentSize(
    num_parameters=1000,
    output_weight=500,
    vocab_size=50,
    num_layers=2,
    is_tied=True,
    activations=300,
    activations_per_example=200,
    layer_activations_per_example=90,
)
SETTING = Setting(ranks=4, chunk_size=8, response_length=2)
BUCKETS = Buckets(reduce=100, max_live=10, sub_group=100)


@pytest.mark.parametrize(
    "word",
    [pytest.param(it, marks=() if it == "small" else pytest.mark.everything) for it in SHAPES],
)
def test_parameters_of_dialogpt_are_those_of_its_formula(word: str) -> None:
    layers, hidden = SHAPES[word].num_layers, SHAPES[word].hidden_size
    size = student_size(student_config(word, 57_184), length=8, dtype=torch.float32)
    # Embedding and positions; per layer two norms, attention 3 + 1, feed forward 4 + 4; last norm.
    per_layer = 4 * hidden + (4 * hidden * hidden + 4 * hidden) + (8 * hidden * hidden + 5 * hidden)
    assert size.num_parameters == (57_184 + 1024) * hidden + layers * per_layer + 2 * hidden
    assert size.output_weight == 57_184 * hidden
    assert size.is_tied


@pytest.mark.everything
def test_large_with_dialogpts_own_tokens_has_774_million_parameters() -> None:
    size = student_size(
        student_config("microsoft/DialoGPT-large", 50_257), length=8, dtype=torch.float32
    )
    assert round(size.num_parameters / 1e6) == 774


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_saved_bytes_of_a_shape_are_those_of_a_real_forward(dropout: float) -> None:
    config = GPT2Config(
        vocab_size=60,
        n_positions=128,
        n_embd=256,
        n_layer=2,
        n_head=2,
        resid_pdrop=dropout,
        embd_pdrop=dropout,
        attn_pdrop=dropout,
    )
    model = GPT2LMHeadModel(config).train()
    held_by_pointer: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        held_by_pointer[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = hidden_states(model, torch.ones(3, 100, dtype=torch.int64))
    assert states.requires_grad
    own = {it.untyped_storage().data_ptr() for it in model.parameters()}
    wanted = sum(
        it.untyped_storage().nbytes() for key, it in held_by_pointer.items() if key not in own
    )
    size = student_size(config, length=100, dtype=torch.float32)
    # Of three examples; what does not depend on their number is counted once. transformers takes
    # fake tensors for a trace and writes out the causal mask: one row of L floats per position.
    planned = size.activations + 2 * size.activations_per_example
    assert planned == pytest.approx(wanted, rel=0.03)
    assert saved_bytes(model, (3, 100)) == wanted


@pytest.mark.parametrize(
    "content",
    [
        {"model_type": "t5"},
        {"model_type": "gpt2", "n_embd": 16, "n_head": 3},
        {"model_type": "gpt2", "n_embd": 16, "n_head": 0},
        {"model_type": "gpt2", "n_layer": 0},
        {"model_type": "gpt2", "n_layer": 10**9},
    ],
)
def test_config_that_makes_no_causal_model_is_one_line(
    content: dict[str, object], tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", content)
    config = student_config(str(tmp_path), 100)
    with pytest.raises(InputError, match=f"makes a causal language model, got {tmp_path}: ") as it:
        student_size(config, length=8, dtype=torch.float32)
    assert "\n" not in str(it.value)


@pytest.mark.everything
def test_checkpointing_keeps_one_input_per_layer() -> None:
    two, four = (
        GPT2Config(vocab_size=100, n_layer=layers, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        for layers in (2, 4)
    )
    whole = student_size(four, length=64, dtype=torch.float32)
    kept = student_size(four, length=64, dtype=torch.float32, checkpointing=True)
    fewer = student_size(two, length=64, dtype=torch.float32, checkpointing=True)
    # 64 positions of 768 floats for each layer, and what the last norm keeps.
    one_input = 64 * 768 * 4
    assert kept.activations_per_example - fewer.activations_per_example == 2 * one_input
    assert 4 * one_input <= kept.activations_per_example <= 8 * one_input
    assert kept.layer_activations_per_example == whole.activations_per_example // 4


def test_held_of_each_stage_is_what_one_counts_by_hand() -> None:
    # Weights 4,000 B, Adam 8,000; from stage 1 a quarter of Adam and of a float32 copy.
    wanted = {0: (4000, 8000, 0, 0), 1: (4000, 3000, 0, 0), 2: (4000, 3000, 0, 0)}
    wanted[3] = (1000, 3000, 1000, 400)
    for stage, numbers in wanted.items():
        parts, host = held(stage, SIZE, SETTING, BUCKETS)
        names = ("parameters", "optimiser", "gradients", "buckets")
        assert tuple(parts[name] for name in names) == numbers
        assert (parts["fixed"], host) == (GPU_OVERHEAD, 0)


def test_largest_moment_is_found_by_hand() -> None:
    few = plan_stage(1, SIZE, SETTING, BUCKETS, micro_batch=1)
    # The end of backward: 4,000 of gradients and a bucket of 400. With many examples: the loss,
    # 300 + 39 * 200 of activations, 8 * 50 * 4 of logits, 500 * 4 of the weight's gradient.
    assert (few.moment, few.parts["gradients"], few.parts["buckets"]) == ("reduce", 4000, 400)
    many = plan_stage(1, SIZE, SETTING, BUCKETS, micro_batch=40)
    assert (many.moment, many.parts["activations"], many.parts["loss"]) == ("loss", 8100, 3600)
    assert many.total == 4000 + 3000 + 8100 + 3600 + GPU_OVERHEAD
    one = dataclasses.replace(SETTING, checkpointing=True)
    again = plan_stage(1, SIZE, one, BUCKETS, micro_batch=40)
    assert again.parts["activations"] == 8100 + 40 * 90


def test_zero3_gathers_the_output_weight_or_what_may_be_live() -> None:
    few = plan_stage(3, SIZE, SETTING, BUCKETS, micro_batch=40)
    assert few.parts["gathered"] == 4 * 500
    live = plan_stage(3, SIZE, SETTING, dataclasses.replace(BUCKETS, max_live=800), micro_batch=40)
    assert live.parts["gathered"] == 4 * 800
    all_of_it = plan_stage(3, SIZE, SETTING, Buckets(), micro_batch=40)
    assert all_of_it.parts["gathered"] == 4 * 1000


def test_zero3_brings_the_whole_model_to_a_gpu_before_it_is_cut_up() -> None:
    many = dataclasses.replace(SETTING, ranks=1000, offload="all")
    student = dataclasses.replace(SIZE, num_parameters=1_000_000)
    plan_of = plan_stage(3, student, many, BUCKETS, micro_batch=1)
    assert (plan_of.moment, plan_of.total) == ("start", 4 * 1_000_000 + GPU_OVERHEAD)
    # A tensor of 500 is the largest of which a rank's share lies beside it.
    half = dataclasses.replace(many, precision="bf16", ranks=2, offload="optimizer")
    at_start = _at_start(3, student, half)
    assert at_start["parameters"] == 2 * (1_000_000 + 250)


def test_offload_moves_to_the_host_what_a_cpu_still_counts() -> None:
    offloaded = {
        2: dataclasses.replace(SETTING, offload="optimizer"),
        3: dataclasses.replace(SETTING, offload="all"),
    }
    for stage, there in offloaded.items():
        parts, host = held(stage, SIZE, there, BUCKETS)
        assert parts["optimiser"] == 0
        assert host >= 250 * (4 + 8 + 4)
        on_cpu, _ = held(stage, SIZE, dataclasses.replace(there, on_cpu=True), BUCKETS)
        assert on_cpu["optimiser"] == host
        assert on_cpu["fixed"] == CPU_OVERHEAD


def test_largest_micro_batch_fits_and_one_more_does_not() -> None:
    limit = GPU_OVERHEAD + 20_000
    for stage in range(4):
        found = largest_micro_batch(stage, SIZE, SETTING, BUCKETS, limit=limit)
        assert plan_stage(stage, SIZE, SETTING, BUCKETS, micro_batch=found).total <= limit
        assert plan_stage(stage, SIZE, SETTING, BUCKETS, micro_batch=found + 1).total > limit
    assert largest_micro_batch(0, SIZE, SETTING, BUCKETS, limit=GPU_OVERHEAD) == 0


def test_lines_read_the_buckets_of_the_configs_that_a_run_takes() -> None:
    settings = json.loads((CONFIGS / "zero3.json").read_text())["zero_optimization"]
    assert read_buckets(CONFIGS / "zero3.json").reduce == settings["reduce_bucket_size"]
    found = lines(SIZE, SETTING, micro_batch=1, limit=GPU_OVERHEAD)
    assert [line.name for line in found] == ["0", "1", "2", "3", "2 offload", "3 offload"]
    assert not any(line.fits or line.largest for line in found)
    half = dataclasses.replace(SETTING, precision="fp16")
    found = lines(SIZE, half, micro_batch=1, limit=GPU_OVERHEAD)
    assert [line.name for line in found] == ["1", "2", "3", "2 offload", "3 offload"]


def test_memory_is_read_with_its_unit() -> None:
    assert memory_bytes("24GiB") == 24 << 30
    assert memory_bytes("1.5 GB") == 1_500_000_000
    assert memory_bytes("24gib") == 24 << 30
    for wrong in ("24", "24X", "-1GiB", "0GiB", "much", "1e99GiB", "99999999999GiB", "²GiB"):
        with pytest.raises(argparse.ArgumentTypeError, match="must be a number above 0 and GiB"):
            memory_bytes(wrong)


def test_precisions_of_the_command_are_those_of_the_plan() -> None:
    assert tuple(DTYPES) == PRECISIONS


def test_command_prints_a_table_and_with_json_one_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ("--student", "microsoft/DialoGPT-small", "--gpus", "4", "--gpu-memory", "24GiB")
    main([*arguments])
    assert "130 M parameters on 4 x 24 GiB" in capsys.readouterr().out
    main([*arguments, "--json", "--precision", "bf16"])
    answer = json.loads(capsys.readouterr().out)
    zero3 = answer["stages"][3]
    # 2 bytes of weights, 4 of their copy, 8 of Adam, over four ranks.
    share = -(-answer["parameters"] // 4)
    assert (zero3["parameters_bytes"], zero3["optimiser_bytes"]) == (2 * share, 12 * share)
    assert zero3["fits"] and zero3["largest_micro_batch"] >= 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("--student", "nobody/nothing"), "--student must be small, medium, large, microsoft/"),
        (("--student", "small", "--length", "2000"), "--length must be at most the student's 1024"),
        (("--student", "small", "--response", "300"), "--response must be at most --length, 256"),
        (
            ("--student", "small", "--micro-batch", "0"),
            "--micro-batch must be a whole number in [1, 16777216], got 0",
        ),
    ],
)
def test_command_says_what_is_wrong(arguments: tuple[str, ...], error: str) -> None:
    with pytest.raises((ValueError, OSError), match=f"^{re.escape(error)}"):
        main([*arguments, "--gpus", "2", "--gpu-memory", "8GiB"])


@pytest.mark.parametrize("gpus", ["0", "-1", "1000000000", "2.5", "many", "\u00b2"])
def test_number_of_gpus_is_one_that_there_can_be(gpus: str) -> None:
    error = r"^--gpus must be a whole number in \[1, \d+\], got"
    with pytest.raises(InputError, match=error):
        main(["--student", "small", "--gpu-memory", "8GiB", "--gpus", gpus])
