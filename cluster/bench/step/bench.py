"""What do teachers cost the student? Tokens/s with none, with served, cached and in-process ones.

Two ranks train one student of DialoGPT-small's shape, and its steps take turns: without a teacher
(distill.gamma = 0); with teachers behind gRPC, whose scoring is replaced by replay, as if they had
devices of their own; with their targets in the cache and no fleet; and with both teachers computed
in every rank, as users do today. A ratio is of two blocks of the same turn, on the same batches.

Beside it, what one forward per dialogue saves: the student without a teacher, and the scoring of a
dialogue teacher of its shape, take the same examples in one sequence per dialogue and in one per
response, in turn.

Replicas and students share two cores: CPU seconds of the ranks and of the whole machine show which
processes pay for an arm.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from cluster.bench.corpus import Corpus, first_examples, fitted_corpus
from cluster.bench.fleet.fleet import Fleet, Served
from cluster.bench.fleet.recording import record_kind
from cluster.bench.result import BenchResult, Row
from cluster.bench.step import passes
from cluster.bench.step.arms import CACHED, GROUPED, IN_PROCESS, NO_TEACHER, SERVED, SINGLE
from cluster.launch.child import Command
from cluster.launch.launcher import Launcher
from cluster.launch.machine import ROOT, this_machine
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import load_prepared
from trainer.models.language_model import build_language_model, write_language_model
from trainer.plan.shape import SHAPES
from trainer.pretrain.dialogue import write_dialogue_card

LOGS = Path("bench/logs/step")
CONFIG = "trainer/configs/redial-mini.yaml"
NUM_EXAMPLES = 640
BATCH_SIZE = 8
# From the start to the last turn; the rest takes seconds.
BUDGET_S = 540.0
# Of the turns with one forward per dialogue and per response; a student of two ranks.
PASS_BATCH_SIZE = 16
PASS_BUDGET_S = 240.0
# Batches of the recipe, for the count of tokens and the teacher's scoring.
RECIPE_BATCH_SIZE = 32
DIALOGPT_SMALL = SHAPES["small"]
SIZES = ("num_layers", "hidden_size", "num_heads")


def bench_step(source: Path | None) -> BenchResult:
    """Record, fill the cache, and let the arms take turns."""
    corpus = fitted_corpus(source)
    end_by = time.time() + BUDGET_S
    with (
        tempfile.TemporaryDirectory(prefix="conkd-step-") as temporary,
        Launcher(LOGS, screen=sys.stderr) as launcher,
    ):
        rows, pass_rows, scored = asyncio.run(_measure(launcher, corpus, Path(temporary), end_by))
    return BenchResult(
        figures={
            **figures_of(rows),
            **passes.sequence_figures(corpus.examples("train"), RECIPE_BATCH_SIZE),
            **_spread("grouped_to_single", passes.ratios_of(pass_rows, GROUPED, SINGLE)),
            **_spread(
                "scoring_grouped_to_single",
                passes.ratios_of(scored, GROUPED, SINGLE),
            ),
            **_spread(
                "scoring_deterministic_to_grouped",
                passes.ratios_of(scored, passes.DETERMINISTIC, GROUPED),
            ),
        },
        rows=arm_rows(rows),
        corpus=corpus.name,
        details={"blocks": rows, "passes": pass_rows, "scoring": scored},
    )


async def _measure(
    launcher: Launcher, corpus: Corpus, output: Path, end_by: float
) -> tuple[list[Row], list[Row], list[Row]]:
    """Blocks of the arms, blocks of one forward per dialogue or response, and scoring of both."""
    data = first_examples(corpus.data, NUM_EXAMPLES, output / "data")
    folders = corpus.folders
    answers = _record(data, folders, output)
    dialogue = _random_dialogue_teacher(data, output / "dialogue")
    served = Served(folders=folders, answers=answers, num_replicas={"dialogue": 2})
    fleet = Fleet(launcher, served, output / "fleet")
    await fleet.heal()
    settings = (
        *(f"data={data}", f"output={output / 'run'}", "item_vectors=null"),
        *(f"student.{name}={getattr(DIALOGPT_SMALL, name)}" for name in SIZES),
        *(f"train.batch_size={BATCH_SIZE}", *fleet.settings),
    )
    cache, result = output / "cache", output / "rows.json"
    options = {
        "dialogue": dialogue,
        "recommendation": corpus.recommendation,
        "cache": cache,
        "result": result,
        "end-by": end_by,
    }
    launcher.run([_fill_cache(cache, settings), _ranks("teachers", options, settings)])
    await fleet.stop()
    options |= {"result": output / "passes.json", "end-by": time.time() + PASS_BUDGET_S}
    batch = (f"train.batch_size={PASS_BATCH_SIZE}",)
    launcher.run([_ranks("passes", options, (*settings, *batch))])
    scored = passes.scoring_rows(dialogue, corpus.examples("train"), RECIPE_BATCH_SIZE)
    pass_rows = json.loads((output / "passes.json").read_text())
    return json.loads(result.read_text()), pass_rows, scored


def _record(data: Path, folders: dict[str, Path], output: Path) -> dict[str, Path]:
    """Answers of the fitted teachers for every example, cut as in the recipe."""
    examples = load_prepared(data).examples("train")
    distill = load_config(RunConfig, ROOT / CONFIG, []).distill
    tables = {kind: output / f"{kind}.npz" for kind in folders}
    for kind, folder in folders.items():
        record_kind(kind, folder, examples, distill, tables[kind])
    return tables


def _random_dialogue_teacher(data: Path, folder: Path) -> Path:
    """A frozen one of the student's shape, with random weights: for its speed."""
    prepared = load_prepared(data)
    torch.manual_seed(0)
    model = build_language_model(DIALOGPT_SMALL, prepared.vocabulary)
    write_language_model(folder, model)
    prepared.vocabulary.save(folder)
    write_dialogue_card(folder, model, prepared)
    return folder


def _fill_cache(cache: Path, settings: tuple[str, ...]) -> Command:
    machine = this_machine()
    argv = (str(machine.python), "-m", "trainer.targets", "build", "--config", CONFIG)
    return Command(
        name="targets",
        argv=(*argv, "--output", str(cache), *settings),
        env=machine.environment(machine.num_ranks),
        cwd=ROOT,
    )


def _ranks(arms: str, options: dict[str, Path | float], settings: tuple[str, ...]) -> Command:
    machine = this_machine()
    start = machine.student_start("cluster/bench/step/ranks.py")
    return Command(
        name=f"ranks-{arms}",
        argv=(
            *start.argv,
            f"--arms={arms}",
            *(f"--{name}={value}" for name, value in options.items()),
            *("--config", CONFIG, *settings),
        ),
        env={**machine.environment(machine.num_ranks), **start.env},
        cwd=ROOT,
    )


def figures_of(rows: list[Row]) -> dict[str, float]:
    """Medians over turns of each arm's tokens/s to no teacher's; the served wait; peaks."""
    served = [row for row in rows if row["turn"] and row["arm"] == SERVED]
    peak_mb = {str(row["arm"]): float(row["peak_mb"]) for row in rows if not row["turn"]}
    figures = {"turns": float(len(served))}
    for arm in (SERVED, CACHED, IN_PROCESS):
        figures |= _arm_figures(rows, arm)
    return {
        **figures,
        "exposed_wait_fraction": sum(float(row["wait_s"]) for row in served)
        / sum(float(row["seconds"]) for row in served),
        "peak_mb_no_teacher": peak_mb[NO_TEACHER],
        "peak_mb_served": peak_mb[SERVED],
        "peak_mb_cached": peak_mb[CACHED],
        "peak_mb_in_process": peak_mb[IN_PROCESS],
    }


def _arm_figures(rows: list[Row], arm: str) -> dict[str, float]:
    """An arm beside no teacher in the same turn: tokens/s, and CPU seconds for the same tokens."""
    blocks = {(row["turn"], row["arm"]): row for row in rows if row["turn"]}
    pairs = [
        (row, blocks[turn, NO_TEACHER]) for (turn, of_arm), row in blocks.items() if of_arm == arm
    ]
    name = arm.replace(" ", "_")
    speeds = [_speed(row) / _speed(beside) for row, beside in pairs]
    figures = _spread(f"{name}_to_no_teacher", speeds)
    for scope in ("ranks", "machine"):
        key = f"{scope}_cpu_s"
        if all(beside[key] for _, beside in pairs):  # the machine's may be hidden
            ratios = [float(row[key]) / float(beside[key]) for row, beside in pairs]
            figures |= _spread(f"{name}_{scope}_cpu_to_no_teacher", ratios)
    return figures


def _spread(name: str, values: list[float]) -> dict[str, float]:
    return {
        name: statistics.median(values),
        f"{name}_min": min(values),
        f"{name}_max": max(values),
    }


def arm_rows(rows: list[Row]) -> list[Row]:
    """Median, least and largest tokens/s of every arm."""
    table: list[Row] = []
    for arm in (NO_TEACHER, SERVED, CACHED, IN_PROCESS):
        blocks = [row for row in rows if row["turn"] and row["arm"] == arm]
        speeds = [_speed(row) for row in blocks]
        seconds = sum(float(row["seconds"]) for row in blocks)
        table.append(
            {
                "arm": arm,
                "tokens_per_s": statistics.median(speeds),
                "tokens_per_s_min": min(speeds),
                "tokens_per_s_max": max(speeds),
                "wait_fraction": sum(float(row["wait_s"]) for row in blocks) / seconds,
                "blocks": len(blocks),
            }
        )
    return table


def _speed(row: Row) -> float:
    return float(row["tokens"]) / float(row["seconds"])
