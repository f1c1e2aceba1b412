"""Does a student take the planned memory? Real runs on two CPU ranks, sampled.

Every arm is `deepspeed trainer/main.py`, whole: the model is built, three steps are taken, a
checkpoint is written, the student exported. What is compared with the plan is each rank's largest
resident size when its third step is done; what must fit is the largest of both ranks together at
any time.
"""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from cluster.bench.memory.rank_memory import RankMemory, Sampler
from cluster.bench.result import RESULTS, BenchResult, Row
from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import ROOT, Machine, this_machine
from cluster.launch.ports import free_port
from cluster.stages import Demo
from trainer.common.errors import InputError
from trainer.data.loader import LoaderConfig, StudentInput, batches, to_student_input
from trainer.data.model_input import InputLimits
from trainer.data.prepared import load_prepared
from trainer.plan.memory import Setting, StagePlan, plan_stage, read_buckets
from trainer.plan.shape import MAX_POSITIONS, SHAPES, student_config, student_size
from trainer.plan.stages import CONFIGS, DTYPES

RANKS = 2
STEPS = 3
# A run's own peak, mostly of its export, to its plan; measured 1.06.
MARGIN = 1.15
GIB = 1 << 30
# glibc keeps freed blocks of less; kept ones leave gaps, which no plan can foresee.
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One run: which student, at which stage, how many examples per step over both ranks."""

    student: str
    stage: int
    batch_size: int
    precision: Literal["float32", "bf16"] = "float32"


# By importance: a slow machine does not reach the last ones.
ARMS = (
    Arm(student="large", stage=3, batch_size=2),
    Arm(student="medium", stage=3, batch_size=2),
    Arm(student="small", stage=3, batch_size=8),
    Arm(student="small", stage=0, batch_size=8),
    # Large enough that activations, not gradients, make the peak.
    Arm(student="small", stage=1, batch_size=16),
    Arm(student="small", stage=2, batch_size=8),
    # Minutes where the processor has no bf16 instructions.
    Arm(student="small", stage=2, batch_size=8, precision="bf16"),
)
# The small student's arms do not begin later; in float32 they take a minute and a half at most.
START_WITHIN_S = 480.0


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The largest micro batch of a run's steps."""

    examples: int
    length: int
    """Positions of an example, padding included."""
    positions: int
    """Response positions of all examples."""


def bench_memory(source: Path | None) -> BenchResult:
    """Run the arms; peaks in GiB, and how far the plan was from the worst of them."""
    start = time.monotonic()
    RESULTS.mkdir(parents=True, exist_ok=True)
    # Not in /tmp, which may be memory itself: a checkpoint of the large student has 9 GiB.
    with tempfile.TemporaryDirectory(prefix="memory-", dir=RESULTS.parent) as temporary:
        folder = Path(temporary).resolve()
        demo = Demo(source=source and source.resolve(), output=folder, machine=this_machine())
        with Launcher(folder / "logs", screen=sys.stderr) as launcher:
            launcher.run([demo.prepare()])
            rows, left_out = run_arms(demo, launcher, start_by=start + START_WITHIN_S)
    return BenchResult(
        figures=figures(rows),
        rows=rows,
        corpus=demo.recipe,
        details={"left_out": [{**vars(arm), "reason": "no time"} for arm in left_out]},
    )


def run_arms(demo: Demo, launcher: Launcher, *, start_by: float) -> tuple[list[Row], list[Arm]]:
    """The rows of the arms that ran, and the small student's arms for which it was late."""
    rows: list[Row] = []
    for arm in ARMS:
        if arm.student == "small" and time.monotonic() > start_by:
            break
        rows.append(row_of(arm, *run_arm(arm, demo, launcher)))
        sys.stderr.write(f"{rows[-1]}\n")
    return rows, list(ARMS[len(rows) :])


def figures(rows: list[Row]) -> dict[str, float]:
    """The figures of a table of arms."""
    at_zero3 = {str(row["student"]): row for row in rows if row["zero_stage"] == 3}
    return {
        "large_zero3_peak_gib": float(at_zero3["large"]["run_peak_gib"]),
        "medium_zero3_peak_gib": float(at_zero3["medium"]["run_peak_gib"]),
        "plan_max_error": max(abs(float(row["plan_error"])) for row in rows),
    }


def row_of(arm: Arm, plan: StagePlan, measured: RankMemory) -> Row:
    """One line of the table."""
    steps_peak = max(measured.steps_peak.values())
    return {
        "student": arm.student,
        "zero_stage": arm.stage,
        "precision": arm.precision,
        "batch_size": arm.batch_size,
        "plan_moment": plan.moment,
        "plan_rank_gib": plan.total / GIB,
        "steps_rank_gib": steps_peak / GIB,
        "plan_error": plan.total / steps_peak - 1,
        "steps_peak_gib": sum(measured.steps_peak.values()) / GIB,
        "run_peak_gib": measured.together / GIB,
    }


def run_arm(arm: Arm, demo: Demo, launcher: Launcher) -> tuple[StagePlan, RankMemory]:
    """Plan an arm, run it, and remove what it wrote."""
    data, output = demo.output / "data", demo.output / "run"
    plan = plan_arm(arm, data)
    needed = MARGIN * RANKS * plan.total
    available = psutil.virtual_memory().available
    if available < needed:
        raise InputError(
            f"available memory must be at least {needed / GIB:.1f} GiB for the student "
            f"{arm.student}, got {available / GIB:.1f}. End what else runs on this machine."
        )
    with Sampler(output, STEPS) as sampler:
        launcher.run([command(arm, demo.machine, data, output, demo.recipe)])
    measured = sampler.result(RANKS)
    shutil.rmtree(output)
    return plan, measured


def plan_arm(arm: Arm, data: Path) -> StagePlan:
    """The plan for the largest micro batch of an arm."""
    vocab_size, shape = largest_shape(arm, data)
    size = student_size(
        student_config(arm.student, vocab_size), length=shape.length, dtype=DTYPES[arm.precision]
    )
    setting = Setting(
        ranks=RANKS,
        precision=arm.precision,
        response_length=-(-shape.positions // shape.examples),
        on_cpu=True,
    )
    buckets = read_buckets(CONFIGS / f"zero{arm.stage}.json")
    return plan_stage(arm.stage, size, setting, buckets, micro_batch=shape.examples)


def command(arm: Arm, machine: Machine, data: Path, output: Path, recipe: str) -> Command:
    """The run of an arm: gold tokens alone, so that no fleet is needed."""
    shape = SHAPES[arm.student]
    return Command(
        name=f"{arm.student} zero{arm.stage} {arm.precision} {arm.batch_size}",
        argv=(
            *("deepspeed", "--num_accelerators", str(RANKS)),
            *("--master_port", str(free_port()), "trainer/main.py"),
            *("--config", f"trainer/configs/{recipe}.yaml"),
            *(f"data={data}", f"output={output}", "item_vectors=null", "distill.gamma=0"),
            *("action_tokens=false", "seed=0"),
            *(f"zero_stage={arm.stage}", f"train.precision={arm.precision}"),
            *(f"student.num_layers={shape.num_layers}", f"student.hidden_size={shape.hidden_size}"),
            *(f"student.num_heads={shape.num_heads}", f"student.max_positions={MAX_POSITIONS}"),
            *(f"train.batch_size={arm.batch_size}", f"train.steps={STEPS}"),
            f"train.checkpoint_every={STEPS}",
        ),
        env={
            **machine.environment(RANKS),
            **RETURN_FREED_MEMORY,
            "DS_ACCELERATOR": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        },
        cwd=ROOT,
    )


def largest_shape(arm: Arm, data: Path) -> tuple[int, Shape]:
    """The vocabulary's size, and the largest micro batch of both ranks' steps."""
    prepared = load_prepared(data)
    inputs: list[StudentInput] = []
    for rank in range(RANKS):
        loader = LoaderConfig(batch_size=arm.batch_size, seed=0, rank=rank, world_size=RANKS)
        steps = batches(prepared.examples("train"), loader)
        limits = InputLimits(max_tokens=MAX_POSITIONS, takes_ranges=True)
        inputs += [
            to_student_input(part, prepared.vocabulary, limits)
            for batch in itertools.islice(steps, STEPS)
            for part in batch.parts
        ]
    shapes = [
        Shape(
            examples=it.model.input_ids_BL.shape[0],
            length=it.model.input_ids_BL.shape[1],
            positions=len(it.positions.labels_P),
        )
        for it in inputs
    ]
    return prepared.vocabulary.size, max(shapes, key=lambda it: it.examples * it.length)
