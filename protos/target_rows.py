"""Truncated teacher distributions as columns, and the checks of their rules.

R rows, E entries of all rows together, V vocabulary.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trainer.common.errors import UserError

MASS_TOLERANCE = 1e-3
# Rounding of float16 and of sums over a whole vocabulary.
ROW_MASS_TOLERANCE = 1e-2

# The arrays of every TargetRows; masses come beside them.
COLUMNS = ("counts_R", "ids_E", "log_probs_E", "tail_R")
# In memory: id and log-prob of an entry; count and tail of a row, and one number of each mass.
ENTRY_BYTES, ROW_BYTES, MASS_BYTES = 8, 8, 4

ITEM_MASS = "item_mass"
"""Name of the mass on all items: what the gate reads."""
MAX_MASSES, MAX_MASS_NAME = 8, 64
MASS_NAME = re.compile(r"[a-z0-9_]{1,64}", re.ASCII)


class WireError(UserError):
    """A block that is corrupt, short, oversized or made for another vocabulary."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TargetRows:
    """Truncated distributions, one per row, as columns.

    Attributes:
        counts_R: int32 [R], entries kept in each row.
        ids_E: int32 [E], vocabulary ids, ascending within a row.
        log_probs_E: float32 [E], natural log, <= 0 up to rounding.
        tail_R: float32 [R], mass of the row's support that was not kept, in [0, 1].
        masses: name of a group of ids -> float32 [R], its mass before truncation, in [0, 1]; at
            most 8, named by 1 to 64 of [a-z0-9_].
        vocab_size: V, every id is below it.
    """

    counts_R: np.ndarray
    ids_E: np.ndarray
    log_probs_E: np.ndarray
    tail_R: np.ndarray
    masses: Mapping[str, np.ndarray]
    vocab_size: int

    @property
    def item_mass_R(self) -> np.ndarray:
        """Mass on all items, float32 [R].

        Raises:
            WireError: if the teacher gives none.
        """
        return self.need_mass(ITEM_MASS)

    def need_mass(self, name: str) -> np.ndarray:
        """The mass of a name, float32 [R]; WireError if the teacher gives none."""
        if name not in self.masses:
            given = ", ".join(sorted(self.masses)) or "none"
            raise WireError(
                f"rows must have the mass {name!r}, got {given}. Ask a teacher that gives it."
            )
        return self.masses[name]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays: columns and masses by their names, which never collide."""
        return {**{name: getattr(self, name) for name in COLUMNS}, **self.masses}

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.counts_R)

    @property
    def is_absent_R(self) -> np.ndarray:
        """Rows that nobody asked for, bool [R]: no entry and no tail, as no distribution has."""
        return (self.counts_R == 0) & (self.tail_R == 0)

    @property
    def num_bytes(self) -> int:
        """Of all columns in memory."""
        per_row = ROW_BYTES + MASS_BYTES * len(self.masses)
        return ENTRY_BYTES * len(self.ids_E) + per_row * self.num_rows

    def take(self, index_R: np.ndarray) -> TargetRows:
        """The rows at `index_R` (int [R]), in that order, as copies."""
        starts = np.cumsum(self.counts_R, dtype=np.int64) - self.counts_R
        counts_R = self.counts_R[index_R]
        new_starts_R = np.cumsum(counts_R, dtype=np.int64) - counts_R
        first_E = np.repeat(starts[index_R] - new_starts_R, counts_R)
        entry_E = first_E + np.arange(int(counts_R.sum()))
        return self._select(index_R, entry_E)

    def split(self, lengths: Sequence[int]) -> list[TargetRows]:
        """Runs of `lengths` rows each, as views.

        Raises:
            ValueError: if the lengths do not sum to the number of rows.
        """
        if sum(lengths) != self.num_rows:
            raise ValueError(f"lengths must sum to the {self.num_rows} rows, got {sum(lengths)}.")
        ends_R1 = np.concatenate([[0], np.cumsum(self.counts_R, dtype=np.int64)])
        bounds = itertools.pairwise(itertools.accumulate(lengths, initial=0))
        return [
            self._select(slice(start, end), slice(ends_R1[start], ends_R1[end]))
            for start, end in bounds
        ]

    def spread(self, index_R: np.ndarray, num_rows: int) -> TargetRows:
        """So many rows, of which these are those at `index_R` (int [R], ascending).

        The others are absent (`is_absent_R`): stand-ins for rows that are not needed.
        """
        assert len(index_R) == self.num_rows and bool(np.all(np.diff(index_R) > 0))

        def at_index(values_R: np.ndarray) -> np.ndarray:
            spread = np.zeros(num_rows, values_R.dtype)
            spread[index_R] = values_R
            return spread

        return replace(
            self,
            counts_R=at_index(self.counts_R),
            tail_R=at_index(self.tail_R),
            masses={name: at_index(mass_R) for name, mass_R in self.masses.items()},
        )

    def _select(self, rows: np.ndarray | slice, entries: np.ndarray | slice) -> TargetRows:
        return TargetRows(
            counts_R=self.counts_R[rows],
            ids_E=self.ids_E[entries],
            log_probs_E=self.log_probs_E[entries],
            tail_R=self.tail_R[rows],
            masses={name: mass_R[rows] for name, mass_R in self.masses.items()},
            vocab_size=self.vocab_size,
        )


Targets = dict[str, TargetRows]
"""Name of a teacher (its kind's, if that has one teacher) -> its rows for one micro-batch, examples
end to end: one row per response position, or one per example; only teachers that were asked. Rows
without any weight may be absent."""


def concat_rows(parts: Sequence[TargetRows]) -> TargetRows:
    """The rows of all parts one after another; at least one part of one vocabulary.

    Raises:
        WireError: if parts have masses of other names: what one lacks cannot be made up.
    """
    names = parts[0].masses.keys()
    for part in parts:
        if part.masses.keys() != names:
            raise WireError(f"parts must have the masses {list(names)}, got {list(part.masses)}.")
    return TargetRows(
        counts_R=np.concatenate([part.counts_R for part in parts]),
        ids_E=np.concatenate([part.ids_E for part in parts]),
        log_probs_E=np.concatenate([part.log_probs_E for part in parts]),
        tail_R=np.concatenate([part.tail_R for part in parts]),
        masses={name: np.concatenate([part.masses[name] for part in parts]) for name in names},
        vocab_size=parts[0].vocab_size,
    )


def no_rows(vocab_size: int) -> TargetRows:
    """The rows of no example."""
    return TargetRows(
        counts_R=np.empty(0, np.int32),
        ids_E=np.empty(0, np.int32),
        log_probs_E=np.empty(0, np.float32),
        tail_R=np.empty(0, np.float32),
        masses={ITEM_MASS: np.empty(0, np.float32)},
        vocab_size=vocab_size,
    )


def check_rows(rows: TargetRows, mass_error_R: np.ndarray | float = 0.0) -> None:
    """Raise WireError unless the columns agree with each other and hold distributions.

    Args:
        rows: the columns.
        mass_error_R: largest error of the kept mass of each row from quantisation.
    """
    num_rows, num_entries = rows.num_rows, len(rows.ids_E)
    _check_names(rows.masses)
    for name, mass_R in (("tail", rows.tail_R), *rows.masses.items()):
        if len(mass_R) != num_rows:
            raise WireError(f"{name} must have {num_rows} rows, got {len(mass_R)}.")
    if num_rows and int(rows.counts_R.min()) < 0:
        raise WireError(f"row counts must be >= 0, got {rows.counts_R.min()}.")
    if len(rows.log_probs_E) != num_entries or int(rows.counts_R.sum()) != num_entries:
        raise WireError(
            f"ids, log-probs and row counts must be of the same entries, got {num_entries}, "
            f"{len(rows.log_probs_E)} and {rows.counts_R.sum()}."
        )
    for name, mass_R in (("tail", rows.tail_R), *rows.masses.items()):
        # Written so that NaN fails too.
        good_R = (mass_R >= 0) & (mass_R <= 1 + MASS_TOLERANCE)
        if not bool(np.all(good_R)):
            raise WireError(f"{name} must be in [0, 1], got {mass_R[~good_R][0]}.")
    good_E = (rows.log_probs_E <= MASS_TOLERANCE) & np.isfinite(rows.log_probs_E)
    if not bool(np.all(good_E)):
        raise WireError(f"log-probs must be finite and <= 0, got {rows.log_probs_E[~good_E][0]}.")
    _check_ids(rows)
    _check_mass(rows, mass_error_R)


def row_sums(values_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """The sum over each row's entries, float64 [R]; 0 for a row without any."""
    sums_R = np.zeros(len(counts_R))
    filled_R = counts_R > 0
    starts_R = np.cumsum(counts_R, dtype=np.int64) - counts_R
    if len(values_E):
        # Of rows with entries alone: reduceat has no empty segments.
        sums_R[filled_R] = np.add.reduceat(values_E, starts_R[filled_R], dtype=np.float64)
    return sums_R


def _check_names(masses: Mapping[str, np.ndarray]) -> None:
    if len(masses) > MAX_MASSES:
        raise WireError(f"rows must have at most {MAX_MASSES} masses, got {len(masses)}.")
    for name in masses:
        if not MASS_NAME.fullmatch(name):
            raise WireError(f"a mass must be named by 1 to 64 of [a-z0-9_], got {name!r}.")


def _check_mass(rows: TargetRows, mass_error_R: np.ndarray | float) -> None:
    kept_R = row_sums(np.exp(rows.log_probs_E), rows.counts_R)
    off_R = np.abs(kept_R + rows.tail_R - 1.0) - (ROW_MASS_TOLERANCE + mass_error_R)
    if rows.num_rows and float(off_R.max()) > 0:
        row = int(off_R.argmax())
        raise WireError(
            f"kept mass and tail must make 1, got {kept_R[row]:.3f} and {rows.tail_R[row]:.3f}."
        )


def _check_ids(rows: TargetRows) -> None:
    ids_E = rows.ids_E
    if len(ids_E) == 0:
        return
    if int(ids_E.min()) < 0 or int(ids_E.max()) >= rows.vocab_size:
        raise WireError(f"ids must be in [0, {rows.vocab_size}), got {ids_E.min()}..{ids_E.max()}.")
    starts_row_E = np.zeros(len(ids_E) + 1, dtype=bool)
    starts_row_E[np.cumsum(rows.counts_R)[:-1]] = True
    good_E = (ids_E[1:] > ids_E[:-1]) | starts_row_E[1:-1]
    if not bool(np.all(good_E)):
        at = int(good_E.argmin())
        raise WireError(f"ids must ascend within a row, got {ids_E[at + 1]} after {ids_E[at]}.")
