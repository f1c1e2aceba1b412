"""The same student at every ZeRO stage, on one rank and on two, without teachers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.support.student_runs import (
    PLAIN,
    PLAIN_STEPS,
    ROOT,
    environment,
    free_port,
    loss_curve,
    run_student,
    student_command,
)
from trainer.data.vocabulary import Vocabulary
from trainer.models.causal_lm import load_causal_lm

PlainRun = Callable[[int], Path]
CHECKPOINTED = "student.activation_checkpointing=true"


@pytest.mark.everything
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_loss_curve_of_a_stage_is_that_of_stage_1(stage: int, plain_run: PlainRun) -> None:
    expected = loss_curve(plain_run(1))
    assert len(expected) == PLAIN_STEPS
    assert expected[-1] < 0.9 * expected[0]
    assert loss_curve(plain_run(stage)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.everything
@pytest.mark.parametrize(
    ("ranks", "settings"),
    [
        (1, ("zero_stage=1", "train.micro_batch_size=8")),
        (2, ("zero_stage=2", "offload=optimizer")),
        (2, ("zero_stage=3", CHECKPOINTED)),
        (2, ("zero_stage=3", "offload=all", "train.micro_batch_size=4")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else f"{value} ranks",
)
def test_loss_curve_with_less_memory_is_that_of_stage_1(
    ranks: int,
    settings: tuple[str, ...],
    prepared_dir: Path,
    plain_run: PlainRun,
    tmp_path: Path,
) -> None:
    result = run_student(prepared_dir, tmp_path / "run", *PLAIN, *settings, ranks=ranks)
    assert result.returncode == 0, result.stderr
    assert loss_curve(tmp_path / "run") == pytest.approx(loss_curve(plain_run(1)), rel=1e-3)


@pytest.mark.everything
def test_loss_curve_of_two_launchers_as_on_two_machines_is_that_of_one(
    prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    plain = student_command(prepared_dir, tmp_path / "run", *PLAIN, "zero_stage=2")
    script = plain.index("trainer/main.py")
    meeting = ["--hostfile", str(hosts), "--no_ssh", "--master_addr", "127.0.0.1"]
    meeting += ["--master_port", str(free_port())]
    nodes = []
    for rank in range(2):
        argv = [plain[0], *meeting, "--node_rank", str(rank), *plain[script:]]
        with (tmp_path / f"log{rank}").open("w") as log:
            nodes.append(
                subprocess.Popen(argv, cwd=ROOT, env=environment(), stdout=log, stderr=log)
            )
    try:
        codes = [node.wait(timeout=120) for node in nodes]
    finally:
        for node in nodes:
            node.terminate()
    assert codes == [0, 0], (tmp_path / "log0").read_text()
    assert loss_curve(tmp_path / "run") == pytest.approx(loss_curve(plain_run(1)), rel=1e-3)


@pytest.mark.everything
def test_bf16_run_at_stage_3_starts_at_the_loss_of_float32_and_learns(
    prepared_dir: Path, plain_run: PlainRun, tmp_path: Path
) -> None:
    settings = (*PLAIN, "zero_stage=3", "train.precision=bf16")
    result = run_student(prepared_dir, tmp_path / "run", *settings)
    assert result.returncode == 0, result.stderr
    bf16, float32 = loss_curve(tmp_path / "run"), loss_curve(plain_run(3))
    assert bf16[0] != float32[0]
    assert bf16[0] == pytest.approx(float32[0], rel=1e-2)
    assert bf16 == pytest.approx(float32, rel=3e-2)
    assert bf16[-1] < 0.9 * bf16[0]


@pytest.mark.everything
def test_untied_llama_learns_and_is_exported_at_stage_3(prepared_dir: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(prepared_dir)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary.base_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama")
    settings = (f"student.pretrained={tmp_path / 'llama'}", "zero_stage=3", "train.steps=12")
    output = tmp_path / "run"
    result = run_student(prepared_dir, output, "distill.gamma=0", *settings, CHECKPOINTED)
    assert result.returncode == 0, result.stderr
    curve = loss_curve(output)
    assert curve[-1] < 0.98 * curve[0]
    assert load_causal_lm(output / "model", vocabulary).module.config.model_type == "llama"
