"""What do teachers cost the student? Tokens/s with none, with served ones, with both in-process.

Three arms of the same run on two ranks, one after another: distill.gamma = 0; teachers behind Ray
and gRPC; both teachers computed inside every rank, as users do today. Where teachers and students
share the same cores, the served arm pays for the teachers' forward passes too: its ratio says what
the machine can do, not what the wire costs.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

from cluster.bench.result import BenchResult, Row
from cluster.demo import serve_teachers
from cluster.launch import Command, Launcher
from cluster.stages import Demo, this_machine

STEPS = 40
WARM_UP_STEPS = 10
RUN_LENGTH = (f"train.steps={STEPS}", f"train.checkpoint_every={STEPS}")
ARMS = ("no teacher", "served", "in process")


def bench_step(source: Path | None) -> BenchResult:
    """Run the three arms; median tokens/s over the steps after warm-up."""
    with tempfile.TemporaryDirectory(prefix="conkd-bench-") as temporary:
        demo = Demo(source=source, output=Path(temporary), machine=this_machine())
        with Launcher(demo.output / "logs", screen=sys.stderr) as launcher:
            # Quickly fitted teachers: their speed counts here, not their quality.
            quick = {"recommendation": "epochs=1", "classifier": "epochs=1"}
            launcher.run(
                [
                    demo.prepare(),
                    *(_extended(demo.pretrain(kind), it) for kind, it in quick.items()),
                    _extended(demo.pretrain("dialogue"), "train.steps=2"),
                    demo.train_student("no teacher", "distill.gamma=0", *RUN_LENGTH),
                    _in_process(demo),
                ]
            )
            with serve_teachers(demo, launcher) as directory:
                served = (f"teachers.directory={directory}", *RUN_LENGTH)
                launcher.run([demo.train_student("served", *served)])
        rows = [_row(arm, demo.output / arm) for arm in ARMS]
    speed = {str(row["arm"]): float(row["tokens_per_s"]) for row in rows}
    return BenchResult(
        figures={
            "served_to_no_teacher": speed["served"] / speed["no teacher"],
            "in_process_to_no_teacher": speed["in process"] / speed["no teacher"],
            "exposed_wait_fraction": float(rows[1]["wait_fraction"]),
        },
        rows=rows,
        corpus=demo.recipe,
    )


def _extended(command: Command, *arguments: str) -> Command:
    return dataclasses.replace(command, argv=(*command.argv, *arguments))


def _in_process(demo: Demo) -> Command:
    """The student's command with another script and the teachers' folders."""
    command = demo.train_student("in process", *RUN_LENGTH)
    script = command.argv.index("trainer/main.py")
    folders = (
        *("--dialogue", str(demo.output / "dialogue")),
        *("--recommendation", str(demo.output / "recommendation")),
    )
    worker = ("cluster/bench/in_process_student.py", *folders)
    argv = (*command.argv[:script], *worker, *command.argv[script + 1 :])
    return dataclasses.replace(command, argv=argv)


def _row(arm: str, output: Path) -> Row:
    lines = (output / "metrics.jsonl").read_text().splitlines()
    steps = [entry for entry in map(json.loads, lines) if "event" not in entry][WARM_UP_STEPS:]
    speeds = sorted(entry["tokens_per_s"] for entry in steps)
    wait_s = sum(entry["teacher_wait_s"] or 0.0 for entry in steps)
    return {
        "arm": arm,
        "tokens_per_s": statistics.median(speeds),
        "tokens_per_s_p10": speeds[len(speeds) // 10],
        "tokens_per_s_p90": speeds[len(speeds) * 9 // 10],
        "wait_fraction": wait_s / sum(entry["step_s"] for entry in steps),
        "steps": len(steps),
    }
