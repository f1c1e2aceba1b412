"""Rates of a student and a teacher on GPUs, from their shapes and the devices' data sheets.

A forward of a token takes 2 FLOPs for each parameter of the layers, a backward twice as many; the
output weight is used at supervised positions alone. V vocabulary, D hidden.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.capacity import work
from cluster.capacity.devices import Device, Node
from cluster.capacity.model import Rates
from cluster.capacity.network import Link
from cluster.capacity.shapes import Shape

BF16, FLOAT32 = 2, 4
# Forward and backward.
TRAINING = 3
# AdamW reads and writes two moments and the master copy in float32, reads a gradient and writes the
# weight in bf16.
UPDATE_BYTES = 6 * FLOAT32 + 2 * BF16


@dataclass(frozen=True, kw_only=True)
class Job:
    """A student, its teacher, and where they run."""

    student: Shape
    teacher: Shape
    student_node: Node
    teacher_node: Node
    batch: int = 32
    """Responses of a rank at a step."""
    stage: int = 2
    link_gbit: float | None = None
    """Of the students' hosts; None: the node's."""


def rates_of(job: Job, *, students: int) -> Rates:
    """What the model needs, for so many hosts: the update is divided among their ranks."""
    ranks = students * job.student_node.num_devices
    rows = job.batch * work.ROWS_PER_RESPONSE
    gbit = job.student_node.link_gbit if job.link_gbit is None else job.link_gbit
    return Rates(
        compute_s=training_s(job.student, job.student_node.device, rows)
        + update_s(job.student, job.student_node.device, ranks=ranks, stage=job.stage),
        rows=rows,
        row_s=row_s(job.teacher, job.teacher_node.device, rows),
        bytes_per_row=work.BYTES_PER_ROW,
        gradient_bytes=job.student.num_parameters * BF16,
        num_parameters=job.student.num_parameters,
        stage=job.stage,
        link=Link(gbit=gbit),
        request_s=work.EXCHANGE_S,
        ranks_per_student=job.student_node.num_devices,
    )


def training_s(student: Shape, device: Device, rows: float) -> float:
    """Forward and backward of a rank's batch."""
    return device.seconds(
        flops=TRAINING * forward_flops(student, rows),
        num_bytes=TRAINING * student.num_parameters * BF16 + rows * student.vocab_size * FLOAT32,
    )


def update_s(student: Shape, device: Device, *, ranks: int, stage: int) -> float:
    """The optimiser's step: from stage 1 on each rank updates its share."""
    share = student.num_parameters / (ranks if stage else 1)
    return device.seconds(flops=0.0, num_bytes=share * UPDATE_BYTES)


def row_s(teacher: Shape, device: Device, rows: float) -> float:
    """A replica's time for a row, in rounds of `rows`: forward, cut and encoding."""
    forward_s = device.seconds(
        flops=forward_flops(teacher, rows), num_bytes=teacher.num_parameters * BF16
    )
    cut_bytes = rows * teacher.vocab_size * FLOAT32 * work.PASSES_OF_CUT
    cut_s = device.seconds(flops=0.0, num_bytes=cut_bytes)
    return (forward_s + cut_s) / rows + 1 / work.ENCODED_PER_S


def forward_flops(shape: Shape, rows: float) -> float:
    """Of the sequences that hold so many supervised positions, one forward per dialogue."""
    tokens = rows * work.TOKENS_PER_ROW
    return 2 * (tokens * shape.layer_parameters + rows * shape.vocab_size * shape.hidden_size)
