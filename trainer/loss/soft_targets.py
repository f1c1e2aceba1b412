"""What a student should learn at every position: a gold token and sparse rows of its teachers.

P positions, C positions of one chunk, R target rows, E entries: of all rows, or of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from trainer.loss.watched import Watched


@dataclass(frozen=True, kw_only=True, eq=False)
class SparseRows:
    """Ragged rows of one teacher: row r holds the entries offsets_R1[r] to offsets_R1[r + 1].

    Attributes:
        offsets_R1: int64 [R + 1].
        ids_E: int64 [E], no id twice within a row.
        probs_E: float [E], probabilities, not logs.
        tail_R: float [R], mass of the support that was not sent.
    """

    offsets_R1: Tensor
    ids_E: Tensor
    probs_E: Tensor
    tail_R: Tensor

    def map(self, change: Callable[[Tensor], Tensor]) -> SparseRows:
        """The same with every tensor changed."""
        return SparseRows(**{name: change(tensor) for name, tensor in vars(self).items()})


@dataclass(frozen=True, kw_only=True, eq=False)
class TeacherTerm:
    """What one teacher asks of every position.

    Attributes:
        rows: the teacher's rows.
        row_P: int64 [P], the row that position p learns from.
        weight_P: float [P], how much of it; 0 switches the teacher off there.
        support: first id and end of the ids that the tail mass is spread over.
        num_entries_P: int64 [P], entries that the position takes; stays on the CPU, so that the
            size of a chunk's arrays is known without waiting for a device.
        watched: where its first ids are compared with the student's; None: nowhere.
    """

    rows: SparseRows
    row_P: Tensor
    weight_P: Tensor
    support: tuple[int, int]
    num_entries_P: Tensor
    watched: Watched | None = None

    @classmethod
    def of(
        cls,
        rows: SparseRows,
        row_P: Tensor,
        weight_P: Tensor,
        support: tuple[int, int],
        watched: Watched | None = None,
    ) -> TeacherTerm:
        """From tensors on the CPU, which know how many entries every position takes."""
        return cls(
            rows=rows,
            row_P=row_P,
            weight_P=weight_P,
            support=support,
            num_entries_P=_entries_of(rows, row_P, weight_P)[1],
            watched=watched,
        )

    def map(self, change: Callable[[Tensor], Tensor]) -> TeacherTerm:
        """The same with everything changed that goes to the device."""
        return replace(
            self,
            rows=self.rows.map(change),
            row_P=change(self.row_P),
            weight_P=change(self.weight_P),
            watched=None if self.watched is None else self.watched.map(change),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class SoftTargets:
    """One sparse target distribution per position.

    Attributes:
        labels_P: int64 [P], gold tokens.
        gold_P: float [P], weight of the gold token.
        terms: the teachers' parts; empty for plain cross entropy.
        temperature: T of the teachers' rows, and of the student where it learns from them; the gold
            token's part is at 1. The factor T^2 is in the terms' weights.
    """

    labels_P: Tensor
    gold_P: Tensor
    terms: tuple[TeacherTerm, ...] = ()
    temperature: float = 1.0

    @property
    def is_tempered(self) -> bool:
        """Whether the two parts read two distributions of the student."""
        return bool(self.terms) and self.temperature != 1.0

    def of_gold(self) -> SoftTargets:
        """The gold tokens' part alone, at temperature 1."""
        return SoftTargets(labels_P=self.labels_P, gold_P=self.gold_P)

    def of_teachers(self) -> SoftTargets:
        """The teachers' part alone: the gold tokens weigh nothing."""
        return replace(self, gold_P=torch.zeros_like(self.gold_P))

    def to(self, device: torch.device) -> SoftTargets:
        """The same on a device; from pinned memory the copies run beside what comes next."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> SoftTargets:
        """The same in memory that a CUDA device can fetch by itself."""
        return self._map(Tensor.pin_memory)

    def _map(self, change: Callable[[Tensor], Tensor]) -> SoftTargets:
        terms = tuple(term.map(change) for term in self.terms)
        labels_P, gold_P = change(self.labels_P), change(self.gold_P)
        return replace(self, labels_P=labels_P, gold_P=gold_P, terms=terms)


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


def cut(targets: SoftTargets, chunk: slice | Tensor, like: Tensor) -> tuple[Entries, list[Tail]]:
    """The chunk's entries and buckets, in the dtype and on the device of `like`, as targets are.

    For a slice, nothing here waits for the device or is copied to it. A chunk may also be int64
    numbers of positions, on the CPU.
    """
    labels_C = targets.labels_P[chunk]
    rows_E = [torch.arange(len(labels_C), device=like.device)]
    ids_E, weights_E = [labels_C], [targets.gold_P[chunk].to(like)]
    tails, end = [], len(labels_C)
    for term in targets.terms:
        rows, row_C, weight_C = term.rows, term.row_P[chunk], term.weight_P[chunk].to(like)
        num_entries = int(term.num_entries_P[chunk].sum())
        starts_C, counts_C = _entries_of(rows, row_C, weight_C)
        row_E = torch.repeat_interleave(counts_C, output_size=num_entries)
        within_E = torch.arange(num_entries, device=like.device)
        entry_E = within_E + (starts_C - counts_C.cumsum(0) + counts_C)[row_E]
        rows_E.append(row_E)
        ids_E.append(rows.ids_E[entry_E])
        weights_E.append(weight_C[row_E] * rows.probs_E[entry_E].to(like))
        tails.append(
            Tail(
                weight_C * rows.tail_R[row_C].to(like), term.support, slice(end, end + num_entries)
            )
        )
        end += num_entries
    return Entries(torch.cat(rows_E), torch.cat(ids_E), torch.cat(weights_E)), tails


def _entries_of(rows: SparseRows, row_P: Tensor, weight_P: Tensor) -> tuple[Tensor, Tensor]:
    """Of every position: where its row's entries begin, and how many of them it takes.

    A position that does not listen to this teacher costs nothing, not even its entries.
    """
    starts_P = rows.offsets_R1[row_P]
    return starts_P, torch.where(weight_P > 0, rows.offsets_R1[row_P + 1] - starts_P, 0)
