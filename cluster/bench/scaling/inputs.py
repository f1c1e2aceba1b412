"""What the hosts are given, in the folder that they share: data, the teacher, recorded answers."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from cluster.bench.corpus import Dialogues
from cluster.bench.fleet.recording import record_kind
from cluster.bench.scaling.calibration import Lengths, measure_lengths, write_teacher
from cluster.bench.scaling.fixed_batch import fixed_parts
from cluster.bench.scaling.grid import BATCH
from cluster.bench.scaling.world import TEACHER, Shared
from cluster.launch.machine import ROOT
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config
from trainer.data.prepared import PreparedData, load_prepared
from trainer.kinds.names import DIALOGUE

DATA, ANSWERS = "data", "answers.npz"
# The dialogue teacher alone is asked: its replicas are the axis.
DIALOGUE_ALONE = ("distill.gate=fixed", "distill.fixed_lambda=0")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What lies in the shared folder, and what is known of it."""

    recipe: Path
    config: RunConfig
    data: PreparedData
    teacher: Path
    lengths: Lengths

    def with_lengths(self, lengths: Lengths) -> Inputs:
        """The same with other sleeps."""
        return replace(self, lengths=lengths)


def prepare_inputs(dialogues: Dialogues, shared: Shared) -> Inputs:
    """Fill the shared folder, and measure the lengths of the sleeps."""
    folder = shared.here / DATA
    shutil.copytree(dialogues.data, folder)
    data = load_prepared(folder)
    places = [f"data={folder}", "output=unused", *DIALOGUE_ALONE]
    config = load_config(RunConfig, ROOT / dialogues.recipe, places)
    teacher = write_teacher(data, shared.here / TEACHER)
    lengths = measure_lengths(config, data, teacher)
    examples = [example for part in fixed_parts(data, BATCH) for example in part]
    record_kind(DIALOGUE, teacher, examples, config.distill, shared.here / ANSWERS)
    sys.stderr.write(
        f"a step of {lengths.rows} rows takes {lengths.step_s:.3f} s, a row of the teacher "
        f"{1e3 * lengths.row_s:.3f} ms: one student uses {lengths.load:.2f} of a replica\n"
    )
    return Inputs(
        recipe=dialogues.recipe, config=config, data=data, teacher=teacher, lengths=lengths
    )
