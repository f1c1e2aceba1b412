"""The answer of `python -m cluster.capacity`: a table with a column per GPU, or one object."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from cluster.aws.prices import Prices, read_prices
from cluster.capacity import work
from cluster.capacity.devices import NODES, Node
from cluster.capacity.estimate import Job, rates_of
from cluster.capacity.model import predict, replicas_for
from cluster.capacity.shapes import shape_of

Answer = dict[str, str | int | float]
DEFAULT_GPUS = ("A100", "H100")


def jobs_of(arguments: argparse.Namespace) -> list[Job]:
    """A job for each GPU that is named; InputError for a model that has no shape here."""
    return [
        Job(
            student=shape_of("--student", arguments.student),
            teacher=shape_of("--teacher", arguments.teacher),
            student_node=NODES[gpu],
            teacher_node=NODES[arguments.teacher_gpu],
            batch=arguments.batch,
            stage=arguments.zero,
            link_gbit=arguments.link_gbit,
        )
        for gpu in dict.fromkeys(arguments.gpu or DEFAULT_GPUS)
    ]


def show(jobs: Sequence[Job], *, students: int, teachers: int | None, as_json: bool) -> None:
    """Print the answer to each job."""
    prices = read_prices()
    answers = [answer(job, prices, students=students, teachers=teachers) for job in jobs]
    if as_json:
        content = {"students": students, "prices_of": str(prices.as_of), "answers": answers}
        sys.stdout.write(json.dumps(content) + "\n")
    else:
        Console().print(to_table(jobs[0], answers, str(prices.as_of)))


def answer(job: Job, prices: Prices, *, students: int, teachers: int | None) -> Answer:
    """What so many hosts of students need and do; with `teachers` None as many as feed them."""
    rates = rates_of(job, students=students)
    replicas = teachers or replicas_for(rates, students=students)
    cell = predict(rates, students=students, teachers=replicas)
    alone_rates = rates_of(job, students=1)
    alone = predict(
        alone_rates, students=1, teachers=replicas_for(alone_rates, students=1)
    ).tokens_per_s
    responses_per_s = students * job.student_node.num_devices * job.batch / cell.step_s
    dollars = _hourly(prices, job.student_node, students) + _hourly(
        prices, job.teacher_node, math.ceil(replicas / job.teacher_node.num_devices)
    )
    return {
        "gpu": job.student_node.device.name,
        "student_nodes": f"{students} x {job.student_node.instance_type}",
        "ranks": students * job.student_node.num_devices,
        "teacher_replicas": replicas,
        "recommendation_cores": math.ceil(
            responses_per_s * work.RECOMMENDATIONS_PER_RESPONSE / work.RECOMMENDATIONS_PER_S
        ),
        "step_ms": 1e3 * cell.step_s,
        "compute_ms": 1e3 * rates.compute_s,
        "exchange_ms": 1e3 * cell.exchange_s,
        "wait_ms": 1e3 * cell.wait_s,
        "tokens_per_s": cell.tokens_per_s,
        "efficiency": cell.tokens_per_s / (students * alone),
        "teacher_use": cell.teacher_use,
        "teacher_mb_per_s": cell.teacher_bytes_per_s / 1e6,
        "gradient_mb_per_s": cell.gradient_bytes_per_s / 1e6,
        "dollars_per_hour": dollars,
        "dollars_per_million_tokens": dollars / (3_600 * cell.tokens_per_s) * 1e6,
    }


def to_table(job: Job, answers: Sequence[Answer], date: str) -> Table:
    """A row per figure, a column per GPU."""
    table = Table(
        title=f"{job.student.name} ({job.student.num_parameters / 1e6:,.0f} M parameters), ZeRO-"
        f"{job.stage}, {job.batch} responses a rank\nfrom {job.teacher.name} on "
        f"{job.teacher_node.device.name}; modelled from data sheets; prices of {date}"
    )
    table.add_column("")
    for each in answers:
        table.add_column(str(each["gpu"]), justify="right")
    for name in list(answers[0])[1:]:
        table.add_row(name.replace("_", " "), *(_text(each[name]) for each in answers))
    return table


def _text(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def _hourly(prices: Prices, node: Node, number: int) -> float:
    return number * prices.instances[node.instance_type].usd
