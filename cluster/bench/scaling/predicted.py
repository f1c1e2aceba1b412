"""What the capacity model says of the cells that are measured here.

Its constants are the lengths of the sleeps, the stated rate of the links or what an exchange alone
gets of it, and figures of other benchmarks. None is taken from a cell.
"""

from __future__ import annotations

from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.grid import MICRO_BATCH, Cell
from cluster.capacity import work
from cluster.capacity.model import Prediction, Rates, predict
from cluster.capacity.network import Link, exchange_s

# Gradients are exchanged in bf16.
GRADIENT_ELEMENT_BYTES = 2
FLOAT32_BYTES = 4
# Of a veth pair and a bridge, with gloo's threads waking up at both ends.
LATENCY_S = 100e-6
# All-reduce without shards: a ring moves as many bytes as it does at stages 1 and 2.
STAGE = 0


def gradient_bytes(lengths: Lengths) -> int:
    """Of all gradients of the student."""
    return lengths.num_parameters * GRADIENT_ELEMENT_BYTES


def compute_s(lengths: Lengths, rows: int) -> float:
    """A student's share of a step with so many rows."""
    return lengths.step_s * rows / lengths.rows


def predicted(cell: Cell, lengths: Lengths, *, rows: int, link_gbit: float) -> Prediction:
    """The model's answer; `rows` of each student at a step."""
    rates = Rates(
        compute_s=compute_s(lengths, rows),
        rows=rows,
        row_s=lengths.row_s + 1 / work.ENCODED_PER_S,
        bytes_per_row=work.DIALOGUE_BYTES_PER_ROW,
        gradient_bytes=gradient_bytes(lengths),
        num_parameters=lengths.num_parameters,
        stage=STAGE,
        link=_link(link_gbit, lengths),
        request_s=work.EXCHANGE_S * max(1, cell.batch // MICRO_BATCH),
    )
    return predict(rates, students=cell.students, teachers=cell.teachers)


def bound_tokens_per_s(cell: Cell, lengths: Lengths, *, rows: int) -> float:
    """What students and teachers would do if nothing but their computing took time."""
    students = cell.students * rows / compute_s(lengths, rows)
    return min(students, cell.teachers / lengths.row_s)


def real_step_s(lengths: Lengths, *, hosts: int, rows: float, link_gbit: float) -> float:
    """A step without sleeps, of the same student in float32, one core for each rank."""
    compute = compute_s(lengths, round(rows))
    met_s = exchange_s(
        STAGE,
        lengths.num_parameters * FLOAT32_BYTES,
        _link(link_gbit, lengths),
        hosts=hosts,
        ranks=hosts,
        num_elements=lengths.num_parameters,
    )
    return compute + met_s


def _link(gbit: float, lengths: Lengths) -> Link:
    # All hosts' gloo shares this machine's cores, which may pass on less than the links.
    return Link(gbit=gbit, latency_s=LATENCY_S, host_bytes_per_s=lengths.bus_bytes_per_s)
