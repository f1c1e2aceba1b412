"""The table of the benchmark `scaling`, and its figures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.bench.result import Row
from cluster.bench.scaling.calibration import Lengths
from cluster.bench.scaling.grid import WEAK, Cell
from cluster.bench.scaling.plan import Measured
from cluster.bench.scaling.predicted import bound_tokens_per_s, predicted


@dataclass(frozen=True, kw_only=True)
class MeasuredCell:
    """A cell and what its students measured."""

    cell: Cell
    ranks: tuple[Measured, ...]
    steps: int

    @property
    def seconds(self) -> float:
        """Of all steps; ranks meet at each, so they differ little, and the longest counts."""
        return max(sum(rank.step_s) for rank in self.ranks)

    @property
    def rows(self) -> int:
        """Of each student at a step."""
        return self.ranks[0].rows // self.steps

    @property
    def tokens_per_s(self) -> float:
        """Supervised positions of all students."""
        return sum(rank.rows for rank in self.ranks) / self.seconds

    @property
    def exposed_wait(self) -> float:
        """Share of the time that a student waits for targets, and with it those that it meets.

        Of each step the longest wait of a rank: the others wait for that rank in the exchange.
        """
        waits = zip(*(rank.wait_s for rank in self.ranks), strict=True)
        return sum(map(max, waits)) / self.seconds

    @property
    def exchange_s(self) -> float:
        """Of a step: that of the rank that came last, which waits for nobody."""
        times = zip(*(rank.exchange_s for rank in self.ranks), strict=True)
        return statistics.fmean(map(min, times))


def row_of(measured: MeasuredCell, alone: float, lengths: Lengths, link_gbit: float) -> Row:
    """A line of the table; `alone` is what one student does with its own replicas, tokens/s."""
    cell, ranks, seconds = measured.cell, measured.ranks, measured.seconds
    model = predicted(cell, lengths, rows=measured.rows, link_gbit=link_gbit)
    bound = bound_tokens_per_s(cell, lengths, rows=measured.rows)
    steps = [length for rank in ranks for length in rank.step_s]
    rows = sum(rank.rows for rank in ranks)
    return {
        "scaling": cell.scaling,
        "students": cell.students,
        "teachers": cell.teachers,
        "tokens_per_s": measured.tokens_per_s,
        "efficiency": measured.tokens_per_s / (cell.students * alone),
        "of_bound": measured.tokens_per_s / bound,
        "step_s": seconds / measured.steps,
        "step_s_p95": _quantile(steps, 0.95),
        "exchange_s": measured.exchange_s,
        "exposed_wait": measured.exposed_wait,
        "teacher_use": rows * lengths.row_s / (cell.teachers * seconds),
        "teacher_mb_per_s": sum(rank.teacher_bytes for rank in ranks) / seconds / 1e6,
        "sent_mb_per_s": sum(rank.sent_bytes for rank in ranks) / seconds / 1e6,
        "cpu_s_per_step": sum(rank.cpu_s for rank in ranks) / measured.steps,
        "resends": sum(rank.resends for rank in ranks),
        "model_tokens_per_s": model.tokens_per_s,
        "model_exchange_s": model.exchange_s,
        "model_exposed_wait": model.wait_s / model.step_s,
        "model_error": model.tokens_per_s / measured.tokens_per_s - 1,
    }


def table_of(cells: Sequence[MeasuredCell], lengths: Lengths, link_gbit: float) -> list[Row]:
    """A row per cell; efficiency is against the smallest cell beside the most teachers."""
    weak = [it for it in cells if it.cell.scaling == WEAK]
    base = min(weak, key=lambda it: (it.cell.students, -it.cell.teachers))
    alone = base.tokens_per_s / base.cell.students
    return [row_of(it, alone, lengths, link_gbit) for it in cells]


def figures_of(rows: Sequence[Row], lengths: Lengths) -> dict[str, float]:
    """Efficiencies of weak scaling, the model's largest error, and what was slept.

    `student_efficiency`: a student among the most, against one of the fewest, beside the most
    teachers. `teacher_efficiency`: of the most students beside each number of replicas the least
    share of the bound, which is what computing alone allows.
    """
    weak = [row for row in rows if row["scaling"] == WEAK]
    most_students = max(int(row["students"]) for row in weak)
    most_teachers = max(int(row["teachers"]) for row in weak)
    along_students = [row for row in weak if row["teachers"] == most_teachers]
    along_teachers = [row for row in weak if row["students"] == most_students]
    fewest = min(along_students, key=lambda row: int(row["students"]))
    most = max(along_students, key=lambda row: int(row["students"]))
    return {
        "student_efficiency": _each(most) / _each(fewest),
        "teacher_efficiency": min(float(row["of_bound"]) for row in along_teachers),
        "model_max_error": max(abs(float(row["model_error"])) for row in rows),
        "compute_s": lengths.step_s,
        "row_s": lengths.row_s,
        "rows_per_step": float(lengths.rows),
        "load": lengths.load,
    }


def _each(row: Row) -> float:
    return float(row["tokens_per_s"]) / int(row["students"])


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
