"""The benchmark `scaling` on a real cluster: its commands, and what it reads of the runs' logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.bench.scaling import on_cluster
from cluster.bench.scaling.grid import Grid
from cluster.bench.scaling.on_cluster import STEPS, WARM_UP, bench_on_cluster
from cluster.bench.scaling.run_steps import read_steps
from trainer.common.errors import MissingError

CONFIG = Path("trainer/configs/dialogpt.yaml")


class RecordedCluster:
    """Writes the log of a run that is followed; its steps take so long as it has hosts."""

    def __init__(self, shared: Path) -> None:
        self.commands: list[tuple[str, ...]] = []
        self._shared = shared
        self._hosts = 0

    def run(self, address: str, module: str, *arguments: str, text: str = "") -> None:
        assert address == "auto"
        self.commands.append((module, *arguments))
        if "train" in arguments:
            assert text == CONFIG.read_text()
            self._hosts = int(arguments[arguments.index("--nodes") + 1])
        if "follow" in arguments:
            self._write(self._shared / "runs" / arguments[-1])

    def _write(self, output: Path) -> None:
        output.mkdir(parents=True)
        # A warm-up that would change every figure if it were counted.
        steps = [
            {
                "step": step,
                "step_s": 9.0 if step <= WARM_UP else 1.0 + 0.1 * self._hosts,
                "positions": 1_000 * self._hosts,
                "teacher_wait_s": 0.11,
                "wire_bytes": 100_000 * self._hosts,
                "request_bytes": 10_000 * self._hosts,
            }
            for step in range(1, STEPS + 1)
        ]
        lines = [{"event": "start"}, *steps, {"event": "end"}]
        (output / "metrics.jsonl").write_text("".join(json.dumps(it) + "\n" for it in lines))


def test_the_fleet_is_scaled_and_a_run_is_followed_in_every_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RecordedCluster(tmp_path)
    monkeypatch.setenv("CONKD_SHARED", str(tmp_path))
    monkeypatch.setattr(on_cluster, "_cluster", cluster.run)
    grid = Grid(students=(1, 4), teachers=(1, 2))
    result = bench_on_cluster("auto", CONFIG, grid)
    assert [(row["students"], row["teachers"]) for row in result.rows] == [
        *((1, 1), (4, 1), (1, 2), (4, 2))
    ]
    verbs = [
        next(it for it in command if it in {"scale", "train", "follow"})
        for command in cluster.commands
    ]
    assert verbs == ["scale", *["train", "follow"] * 2] * 2
    assert cluster.commands[0] == ("cluster.head", "teachers", "scale", "dialogue=1")
    assert "train.batch_size=512" in cluster.commands[3]
    alone, four = result.rows[0], result.rows[1]
    assert alone["tokens_per_s"] == pytest.approx(1_000 / 1.1)
    assert alone["exposed_wait"] == pytest.approx(0.1)
    assert four["teacher_mb_per_s"] == pytest.approx(0.44 / 1.4)
    assert result.figures["student_efficiency"] == pytest.approx(1.1 / 1.4)


def test_a_machine_that_is_no_node_of_a_cluster_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CONKD_SHARED", raising=False)
    with pytest.raises(MissingError, match="CONKD_SHARED must name the cluster's shared folder"):
        bench_on_cluster("auto", CONFIG, Grid())


def test_a_run_that_took_no_step_after_its_warm_up_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"metrics.jsonl must have steps after 3, got none"):
        read_steps(tmp_path, after=3)
    (tmp_path / "metrics.jsonl").write_text('{"event": "start"}\n{"step": 3}\n{"step": 4}\n')
    assert read_steps(tmp_path, after=3) == [{"step": 4}]
