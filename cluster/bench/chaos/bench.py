"""Does a fault of the fleet show in the student? Real processes, one fault after another.

Students train on fleets of a Directory, two dialogue teachers, and one recommendation teacher or
two. Two lanes run side by side, one with real scoring and one with recorded answers, whose students
hedge; in each an undisturbed run comes first, then one run per scenario, whose loss must be the
undisturbed one's. A third lane, under TLS and a token, cuts a network between namespaces, and
leaves a real two-rank run without teachers for too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.bench.chaos.network import Network, missing_for_network, open_network
from cluster.bench.chaos.patience import run_beyond_patience
from cluster.bench.chaos.plot import draw_trials
from cluster.bench.chaos.recording import Recording, record_answers
from cluster.bench.chaos.scenarios import (
    KILL,
    KILL_RECOMMENDATION,
    NO_RECOMMENDATION,
    SCENARIOS,
    Scenario,
    network_cut,
)
from cluster.bench.chaos.trial import Subject, Trial, row_of, run_trial, served_for_trials
from cluster.bench.corpus import Corpus, first_examples, fitted_corpus
from cluster.bench.fleet.fleet import LOCAL, Fleet, Host
from cluster.bench.result import BenchResult, Row
from cluster.launch.launcher import Launcher
from teacher_server.fleet.certificates import make_certificates
from trainer.common.atomic import write_text
from trainer.security.credentials import NO_SECURITY, SecurityFiles

PLOT = Path("bench/results/chaos.png")
LOGS = Path("bench/logs/chaos")
NUM_EXAMPLES = 560
"""70 steps of 8, so that no trial uses an example twice."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One fleet, and the faults that are injected in one run after another."""

    answers: str
    """scored or replayed."""
    scenarios: tuple[Scenario, ...]
    num_recommendation: int = 1
    """Recommendation teachers of the fleet."""
    hedge_percent: float = 0.0
    """teachers.hedge_percent of the students."""


LANES = (
    Lane(answers="scored", scenarios=(*SCENARIOS, NO_RECOMMENDATION)),
    # A replayed answer identifies its example, so one that hedging let in twice would be seen.
    Lane(
        answers="replayed",
        scenarios=(*SCENARIOS, KILL_RECOMMENDATION),
        num_recommendation=2,
        hedge_percent=10.0,
    ),
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all lanes share."""

    launcher: Launcher
    data: Path
    folders: dict[str, Path]
    recording: Recording
    output: Path
    security: SecurityFiles
    """Of the fleets of the third lane."""

    def subject(self, answers: str, name: str, hedge_percent: float = 0.0) -> Subject:
        """Students whose teachers score or replay; their trials are in a folder of that name."""
        return Subject(
            launcher=self.launcher,
            data=self.data,
            output=self.output / name,
            fingerprints=self.recording.fingerprints if answers == "replayed" else None,
            hedge_percent=hedge_percent,
        )

    def fleet(
        self,
        answers: str,
        name: str,
        *,
        num_recommendation: int = 1,
        host: Host = LOCAL,
        security: SecurityFiles = NO_SECURITY,
    ) -> Fleet:
        """A fleet that scores or replays."""
        tables = self.recording.tables if answers == "replayed" else {}
        served = served_for_trials(self.folders, tables, num_recommendation=num_recommendation)
        run = self.output / f"fleet-{name}"
        return Fleet(self.launcher, served, run, host=host, security=security)


def bench_chaos(source: Path | None) -> BenchResult:
    """All scenarios, with the corpus' fitted teachers."""
    corpus = fitted_corpus(source)
    with (
        tempfile.TemporaryDirectory(prefix="conkd-chaos-") as temporary,
        Launcher(LOGS, screen=sys.stderr) as launcher,
        contextlib.ExitStack() as stack,
    ):
        setting = prepare(launcher, corpus, Path(temporary))
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
        figures=figures, rows=rows, corpus=corpus.name, details={"scenarios": scenarios}
    )


def prepare(launcher: Launcher, corpus: Corpus, output: Path) -> Setting:
    """Take a part of the training examples, record what both teachers answer, make secrets."""
    data = first_examples(corpus.data, NUM_EXAMPLES, output / "data")
    folders = corpus.folders
    return Setting(
        launcher=launcher,
        data=data,
        folders=folders,
        recording=record_answers(data, folders, output / "answers"),
        output=output / "trials",
        security=make_secrets(output / "secrets"),
    )


def make_secrets(folder: Path) -> SecurityFiles:
    """A development set of certificates, and a token."""
    make_certificates(folder, days=1)
    token = folder / "token"
    write_text(token, secrets.token_hex(32))
    token.chmod(0o600)
    return SecurityFiles(tls=str(folder), token_file=str(token))


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
            for name in ("lost", "duplicated", "reordered", "hedges")
        },
        "recovery_s": max(float(row["recovery_s"]) for row in rows if row["scenario"] == KILL.name),
        "patience_exit_status": float(patience["exit_status"]),
    }


async def run_lane(setting: Setting, lane: Lane) -> list[Trial]:
    """An undisturbed run and one per scenario, on one fleet."""
    subject = setting.subject(lane.answers, lane.answers, lane.hedge_percent)
    fleet = setting.fleet(lane.answers, lane.answers, num_recommendation=lane.num_recommendation)
    trials = [await _reported(run_trial(subject, fleet, it)) for it in (None, *lane.scenarios)]
    await fleet.stop()
    return trials


async def _reported(trial: Awaitable[Trial]) -> Trial:
    """Report on stderr that a trial is done: CI may end a job without output for minutes."""
    done = await trial
    sys.stderr.write(f"  {done.name}, answers {done.answers}\n")
    sys.stderr.flush()
    return done


async def _run_lanes(setting: Setting, network: Network | None) -> tuple[list[Trial], Row]:
    lanes, (cut, patience) = await asyncio.gather(
        asyncio.gather(*(run_lane(setting, lane) for lane in LANES)),
        _run_third_lane(setting, network),
    )
    return [*itertools.chain(*lanes), *cut], patience


async def _run_third_lane(setting: Setting, network: Network | None) -> tuple[list[Trial], Row]:
    trials = []
    for answers in ("scored", "replayed") if network else ():
        assert network is not None
        name = f"{answers}-net"
        fleet = setting.fleet(answers, name, host=network.teachers, security=setting.security)
        subject = setting.subject(answers, name)
        trial = run_trial(subject, fleet, network_cut(network), network.student)
        trials.append(await _reported(trial))
        await fleet.stop()
    fleet = setting.fleet("replayed", "patience", security=setting.security)
    patience = await run_beyond_patience(setting.subject("replayed", "patience"), fleet)
    await fleet.stop()
    return trials, patience
