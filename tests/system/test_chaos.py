"""A short run of the chaos benchmark with real processes."""

from __future__ import annotations

import asyncio
import io
import subprocess
from pathlib import Path

import pytest

from cluster.bench.chaos.network import missing_for_network, open_network
from cluster.bench.chaos.recording import record_answers
from cluster.bench.chaos.scenarios import DIRECTORY, GARBAGE, KILL, KILL_RECOMMENDATION
from cluster.bench.chaos.trial import Subject, Trial, row_of, run_trial, served_for_trials
from cluster.bench.fleet.fleet import Fleet
from cluster.launch.launcher import Launcher
from tests.support.served_teachers import FittedTeachers


@pytest.mark.everything
def test_network_is_cut_and_healed_and_leaves_nothing() -> None:
    if missing := missing_for_network():
        pytest.skip(f"a network of namespaces cannot be made here: {missing}")

    def reaches(network) -> bool:
        # Nothing listens there: a host that is reached refuses, one that is not lets us wait.
        code = f"import socket; socket.create_connection(({network.teachers.address!r}, 9), 2)"
        argv = [*network.student.prefix, "python3", "-c", code]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert "ConnectionRefused" in done.stderr or "timed out" in done.stderr, done.stderr
        return "ConnectionRefused" in done.stderr

    with pytest.raises(InterruptedError), open_network() as network:
        assert reaches(network)
        network.cut()
        assert not reaches(network)
        network.heal()
        assert reaches(network)
        raise InterruptedError
    left = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert network.router not in left.stdout


@pytest.mark.everything
def test_short_chaos_run_does_not_show_in_the_student(
    teachers: FittedTeachers, prepared_dir: Path, tmp_path: Path
) -> None:
    folders = {"dialogue": teachers.dialogue, "recommendation": teachers.recommendation}
    recording = record_answers(prepared_dir, folders, tmp_path / "answers")
    with Launcher(tmp_path / "logs", screen=io.StringIO()) as launcher:
        subject = Subject(
            launcher=launcher,
            data=prepared_dir,
            output=tmp_path / "trials",
            fingerprints=recording.fingerprints,
            steps=32,
            fault_step=10,
            # Undisturbed nothing is sent twice, be the machine never so busy.
            deadline_s=30.0,
        )
        served = served_for_trials(folders, recording.tables, num_recommendation=2)
        fleet = Fleet(launcher, served, tmp_path / "fleet")

        async def trials() -> list[Trial]:
            scenarios = (None, KILL, KILL_RECOMMENDATION, GARBAGE, DIRECTORY)
            return [await run_trial(subject, fleet, it) for it in scenarios]

        undisturbed, *hurt = asyncio.run(trials())
    for trial in (undisturbed, *hurt):
        row = row_of(trial, undisturbed)
        assert len(trial.curve) == subject.steps
        assert float(row["loss_difference"]) <= 1e-6, row
        assert [row[name] for name in ("lost", "duplicated", "reordered")] == [0, 0, 0], row
    assert undisturbed.witnessed.resends == 0
    # The gate asks so little of the recommendation teacher that a replica of it may die idle.
    idle = {DIRECTORY.name, KILL_RECOMMENDATION.name}
    assert all(trial.witnessed.resends > 0 for trial in hurt if trial.name not in idle)
