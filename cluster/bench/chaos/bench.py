"""Does a fault of the fleet show in the student? Real processes, one fault after another.

Students train on fleets of a Directory, two dialogue teachers, and one recommendation teacher or
two. Two lanes run side by side, one with real scoring and one with recorded answers, whose students
hedge; in each an undisturbed run comes first, then one run per scenario, whose loss must be the
undisturbed one's. A third lane, under TLS and a token, cuts a network between namespaces, and
leaves a real two-rank run without teachers for too long. When all lanes are done, a client alone
meets frozen processes, a backlog and flapping links under the settings that ship. A scenario that
fails is a row with its error; the others are measured all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.bench.chaos.attempt import Failure, attempt
from cluster.bench.chaos.caller import client_log
from cluster.bench.chaos.network import Network, missing_for_network, open_network
from cluster.bench.chaos.patience import BEYOND_PATIENCE, run_beyond_patience
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
from cluster.bench.chaos.shipped import run_shipped
from cluster.bench.chaos.trial import (
    UNDISTURBED,
    Subject,
    Trial,
    failed_row,
    name_of,
    row_of,
    run_trial,
    served_for_trials,
)
from cluster.bench.corpus import Corpus, first_examples, fitted_corpus
from cluster.bench.fleet.fleet import LOCAL, Fleet, Host
from cluster.bench.fleet.replay import ReplayTeacher, load_answers
from cluster.bench.result import BenchResult, Row
from cluster.launch.launcher import Launcher
from teacher_server.fleet.certificates import make_certificates
from teacher_server.scoring.kinds import load_teacher
from trainer.common.atomic import write_text
from trainer.common.errors import first_line
from trainer.data.prepared import load_prepared
from trainer.kinds.names import DIALOGUE
from trainer.security.credentials import NO_SECURITY, SecurityFiles

PLOT = Path("bench/results/chaos.png")
LOGS = Path("bench/logs/chaos")
NOTHING_TO_COMPARE = "its lane must have an undisturbed run to compare with, got none."
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
        num_dialogue: int = 2,
        num_recommendation: int = 1,
        host: Host = LOCAL,
        security: SecurityFiles = NO_SECURITY,
    ) -> Fleet:
        """A fleet that scores or replays."""
        tables = self.recording.tables if answers == "replayed" else {}
        served = served_for_trials(
            self.folders,
            tables,
            num_dialogue=num_dialogue,
            num_recommendation=num_recommendation,
        )
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
        outcomes, patience = asyncio.run(_run_lanes(setting, network))
        # Alone: its seconds must not be those of a busy machine.
        with client_log(LOGS / "shipped-client.log"):
            shipped = asyncio.run(_run_shipped(setting))
    return result_of(outcomes, patience, shipped, missing, corpus.name)


def result_of(
    outcomes: Sequence[Trial | Failure],
    patience: Row | Failure,
    shipped: tuple[dict[str, float], list[Row], list[Failure]],
    missing: str,
    corpus: str,
) -> BenchResult:
    """Rows, figures and plot of everything that came to a result, and what did not.

    Args:
        outcomes: of all lanes.
        patience: of the run that loses its teachers for good.
        shipped: figures, rows and failures under the shipped settings.
        missing: why there is no network to cut; empty if there is.
        corpus: name of the dialogues.
    """
    compared = compared_outcomes(outcomes)
    rows = [failed_row(it) if isinstance(it, Failure) else it for it in compared]
    figures, shipped_rows, failures = shipped
    failures = [it for it in (*compared, patience, *failures) if isinstance(it, Failure)]
    drawn = [it for it, row in zip(outcomes, rows, strict=True) if not row["error"]]
    draw_trials([it for it in drawn if isinstance(it, Trial)], shipped_rows, PLOT)
    scenarios = [*rows, failed_row(patience) if isinstance(patience, Failure) else patience]
    if missing:
        scenarios.append({"scenario": "network cut for 20 s", "not_run": missing})
    return BenchResult(
        figures={
            **figures_of(rows, None if isinstance(patience, Failure) else patience),
            **figures,
            "network_cut_run": float(not missing),
            "failed": float(len(failures)),
        },
        rows=rows,
        corpus=corpus,
        details={"scenarios": scenarios, "shipped_settings": shipped_rows},
        failures=tuple(f"{it.name}, answers {it.answers}: {it.error}" for it in failures),
    )


def compared_outcomes(outcomes: Sequence[Trial | Failure]) -> list[Row | Failure]:
    """The row of each trial beside the undisturbed one of its lane; a failure without one."""
    undisturbed = {
        it.answers: it for it in outcomes if isinstance(it, Trial) and it.name == UNDISTURBED
    }

    def compared(outcome: Trial | Failure) -> Row | Failure:
        if isinstance(outcome, Failure):
            return outcome
        try:
            return row_of(outcome, undisturbed[outcome.answers])
        except KeyError:
            error = NOTHING_TO_COMPARE
        except (ValueError, IndexError) as problem:
            # A curve of other steps, or too few of them to tell the speed.
            error = first_line(problem)
        return Failure(name=outcome.name, answers=outcome.answers, error=error)

    return [compared(outcome) for outcome in outcomes]


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


def figures_of(rows: Sequence[Row], patience: Row | None) -> dict[str, float]:
    """The worst over all scenarios; recovery is that from the death of one of two.

    What failed adds nothing: without any result a figure is left out.
    """
    done = [row for row in rows if not row["error"]]
    difference = {"scored": "max_loss_difference", "replayed": "max_loss_difference_replayed"}
    worst: dict[str, float] = {}
    for row in done:
        name = difference[str(row["answers"])]
        worst[name] = max(worst.get(name, 0.0), float(row["loss_difference"]))
        if row["scenario"] == KILL.name:
            worst["recovery_s"] = max(worst.get("recovery_s", 0.0), float(row["recovery_s"]))
    if patience is not None:
        name = difference["replayed"]
        worst[name] = max(worst.get(name, 0.0), float(patience["loss_difference"]))
        worst["patience_exit_status"] = float(patience["exit_status"])
    names = ("lost", "duplicated", "reordered", "hedges")
    return {**worst, **{name: sum(int(row[name]) for row in done) for name in names}}


async def run_lane(setting: Setting, lane: Lane) -> list[Trial | Failure]:
    """An undisturbed run and one per scenario, on one fleet; a failure more if it does not stop."""
    subject = setting.subject(lane.answers, lane.answers, lane.hedge_percent)
    fleet = setting.fleet(lane.answers, lane.answers, num_recommendation=lane.num_recommendation)
    outcomes = [
        await attempt(name_of(it), lane.answers, run_trial(subject, fleet, it))
        for it in (None, *lane.scenarios)
    ]
    return [*outcomes, *await stop_fleet(fleet, lane.answers)]


async def stop_fleet(fleet: Fleet, answers: str) -> list[Failure]:
    """Stop a fleet; a failure if it does not stop: what was measured on it is kept."""
    outcome = await attempt("stop of the fleet", answers, fleet.stop())
    return [outcome] if isinstance(outcome, Failure) else []


async def _run_lanes(
    setting: Setting, network: Network | None
) -> tuple[list[Trial | Failure], Row | Failure]:
    lanes, (cut, patience) = await asyncio.gather(
        asyncio.gather(*(run_lane(setting, lane) for lane in LANES)),
        _run_third_lane(setting, network),
    )
    return [*itertools.chain(*lanes), *cut], patience


async def _run_third_lane(
    setting: Setting, network: Network | None
) -> tuple[list[Trial | Failure], Row | Failure]:
    outcomes = []
    for answers in ("scored", "replayed") if network else ():
        assert network is not None
        name, scenario = f"{answers}-net", network_cut(network)
        fleet = setting.fleet(answers, name, host=network.teachers, security=setting.security)
        trial = run_trial(setting.subject(answers, name), fleet, scenario, network.student)
        outcomes.append(await attempt(scenario.name, answers, trial))
        outcomes += await stop_fleet(fleet, answers)
    fleet = setting.fleet("replayed", "patience", security=setting.security)
    beyond = run_beyond_patience(setting.subject("replayed", "patience"), fleet)
    patience = await attempt(BEYOND_PATIENCE, "replayed", beyond)
    return [*outcomes, *await stop_fleet(fleet, "replayed")], patience


async def _run_shipped(setting: Setting) -> tuple[dict[str, float], list[Row], list[Failure]]:
    outcome = await attempt("shipped settings", "replayed", _measure_shipped(setting))
    return ({}, [], [outcome]) if isinstance(outcome, Failure) else outcome


async def _measure_shipped(setting: Setting) -> tuple[dict[str, float], list[Row], list[Failure]]:
    teacher = load_teacher(DIALOGUE, setting.folders[DIALOGUE], torch.device("cpu"))
    spare = ReplayTeacher(teacher, load_answers(setting.recording.tables[DIALOGUE]))
    fleet = setting.fleet("replayed", "shipped", num_dialogue=0)
    return await run_shipped(fleet, load_prepared(setting.data), spare)
