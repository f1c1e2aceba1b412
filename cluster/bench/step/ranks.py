"""The ranks of the benchmark `step`: one student, trained with each arm in turn.

deepspeed cluster/bench/step/ranks.py --arms teachers|passes --dialogue DIR --recommendation DIR
    --cache DIR --result FILE --end-by SECONDS --config FILE [key=value ...]

All arms train the same model on the same batches with the trainer's own step. A block of an arm is
`BLOCK_STEPS` steps from the first request to the last update, so it includes everything that the
answers cost a rank, also the wait for the first of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from cluster.bench.peak_memory import peak_bytes
from cluster.bench.result import Row
from cluster.bench.step.arms import IN_PROCESS, Arm, pass_builders, teacher_builders
from trainer.common.atomic import write_json
from trainer.common.cli import run_rank
from trainer.config.run import RunConfig
from trainer.data.examples import Example
from trainer.data.loader import LoaderConfig, batches
from trainer.data.prepared import PreparedData
from trainer.engine.engine import Engine
from trainer.engine.ranks import raise_on_all_ranks, start_distributed, stop_distributed
from trainer.engine.student import Student
from trainer.lookahead import submitted_steps
from trainer.main import parse
from trainer.models.language_model import build_language_model
from trainer.student_run import checked_input
from trainer.train import train_step

BLOCK_STEPS = 2
MIN_TURNS, MAX_TURNS = 3, 30
# It takes longest, and is far from any bound.
IN_PROCESS_EVERY = 4


class Ranks:
    """This rank's student and its arms."""

    def __init__(self, config: RunConfig, data: PreparedData) -> None:
        torch.manual_seed(config.seed)
        model = build_language_model(config.student, data.vocabulary)
        student = Student(model, loss_chunk_size=config.train.loss_chunk_size)
        self.engine = Engine(student, config)
        self._limits = model.limits
        self._vocabulary = data.vocabulary
        self._examples: list[Example] = data.examples("train")
        self.widest_step = widest_step(self._examples, config, (MAX_TURNS + 1) * BLOCK_STEPS)

    def block(self, arm: Arm, first_step: int, num_steps: int) -> dict[str, float]:
        """Seconds, tokens, the mean rank's wait and CPU seconds of such steps, over all ranks."""
        train = dataclasses.replace(arm.config.train, steps=first_step + num_steps)
        config = dataclasses.replace(arm.config, train=train)
        limits = dataclasses.replace(
            self._limits, takes_ranges=arm.merges and self._limits.takes_ranges
        )
        tokens = wait_s = 0.0
        before = self._cpu_seconds()
        start = time.perf_counter()
        for submitted in submitted_steps(
            config,
            self.engine,
            vocabulary=self._vocabulary,
            examples=self._examples,
            limits=limits,
            teachers=arm.teachers,
            first_step=first_step,
        ):
            sums = train_step(config, self.engine, submitted)
            counters = arm.teachers.counters if arm.teachers else None
            total = sums.over_ranks(self.engine.sum_over_ranks, self.engine.world_size, counters)
            raise_on_all_ranks(total.find_problem(submitted.step) or self.engine.find_problem())
            tokens += total.values["tokens"]
            wait_s += total.values["wait_s"] / total.world_size
        seconds = time.perf_counter() - start
        cpu = {name: after - before[name] for name, after in self._cpu_seconds().items()}
        return {"seconds": seconds, "tokens": tokens, "wait_s": wait_s, **cpu}

    def _cpu_seconds(self) -> dict[str, float]:
        """Used so far by all ranks, and by everything on this machine; ranks meet here.

        In a container the machine is its host, or zero where that is hidden.
        """
        now = psutil.cpu_times()
        busy = now.user + now.nice + now.system + now.irq + now.softirq
        mine = [time.process_time(), busy if self.engine.rank == 0 else 0.0]
        ranks, machine = self.engine.sum_over_ranks(mine)
        return {"ranks_cpu_s": ranks, "machine_cpu_s": machine}

    def peak_mb(self) -> float:
        """The most that all ranks together ever held."""
        return self.engine.sum_over_ranks([peak_bytes(self.engine.device) / 1e6])[0]


def widest_step(examples: list[Example], config: RunConfig, num_steps: int) -> int:
    """Of the first steps the one with the longest example."""
    loader = LoaderConfig(
        batch_size=config.train.batch_size,
        seed=config.seed,
        rank=0,
        world_size=1,
        group=config.train.group or "dialogue",
    )
    steps = list(itertools.islice(batches(examples, loader), num_steps))
    return max(steps, key=lambda batch: max(map(_length, batch.examples))).step


def _length(example: Example) -> int:
    return len(example.context_ids) + len(example.response_ids)


def measure(
    ranks: Ranks, builders: dict[str, Callable[[], Arm]], *, close: list[Arm], end_by: float
) -> list[Row]:
    """A row per block: warm-ups, in which each arm is built, are turn 0."""
    rows: list[Row] = []
    arms: dict[str, Arm] = {}

    def run(turn: int, name: str, first_step: int, num_steps: int) -> None:
        figures = ranks.block(arms[name], first_step, num_steps)
        if ranks.engine.rank == 0:
            speed = figures["tokens"] / figures["seconds"]
            step_s = figures["seconds"] / num_steps
            sys.stderr.write(f"turn {turn} {name}: {speed:.0f} tokens/s, {step_s:.2f} s a step\n")
        rows.append({"turn": turn, "arm": name, **figures, "peak_mb": ranks.peak_mb()})

    for name, build in builders.items():
        arms[name] = build()
        close.append(arms[name])
        if len(arms) == 1:
            # The optimiser's state comes at the end of a first step: its peak is not whole.
            ranks.block(arms[name], 0, 1)
        # Else the first arm to meet a longer batch would pay for the new memory.
        run(0, name, ranks.widest_step, 1)
    started = time.time()
    for turn in range(1, MAX_TURNS + 1):
        for name in arms_of_turn(turn, list(arms)):
            run(turn, name, turn * BLOCK_STEPS, BLOCK_STEPS)
        next_ends = time.time() + (time.time() - started) / turn
        # As rank 0 sees it: all ranks must stop together.
        late = float(next_ends > end_by) if ranks.engine.rank == 0 else 0.0
        if ranks.engine.sum_over_ranks([late])[0] and turn >= MIN_TURNS:
            break
    return rows


def arms_of_turn(turn: int, names: list[str]) -> list[str]:
    """Each arm comes first in its time; one in process, in few turns alone, comes last."""
    others = [name for name in names if name != IN_PROCESS]
    first = turn % len(others)
    last = [IN_PROCESS] if IN_PROCESS in names and turn % IN_PROCESS_EVERY == 1 else []
    return others[first:] + others[:first] + last


def main(argv: list[str]) -> None:
    """Take our options, and give the rest to the trainer's own parser."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--arms", choices=("teachers", "passes"), required=True)
    for name in ("dialogue", "recommendation", "cache", "result"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--end-by", type=float, required=True, help="seconds since the epoch")
    arguments, rest = parser.parse_known_args(argv)
    config, data = checked_input(parse(rest))
    start_distributed()
    built: list[Arm] = []
    try:
        ranks = Ranks(config, data)
        builders = (
            pass_builders(config)
            if arguments.arms == "passes"
            else teacher_builders(
                config,
                data,
                dialogue=arguments.dialogue,
                recommendation=arguments.recommendation,
                cache=arguments.cache,
            )
        )
        rows = measure(ranks, builders, close=built, end_by=arguments.end_by)
        if ranks.engine.rank == 0:
            write_json(arguments.result, rows)
    finally:
        for arm in built:
            if arm.teachers is not None:
                arm.teachers.close()
        stop_distributed()


if __name__ == "__main__":
    run_rank(main)
