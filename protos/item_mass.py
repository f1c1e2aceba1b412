"""The check of the gate's input, the mass on all items, against the row that it came with.

The item mass is that of the teacher's own distribution P, whatever temperature T was asked for: a
gate that read softened rows would open and shut otherwise. The row itself is Q = P^(1/T), scaled to
1, and cut. Kept entries give P back, as Q^T, up to its sum.

R rows, E entries of all rows together.
"""

from __future__ import annotations

import numpy as np

from protos.columns import entry_error
from protos.target_rows import TargetRows, WireError, row_sums

# Kept entries may be quantised, the item mass is not.
ITEM_MASS_TOLERANCE = 0.1


def check_item_mass(rows: TargetRows, items: range, temperature: float = 1.0) -> None:
    """Check the gate's input against its row: it must be possible beside the kept entries.

    Not for drawn rows: a few draws may miss the items or hit them all, but the item mass is that of
    the whole row.

    Raises:
        WireError: naming the mass that does not fit, or that is not there.
    """
    item_mass_R = rows.item_mass_R
    low_R, high_R = item_mass_bounds(rows, items, temperature)
    outside_R = np.flatnonzero(
        (item_mass_R < low_R - ITEM_MASS_TOLERANCE) | (item_mass_R > high_R + ITEM_MASS_TOLERANCE)
    )
    if len(outside_R):
        row = int(outside_R[0])
        raise WireError(
            f"item mass of a row must be in [{low_R[row]:.3f}, {high_R[row]:.3f}], which its kept "
            f"items and its tail leave possible, got {item_mass_R[row]:.3f}."
        )


def item_mass_bounds(
    rows: TargetRows, items: range, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest item mass that rows at a temperature allow, float64 [R] each.

    At T = 1 the kept items' mass, and that with the tail. At another one Q^T of the kept entries,
    each off by what uint8 may round away, and for the dropped ones at most

        T > 1:  tail * smallest kept ^ (T - 1), because none of them is above the smallest kept
        T < 1:  number ^ (1 - T) * tail ^ T, as if they were all alike

    once beside the kept items and once among them.
    """
    is_item_E = (rows.ids_E >= items.start) & (rows.ids_E < items.stop)
    probs_E = np.exp(rows.log_probs_E, dtype=np.float64)
    if temperature == 1.0:
        kept_R = row_sums(probs_E * is_item_E, rows.counts_R)
        return kept_R, kept_R + rows.tail_R
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    error_E = entry_error(probs_E, rows.counts_R)
    least_E, most_E = np.maximum(probs_E - error_E, 0.0), probs_E + error_E
    # Over the largest of a row, so that no power of it vanishes.
    largest_R, smallest_R = np.zeros(rows.num_rows), np.full(rows.num_rows, np.inf)
    np.maximum.at(largest_R, row_E, most_E)
    np.minimum.at(smallest_R, row_E, most_E)
    largest_R[rows.counts_R == 0] = smallest_R[rows.counts_R == 0] = 1.0
    least_E = (least_E / largest_R[row_E]) ** temperature
    most_E = (most_E / largest_R[row_E]) ** temperature
    dropped_R = rows.tail_R / largest_R
    if temperature > 1.0:
        dropped_R = dropped_R * (smallest_R / largest_R) ** (temperature - 1.0)
    else:
        number_R = rows.vocab_size - rows.counts_R
        dropped_R = number_R ** (1.0 - temperature) * dropped_R**temperature
    (least_item_R, least_other_R), (most_item_R, most_other_R) = (
        [row_sums(it_E * where_E, rows.counts_R) for where_E in (is_item_E, ~is_item_E)]
        for it_E in (least_E, most_E)
    )
    low_R = _share(least_item_R, least_item_R + most_other_R + dropped_R, 0.0)
    most_R = most_item_R + dropped_R
    return low_R, _share(most_R, most_R + least_other_R, 1.0)


def _share(part_R: np.ndarray, whole_R: np.ndarray, of_nothing: float) -> np.ndarray:
    return np.divide(part_R, whole_R, out=np.full(len(part_R), of_nothing), where=whole_R > 0)
