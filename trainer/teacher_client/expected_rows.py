"""What the rows of a reply must be, as they were asked for.

A whole answer to another request is as wrong as a torn one.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from protos import codec, teacher_pb2
from protos.codec import BlockLimits, TargetRows, WireError
from protos.compression import max_entries
from protos.item_mass import check_item_mass
from protos.target_rows import ITEM_MASS, MASS_TOLERANCE
from trainer.config.distill import DistillConfig
from trainer.data.vocabulary import Vocabulary
from trainer.kinds.teacher_kind import TeacherKind


@dataclass(frozen=True, kw_only=True)
class ExpectedRows:
    """The rules of one kind of teacher in one run."""

    compression: teacher_pb2.Compression
    vocab_size: int
    support: range
    """Rows hold ids of it alone."""
    items: range
    """Ids of the items, whose mass each row names."""

    @classmethod
    def of(
        cls, kind: TeacherKind, distill: DistillConfig, vocabulary: Vocabulary, seed: int
    ) -> ExpectedRows:
        """Of a kind of teacher, as a run of that seed asks for its rows."""
        first, number = vocabulary.first_item_id, vocabulary.num_items
        items = range(first, first + number)
        return cls(
            compression=kind.compression(distill, seed),
            vocab_size=vocabulary.size,
            support=kind.support(vocabulary.size, items),
            items=items,
        )

    @property
    def max_entries(self) -> int:
        """Entries of one row at most."""
        return max_entries(self.compression, len(self.support))

    def decode(self, block: bytes, num_rows: int, temperature: float = 1.0) -> TargetRows:
        """The rows of a reply block to a request at a temperature.

        Raises:
            WireError: if the block is broken, or is not what was asked for.
        """
        limits = BlockLimits(max_rows=num_rows, max_entries=num_rows * self.max_entries)
        rows = codec.decode(
            block,
            num_rows=num_rows,
            vocab_size=self.vocab_size,
            values=self.compression.values,
            limits=limits,
        )
        self._check_ids(rows)
        self._check_lengths(rows)
        # The one mass that is used: rows of teachers that send others, too, are put together.
        rows = dataclasses.replace(rows, masses={ITEM_MASS: rows.need_mass(ITEM_MASS)})
        if not self.compression.samples:
            check_item_mass(rows, self.items, temperature)
        return rows

    def _check_ids(self, rows: TargetRows) -> None:
        ids_E, support = rows.ids_E, self.support
        if len(ids_E) and not (support.start <= ids_E.min() and ids_E.max() < support.stop):
            raise WireError(
                f"ids must be in the teacher's support [{support.start}, {support.stop}), got "
                f"{ids_E.min()}..{ids_E.max()}."
            )

    def _check_lengths(self, rows: TargetRows) -> None:
        longest = int(rows.counts_R.max(initial=0))
        if longest > self.max_entries:
            raise WireError(f"rows must have at most {self.max_entries} entries, got {longest}.")
        if self.compression.samples:
            may_drop_R = np.zeros(rows.num_rows)
        else:
            # A row that is cut by mass may end early; any other one, only where all is kept.
            top_p = self.compression.top_p
            early = 1.0 - top_p if 0.0 < top_p < 1.0 else 0.0
            may_drop_R = np.where(rows.counts_R < self.max_entries, early, 1.0)
        over_R = rows.tail_R - may_drop_R
        if rows.num_rows and float(over_R.max()) > MASS_TOLERANCE:
            row = int(over_R.argmax())
            raise WireError(
                f"a row of {rows.counts_R[row]} entries, asked for as "
                f"{str(self.compression).split()}, must have a tail of at most "
                f"{may_drop_R[row]:.3f}, got {rows.tail_R[row]:.3f}."
            )
