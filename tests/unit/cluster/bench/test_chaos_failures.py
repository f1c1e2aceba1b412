"""A scenario of the chaos benchmark that fails, on a machine as slow as it likes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.bench import __main__ as command
from cluster.bench import shown
from cluster.bench.chaos import bench
from cluster.bench.chaos.attempt import Failure, attempt
from cluster.bench.chaos.evidence import Counts, HandOut, Witnessed
from cluster.bench.chaos.scenarios import DIRECTORY, GARBAGE, KILL, OUTAGE_S, Scenario
from cluster.bench.chaos.trial import (
    LEAST_PATIENCE_S,
    UNDISTURBED,
    Trial,
    failed_row,
    name_of,
    patience_s,
    row_of,
)
from cluster.bench.fleet.fleet import Fleet, Served
from cluster.bench.fleet.replica import ready_file
from cluster.bench.result import BenchResult
from trainer.common.errors import MachineError

NOTHING_SHIPPED: tuple[dict[str, float], list[Any], list[Failure]] = ({}, [], [])


def trial(name: str, answers: str = "scored") -> Trial:
    hand_outs = [HandOut(at_s=t / 10, batch=t, rows=1, fingerprints=[]) for t in range(100)]
    return Trial(
        name=name,
        answers=answers,
        curve=[2.0, 1.0],
        witnessed=Witnessed(submitted=[], handed_out=hand_outs, positions=100, resends=0, hedges=0),
        counts=Counts(lost=0, duplicated=0, reordered=0),
        fault_s=2.0,
        lifted_s=3.0,
        survivors=1.0,
    )


class FakeSetting:
    """Subjects and fleets of which the fake trials need nothing."""

    def __init__(self) -> None:
        self.stopped = 0

    def subject(self, *names: Any) -> None:
        return None

    def fleet(self, *names: Any, **options: Any) -> FakeSetting:
        return self

    async def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize(
    "error", [MachineError("the student must exit with 0, got 2."), ValueError("2 steps"), KeyError]
)
def test_lane_goes_on_after_a_scenario_that_fails(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async def run_trial(subject: Any, fleet: Any, scenario: Scenario | None) -> Trial:
        if scenario is KILL:
            raise error
        return trial(name_of(scenario))

    monkeypatch.setattr(bench, "run_trial", run_trial)
    setting: Any = FakeSetting()
    lane = bench.Lane(answers="scored", scenarios=(KILL, GARBAGE))
    outcomes = asyncio.run(bench.run_lane(setting, lane))
    assert [it.name for it in outcomes] == [UNDISTURBED, KILL.name, GARBAGE.name]
    assert [isinstance(it, Failure) for it in outcomes] == [False, True, False]
    assert setting.stopped == 1


def test_fleet_that_does_not_stop_costs_no_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(FakeSetting):
        async def stop(self) -> None:
            raise MachineError("the replica must end, got none in time.")

    async def run_trial(subject: Any, fleet: Any, scenario: Scenario | None) -> Trial:
        return trial(name_of(scenario))

    monkeypatch.setattr(bench, "run_trial", run_trial)
    stuck: Any = Stuck()
    outcomes = asyncio.run(bench.run_lane(stuck, bench.Lane(answers="scored", scenarios=(KILL,))))
    assert [it.name for it in outcomes] == [UNDISTURBED, KILL.name, "stop of the fleet"]
    assert [isinstance(it, Failure) for it in outcomes] == [False, False, True]


def test_attempt_says_which_scenario_failed_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    async def fail() -> None:
        raise MachineError("replicas must start, got none in time.")

    failure = asyncio.run(attempt("all gone", "scored", fail()))
    error = "MachineError: replicas must start, got none in time."
    assert failure == Failure(name="all gone", answers="scored", error=error)
    assert capsys.readouterr().err == f"  all gone, answers scored: FAILED, {error}\n"


def test_result_has_a_row_of_what_failed_and_the_figures_of_the_rest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "PLOT", tmp_path / "chaos.png")
    killed = Failure(name=KILL.name, answers="scored", error="MachineError: it ended")
    patience = Failure(name="all gone beyond patience", answers="replayed", error="ValueError: x")
    short = dataclasses.replace(trial(DIRECTORY.name), curve=[2.0])
    outcomes = [
        *(trial(UNDISTURBED), killed, trial(GARBAGE.name)),
        *(trial(KILL.name, "replayed"), short),
    ]
    result = bench.result_of(outcomes, patience, NOTHING_SHIPPED, "not root", "corpus")
    assert [row["error"] for row in result.rows] == [
        "",
        killed.error,
        "",
        bench.NOTHING_TO_COMPARE,
        "a curve must have 2 steps, got 1.",
    ]
    assert len({tuple(row) for row in result.rows}) == 1
    assert result.figures == {
        "max_loss_difference": 0.0,
        **dict.fromkeys(("lost", "duplicated", "reordered", "hedges", "network_cut_run"), 0),
        "failed": 4.0,
    }
    assert result.failures == (
        f"{KILL.name}, answers scored: {killed.error}",
        f"{KILL.name}, answers replayed: {bench.NOTHING_TO_COMPARE}",
        f"{DIRECTORY.name}, answers scored: a curve must have 2 steps, got 1.",
        "all gone beyond patience, answers replayed: ValueError: x",
    )
    assert result.details["scenarios"][-2]["error"] == "ValueError: x"
    assert (tmp_path / "chaos.png").stat().st_size > 0


def test_result_of_nothing_is_still_a_result(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "PLOT", tmp_path / "chaos.png")
    failed = [Failure(name=UNDISTURBED, answers="scored", error="e")]
    patience: Any = {"loss_difference": 0.0, "exit_status": 2}
    result = bench.result_of(failed, patience, NOTHING_SHIPPED, "", "corpus")
    assert (result.figures["failed"], result.figures["patience_exit_status"]) == (1.0, 2.0)


def test_row_of_a_failure_has_the_columns_of_a_trial() -> None:
    done = trial(UNDISTURBED)
    failure = Failure(name=KILL.name, answers="scored", error="e")
    assert list(failed_row(failure)) == list(row_of(done, done))


def test_benchmark_with_a_failed_part_is_reported_whole_and_exits_with_1(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(failures: tuple[str, ...]) -> Callable[[Path | None], BenchResult]:
        result = BenchResult(figures={"x": 1.0}, rows=[{"y": 2}], corpus="c", failures=failures)
        return lambda source: result

    benchmarks = {"chaos": measured(("kill: it ended",)), "wire": measured(())}
    monkeypatch.setattr(command, "benchmarks", lambda _: benchmarks)
    monkeypatch.setattr(command, "NAMES", tuple(benchmarks))
    monkeypatch.setattr(shown, "RESULTS", tmp_path)
    monkeypatch.setattr(command, "default_source", lambda: None)
    with pytest.raises(SystemExit) as ended:
        command.main(["all", "--json"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert [json.loads(line)["x"] for line in said.out.splitlines()] == [1.0, 1.0]
    assert said.err == "failed: chaos: kill: it ended\n"
    assert {path.name for path in tmp_path.iterdir()} == {"chaos.json", "wire.json"}
    benchmarks["chaos"] = measured(())
    command.main(["all", "--json"])


@pytest.mark.parametrize(
    ("start_s", "expected"), [(0.0, LEAST_PATIENCE_S), (5.0, LEAST_PATIENCE_S), (46.0, 158.0)]
)
def test_patience_outlasts_an_outage_and_what_a_start_takes_here(
    start_s: float, expected: float
) -> None:
    assert patience_s(start_s) == expected > OUTAGE_S + start_s


@dataclasses.dataclass
class SlowLauncher:
    """Starts nothing; a replica is ready a while after its start, by a clock of our own."""

    run: Path
    now_s: float = 0.0
    takes_s: float = 7.0
    pid: int = 0

    def start(self, started: Any) -> Any:
        if "cluster.bench.fleet.replica" in started.argv:
            name = started.argv[started.argv.index("--id") + 1]
            ready_file(self.run, name).touch()
            self.now_s += self.takes_s
        self.command = started
        return self

    def poll(self) -> int | None:
        return None

    def signal(self, number: int) -> None:
        return None


def test_fleet_measures_what_a_start_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    launcher = SlowLauncher(tmp_path / "fleet")
    monkeypatch.setattr("cluster.bench.fleet.fleet.time.monotonic", lambda: launcher.now_s)
    stand_in: Any = launcher
    served = Served(folders={"dialogue": tmp_path}, num_replicas={"dialogue": 2})
    fleet = Fleet(stand_in, served, tmp_path / "fleet")
    assert fleet.start_s == 0.0
    asyncio.run(fleet.heal())
    assert fleet.start_s == 14.0
    asyncio.run(fleet.heal())
    assert fleet.start_s == 14.0
