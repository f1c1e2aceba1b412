"""Does trouble in the fleet show in the student? Real processes, hurt one way after another.

Students train on fleets of a Directory, two dialogue teachers and one recommendation teacher. Two
lanes run side by side, one with real scoring and one with recorded answers; in each an undisturbed
run comes first, then one run per scenario, whose loss must be the undisturbed one's. A third lane
cuts a network between namespaces, and leaves a real two-rank run without teachers for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.fleet import Fleet, Place, Served
from cluster.bench.chaos.network import Network, missing_for_network, open_network
from cluster.bench.chaos.patience import run_beyond_patience
from cluster.bench.chaos.plot import draw_trials
from cluster.bench.chaos.recording import Recording, record_answers
from cluster.bench.chaos.scenarios import KILL, SCENARIOS, Scenario, network_cut
from cluster.bench.chaos.trial import Subject, Trial, row_of, run_trial
from cluster.bench.result import BenchResult, Row
from cluster.launch import Command, Launcher
from cluster.stages import Demo, this_machine

PLOT = Path("bench/results/chaos.png")
NUM_DIALOGUES = 180
"""Enough examples that no trial meets one twice."""
LOCAL = Place()


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all lanes share."""

    launcher: Launcher
    data: Path
    folders: dict[str, Path]
    recording: Recording
    output: Path

    def subject(self, answers: str, lane: str) -> Subject:
        """Students of one lane whose teachers score or replay."""
        prints = self.recording.prints if answers == "replayed" else None
        return Subject(
            launcher=self.launcher, data=self.data, output=self.output / lane, prints=prints
        )

    def fleet(self, answers: str, lane: str, place: Place = LOCAL) -> Fleet:
        """A fleet of one lane."""
        tables = self.recording.tables if answers == "replayed" else {}
        served = Served(folders=self.folders, answers=tables)
        return Fleet(self.launcher, served, self.output / f"fleet-{lane}", place)


def bench_chaos(source: Path | None) -> BenchResult:
    """All scenarios on the synthetic corpus, whatever `source` is, with quickly fitted teachers."""
    with (
        tempfile.TemporaryDirectory(prefix="conkd-chaos-") as temporary,
        Launcher(Path(temporary) / "logs", screen=sys.stderr) as launcher,
        contextlib.ExitStack() as stack,
    ):
        setting = prepare(launcher, Path(temporary))
        missing = missing_for_network()
        network = None if missing else stack.enter_context(open_network())
        trials, patience = asyncio.run(_run_lanes(setting, network))
    undisturbed = {trial.answers: trial for trial in trials if trial.name == "undisturbed"}
    rows = [row_of(trial, undisturbed[trial.answers]) for trial in trials]
    draw_trials(trials, PLOT)
    figures = figures_of(rows, patience)
    figures["network_cut_run"] = float(network is not None)
    scenarios = [*rows, patience]
    if missing:
        scenarios.append({"scenario": "network cut for 20 s", "not_run": missing})
    return BenchResult(
        figures=figures, rows=rows, corpus="synthetic", details={"scenarios": scenarios}
    )


def prepare(launcher: Launcher, output: Path) -> Setting:
    """Make data and teachers, and record what these answer."""
    demo = Demo(source=None, output=output, machine=this_machine())
    launcher.run([_extended(demo.prepare(), "--dialogues", str(NUM_DIALOGUES))])
    launcher.run(
        [_extended(demo.pretrain("recommendation"), "epochs=2")],
        [_extended(demo.pretrain("dialogue"), "train.steps=40", "student.hidden_size=64")],
    )
    folders = {kind: output / kind for kind in ("dialogue", "recommendation")}
    recording = record_answers(output / "data", folders, output / "answers")
    return Setting(
        launcher=launcher,
        data=output / "data",
        folders=folders,
        recording=recording,
        output=output / "trials",
    )


def figures_of(rows: Sequence[Row], patience: Row) -> dict[str, float]:
    """The worst over all scenarios; recovery is that from the death of one of two."""
    differences = {"scored": [0.0], "replayed": [float(patience["loss_difference"])]}
    for row in rows:
        differences[str(row["answers"])].append(float(row["loss_difference"]))
    return {
        "max_loss_difference": max(differences["scored"]),
        "max_loss_difference_replayed": max(differences["replayed"]),
        **{
            name: sum(int(row[name]) for row in rows)
            for name in ("lost", "duplicated", "reordered")
        },
        "recovery_s": max(float(row["recovery_s"]) for row in rows if row["scenario"] == KILL.name),
        "patience_exit_status": float(patience["exit_status"]),
    }


async def run_lane(setting: Setting, answers: str, scenarios: Sequence[Scenario]) -> list[Trial]:
    """An undisturbed run and one per scenario, on one fleet."""
    subject, fleet = setting.subject(answers, answers), setting.fleet(answers, answers)
    trials = [await _told(run_trial(subject, fleet, it, LOCAL)) for it in (None, *scenarios)]
    await fleet.stop()
    return trials


async def _told(trial: Awaitable[Trial]) -> Trial:
    """Say on stderr that a trial is done: a job that is silent for minutes may be ended."""
    done = await trial
    sys.stderr.write(f"  {done.name}, answers {done.answers}\n")
    sys.stderr.flush()
    return done


async def _run_lanes(setting: Setting, network: Network | None) -> tuple[list[Trial], Row]:
    scored, replayed, (cut, patience) = await asyncio.gather(
        run_lane(setting, "scored", SCENARIOS),
        run_lane(setting, "replayed", SCENARIOS),
        _run_third_lane(setting, network),
    )
    return [*scored, *replayed, *cut], patience


async def _run_third_lane(setting: Setting, network: Network | None) -> tuple[list[Trial], Row]:
    trials = []
    for answers in ("scored", "replayed") if network else ():
        assert network is not None
        lane = f"{answers}-net"
        fleet = setting.fleet(answers, lane, network.teachers)
        subject = setting.subject(answers, lane)
        trial = run_trial(subject, fleet, network_cut(network), network.student)
        trials.append(await _told(trial))
        await fleet.stop()
    fleet = setting.fleet("replayed", "patience")
    patience = await run_beyond_patience(setting.subject("replayed", "patience"), fleet)
    await fleet.stop()
    return trials, patience


def _extended(command: Command, *arguments: str) -> Command:
    return dataclasses.replace(command, argv=(*command.argv, *arguments))
