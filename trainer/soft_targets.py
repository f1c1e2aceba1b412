"""What a student should learn at every position: a gold token and sparse rows of its teachers.

P positions, C positions of one chunk, R target rows, E entries: of all rows, or of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseRows:
    """Ragged rows of one teacher: row r holds the entries offsets_R1[r] to offsets_R1[r + 1].

    Attributes:
        offsets_R1: int64 [R + 1], on the CPU (they slice).
        ids_E: int64 [E], no id twice within a row.
        probs_E: float [E], probabilities, not logs.
        tail_R: float [R], mass of the support that was not sent.
    """

    offsets_R1: Tensor
    ids_E: Tensor
    probs_E: Tensor
    tail_R: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> SparseRows:
        """The same with everything changed that goes to the device."""
        return SparseRows(
            offsets_R1=self.offsets_R1,
            ids_E=change(self.ids_E),
            probs_E=change(self.probs_E),
            tail_R=change(self.tail_R),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherTerm:
    """What one teacher asks of every position.

    Attributes:
        rows: the teacher's rows.
        row_P: int64 [P] on the CPU, the row that position p learns from.
        weight_P: float [P] on the CPU, how much of it; 0 switches the teacher off there.
        support: first id and end of the ids that the tail mass is spread over.
    """

    rows: SparseRows
    row_P: Tensor
    weight_P: Tensor
    support: tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTargets:
    """One sparse target distribution per position.

    Attributes:
        labels_P: int64 [P], gold tokens.
        gold_P: float [P], weight of the gold token.
        terms: the teachers' parts; empty for plain cross entropy.
    """

    labels_P: Tensor
    gold_P: Tensor
    terms: tuple[TeacherTerm, ...] = ()

    def to(self, device: torch.device) -> SoftTargets:
        """The same on a device; from pinned memory the copies run beside what comes next."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> SoftTargets:
        """The same in memory that a CUDA device can fetch by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> SoftTargets:
        terms = tuple(replace(term, rows=term.rows.map(change)) for term in self.terms)
        return SoftTargets(labels_P=change(self.labels_P), gold_P=change(self.gold_P), terms=terms)


@dataclass(frozen=True, eq=False)
class Entries:
    """Where the sparse targets of one chunk lie: the gold tokens first, then term after term.

    Attributes:
        row_E: int64 [E], position within the chunk.
        id_E: int64 [E]; one id of a row may come from the gold token and from several terms.
        weight_E: float [E], what the target has there: the term's weight times the probability.
    """

    row_E: Tensor
    id_E: Tensor
    weight_E: Tensor


@dataclass(frozen=True, eq=False)
class Tail:
    """What one term leaves to its bucket in one chunk.

    Attributes:
        weight_C: float [C], the term's weight times its tail mass.
        support: first id and end of the ids it may lie on.
        own: which entries are the term's, hence outside the bucket.
    """

    weight_C: Tensor
    support: tuple[int, int]
    own: slice


def cut(targets: SoftTargets, chunk: slice, like: Tensor) -> tuple[Entries, list[Tail]]:
    """The chunk's entries and buckets, in the dtype and on the device of `like`."""
    labels_C = targets.labels_P[chunk]
    rows_E = [torch.arange(len(labels_C), device=like.device)]
    ids_E, weights_E = [labels_C], [targets.gold_P[chunk].to(like)]
    tails, end = [], len(labels_C)
    for term in targets.terms:
        rows, row_C, weight_C = term.rows, term.row_P[chunk], term.weight_P[chunk]
        starts_C = rows.offsets_R1[row_C]
        # A position that does not listen to this teacher costs nothing, not even its entries.
        counts_C = torch.where(weight_C > 0, rows.offsets_R1[row_C + 1] - starts_C, 0)
        row_E = torch.repeat_interleave(counts_C)
        within_E = torch.arange(len(row_E)) - (counts_C.cumsum(0) - counts_C)[row_E]
        entry_E = (starts_C[row_E] + within_E).to(like.device)
        row_E, weight_C = row_E.to(like.device), weight_C.to(like)
        rows_E.append(row_E)
        ids_E.append(rows.ids_E[entry_E])
        weights_E.append(weight_C[row_E] * rows.probs_E[entry_E].to(like))
        tail_C = weight_C * rows.tail_R[row_C.to(like.device)].to(like)
        tails.append(Tail(tail_C, term.support, slice(end, end + len(row_E))))
        end += len(row_E)
    return Entries(torch.cat(rows_E), torch.cat(ids_E), torch.cat(weights_E)), tails
