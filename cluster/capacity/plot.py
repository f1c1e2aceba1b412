"""The model drawn to 256 hosts of students."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cluster.capacity.estimate import Job, rates_of
from cluster.capacity.model import predict, replicas_for
from trainer.evaluation.plots import write_figure

HOSTS = tuple(1 << power for power in range(9))


def draw_capacity(jobs: Sequence[Job], path: Path) -> None:
    """Efficiency of weak scaling, replicas that feed the students, and bytes, by hosts."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    efficiency, replicas, traffic = figure.subplots(1, 3)
    for job in jobs:
        rates = [rates_of(job, students=hosts) for hosts in HOSTS]
        needed = [replicas_for(it, students=n) for it, n in zip(rates, HOSTS, strict=True)]
        cells = [
            predict(it, students=n, teachers=t)
            for it, n, t in zip(rates, HOSTS, needed, strict=True)
        ]
        label = job.student_node.instance_type
        each = [cell.tokens_per_s / cell.students for cell in cells]
        efficiency.plot(HOSTS, [it / each[0] for it in each], marker="o", label=label)
        replicas.plot(HOSTS, needed, marker="o", label=label)
        megabytes = [cell.teacher_bytes_per_s / 1e6 for cell in cells]
        traffic.plot(HOSTS, megabytes, marker="o", label=label)
    efficiency.set_ylim(0, 1.05)
    _finish(efficiency, "tokens/s of a host, against one")
    replicas.set_yscale("log", base=2)
    _finish(replicas, f"replicas of {jobs[0].teacher.name}, {jobs[0].teacher_node.device.name}")
    traffic.set_yscale("log")
    _finish(traffic, "teachers' requests and replies, MB/s")
    figure.suptitle(f"{jobs[0].student.name}, modelled from data sheets")
    write_figure(figure, path)


def _finish(axis: Axes, label: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_xlabel("hosts of students")
    axis.set_ylabel(label)
    axis.grid(alpha=0.3)
    axis.legend()
