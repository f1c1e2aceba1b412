"""A run without sleeps: the trainer on one host and on two, with what its teachers answered before.

Students train whole, under DeepSpeed's launcher; the replica replays recorded answers at once. Both
ranks, the replica and the Directory share this machine's cores, so it says what a second host costs
and not how fast hosts with cores of their own would be.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.bench.corpus import first_examples
from cluster.bench.fleet.recording import record_kind
from cluster.bench.result import Row
from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.grid import MICRO_BATCH
from cluster.bench.scaling.inputs import DIALOGUE_ALONE, Inputs
from cluster.bench.scaling.predicted import FLOAT32_BYTES, real_step_s
from cluster.bench.scaling.run_steps import read_steps
from cluster.bench.scaling.world import Shared, World, student_host
from trainer.data.prepared import load_prepared
from trainer.kinds.names import DIALOGUE

FLEET, ANSWERS, DATA = "real", "real.npz", "real-data"
NUM_EXAMPLES = 640
STEPS, WARM_UP = 14, 4
TIMEOUT_S = 600.0
LAUNCHER = "deepspeed.launcher.launch"


def measure_real(
    world: World, shared: Shared, inputs: Inputs, hosts: Sequence[int], *, port: int, gbit: float
) -> list[Row]:
    """Train on each number of hosts, MICRO_BATCH responses a host; a row per number.

    Nothing else of the world may run: this starts a fleet of its own.
    """
    data = first_examples(inputs.data.root, NUM_EXAMPLES, shared.here / DATA)
    examples = load_prepared(data).examples("train")
    record_kind(DIALOGUE, inputs.teacher, examples, inputs.config.distill, shared.here / ANSWERS)
    world.start_directory(FLEET)
    world.start_replicas(FLEET, [1], answers=ANSWERS, seconds_per_row=0.0)
    rows: list[Row] = []
    for number in hosts:
        output = f"real-{number}"
        settings = (
            *("--config", str(inputs.recipe), f"data={shared.there / DATA}"),
            *(f"output={shared.there / output}", "item_vectors=null", *DIALOGUE_ALONE),
            *(f"train.steps={STEPS}", f"train.checkpoint_every={STEPS}", *world.settings),
            f"train.batch_size={number * MICRO_BATCH}",
        )
        world.run_on(_launchers(world, number, port, settings), TIMEOUT_S)
        rows.append(_row(shared.here / output, number, inputs.lengths, gbit))
    alone = _each(rows[0])
    return [{**row, "efficiency": _each(row) / alone} for row in rows]


def _launchers(
    world: World, number: int, port: int, settings: Sequence[str]
) -> Mapping[str, Sequence[str]]:
    """Host -> DeepSpeed's launcher of its one rank."""
    names = [student_host(rank) for rank in range(number)]
    slots = json.dumps({world.address(name): [0] for name in names})
    info = base64.urlsafe_b64encode(slots.encode()).decode()
    master = (f"--master_addr={world.address(names[0])}", f"--master_port={port}")
    return {
        name: (
            *(LAUNCHER, f"--world_info={info}", f"--node_rank={rank}", *master),
            *("trainer/main.py", *settings),
        )
        for rank, name in enumerate(names)
    }


def _row(output: Path, hosts: int, lengths: Lengths, gbit: float) -> Row:
    """What the run's own log says of its steps after the warm-up, and what the model says."""
    steps = read_steps(output, after=WARM_UP)
    seconds = sum(it["step_s"] for it in steps)
    positions = sum(it["positions"] for it in steps)
    model_s = real_step_s(lengths, hosts=hosts, rows=positions / len(steps) / hosts, link_gbit=gbit)
    return {
        "hosts": hosts,
        "steps": len(steps),
        "tokens_per_s": positions / seconds,
        "step_s": seconds / len(steps),
        "exposed_wait": sum(it["teacher_wait_s"] for it in steps) / seconds,
        "gradient_mb": lengths.num_parameters * FLOAT32_BYTES / 1e6,
        "model_step_s": model_s,
        "model_error": model_s / (seconds / len(steps)) - 1,
    }


def _each(row: Row) -> float:
    return float(row["tokens_per_s"]) / int(row["hosts"])
