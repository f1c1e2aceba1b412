"""The two large columns of a reply block, ids and values, as arrays of small numbers.

Ids: the block's distinct ids are put in order of how often they occur, by octave (the table), and
every row becomes the gaps between its ranks in that table. Frequent tokens have low ranks, so most
gaps fit in a byte and few of its values are common: what an entropy coder likes. On rows of 64 it
takes 37 bytes where ascending 16-bit ids take 56 (docs/wire.md).

Values: 8 bits of a companded probability, log(1 + mu p), after G.711's mu-law. Its steps are even
near 0 and relative near 1, so the error that a gradient sees is about the same for every entry.

R rows, E entries of all rows, D distinct ids, V vocabulary, N numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from protos.target_rows import WireError

ESCAPE = 255
LEVELS = 255
# What code 0 stands for, in steps: not 0, for a kept entry has a probability.
ZERO_CODE = 0.3


@dataclass(frozen=True, eq=False)
class SmallNumbers:
    """Numbers >= 0 that mostly fit in a byte.

    Attributes:
        bytes_N: uint8 [N]; 255 stands for the next escape.
        escapes: uint32, the numbers that are 255 or more.
    """

    bytes_N: np.ndarray
    escapes: np.ndarray

    @classmethod
    def of(cls, numbers_N: np.ndarray) -> SmallNumbers:
        """Numbers in [0, 2^32), of any integer type."""
        return cls(
            np.minimum(numbers_N, ESCAPE).astype(np.uint8),
            numbers_N[numbers_N >= ESCAPE].astype("<u4"),
        )

    @staticmethod
    def num_called(bytes_N: np.ndarray) -> int:
        """How many escapes follow these bytes."""
        return int(np.count_nonzero(bytes_N == ESCAPE))

    def numbers(self) -> np.ndarray:
        """int64 [N].

        Raises:
            WireError: if the numbers of escapes and of bytes 255 differ.
        """
        numbers_N = self.bytes_N.astype(np.int64)
        called = np.flatnonzero(self.bytes_N == ESCAPE)
        if len(called) != len(self.escapes):
            raise WireError(f"{len(called)} escapes must follow, got {len(self.escapes)}.")
        numbers_N[called] = self.escapes
        return numbers_N


@dataclass(frozen=True, eq=False)
class PackedIds:
    """The ids of a block.

    Attributes:
        table: [D], each distinct id less the one before it, modulo V.
        gaps: [E], each rank less the one before it in its row, less 1.
    """

    table: SmallNumbers
    gaps: SmallNumbers


def pack_ids(ids_E: np.ndarray, counts_R: np.ndarray, vocab_size: int) -> PackedIds:
    """Ids, ascending within each row, as table and gaps."""
    times_V = np.bincount(ids_E, minlength=vocab_size)
    table_D = np.flatnonzero(times_V)
    # By octaves of frequency and not by frequency: within one the ids ascend, in small steps.
    octave_D = np.frexp(times_V[table_D])[1]
    table_D = table_D[np.argsort(-octave_D, kind="stable")]
    rank_V = np.zeros(vocab_size, np.int32)
    rank_V[table_D] = np.arange(len(table_D), dtype=np.int32)
    ranks_E = sort_rows(rank_V[ids_E], counts_R)
    return PackedIds(
        SmallNumbers.of(np.diff(table_D, prepend=0) % vocab_size),
        SmallNumbers.of(_gaps(ranks_E, counts_R)),
    )


def unpack_ids(packed: PackedIds, counts_R: np.ndarray, vocab_size: int) -> np.ndarray:
    """Ids, int32 [E], ascending within each row; the inverse of pack_ids.

    Raises:
        WireError: if a rank is past the table or an id stands in it twice.
    """
    table_D = np.cumsum(packed.table.numbers()) % vocab_size
    seen_V = np.zeros(vocab_size, bool)
    seen_V[table_D] = True
    if np.count_nonzero(seen_V) != len(table_D):
        ids, times = np.unique(table_D, return_counts=True)
        raise WireError(
            f"the table must hold each id once, got {ids[times.argmax()]} {times.max()} times."
        )
    ranks_E = _ranks(packed.gaps.numbers(), counts_R)
    if len(ranks_E) and int(ranks_E.max()) >= len(table_D):
        raise WireError(f"ranks must be below {len(table_D)}, got {ranks_E.max()}.")
    return sort_rows(table_D.astype(np.int32)[ranks_E], counts_R)


def sort_rows(numbers_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """Numbers >= 0 in ascending order within each row, of the same type."""
    if _is_even(counts_R):
        # Rows of top-k: numpy sorts short rows thirty times as fast as the whole.
        return np.sort(numbers_E.reshape(len(counts_R), -1), axis=-1).ravel()
    # One sort for all rows, each in a range of its own.
    width = int(numbers_E.max(initial=0)) + 1
    first_E = np.repeat(np.arange(len(counts_R)) * width, counts_R)
    return (np.sort(first_E + numbers_E) - first_E).astype(numbers_E.dtype)


def pack_values(log_probs_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """Log-probs as 8-bit codes, uint8 [E]."""
    mu_R = _mu(counts_R)
    mu_E, log_E = np.repeat(mu_R, counts_R), np.repeat(np.log1p(mu_R), counts_R)
    scaled_E = np.log1p(mu_E * np.exp(log_probs_E, dtype=np.float64)) / log_E
    return np.rint(LEVELS * np.minimum(scaled_E, 1.0)).astype(np.uint8)


def unpack_values(codes_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """Log-probs of 8-bit codes, float32 [E].

    Packed again they give the same codes, so a row may be decoded and encoded any number of times.
    """
    if _is_even(counts_R):
        # Rows of top-k.
        lengths_L, first_E = counts_R[:1], 0
    else:
        lengths_L, length_R = np.unique(counts_R, return_inverse=True)
        first_E = np.repeat(length_R * (LEVELS + 1), counts_R)
    mu_L1 = _mu(lengths_L)[:, None]
    codes_C = np.maximum(np.arange(LEVELS + 1), ZERO_CODE)
    probs_LC = np.expm1(codes_C / LEVELS * np.log1p(mu_L1)) / mu_L1
    log_probs_LC = np.log(probs_LC).astype(np.float32)
    return log_probs_LC.ravel()[first_E + codes_E.astype(np.intp)]


def mass_error(kept_R: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """Largest error of the kept mass of each row after quantisation, float64 [R]."""
    mu_R = _mu(counts_R)
    # Half a step of every entry; a step is as wide as 1 + mu p, and these add up to this.
    return np.log1p(mu_R) / (2 * LEVELS * mu_R) * (counts_R + mu_R * (kept_R + 1e-2)) * 1.05


def entry_error(probs_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """Largest error of every probability after quantisation, float64 [E]: half a step."""
    mu_E = np.repeat(_mu(counts_R), counts_R)
    return np.log1p(mu_E) / (2 * LEVELS * mu_E) * (1.0 + mu_E * probs_E) * 1.05


def _is_even(counts_R: np.ndarray) -> bool:
    """Whether there are rows, all of one length."""
    return len(counts_R) > 0 and int(counts_R.min()) == int(counts_R.max())


def _mu(counts_R: np.ndarray) -> np.ndarray:
    """Longer rows get finer steps: their entries are small, and the errors add up."""
    return np.maximum(1.0, counts_R.astype(np.float64) ** 1.5 / 32)


def _gaps(ranks_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    gaps_E = np.empty_like(ranks_E)
    np.subtract(ranks_E[1:], ranks_E[:-1] + 1, out=gaps_E[1:])
    starts = _starts(counts_R)
    gaps_E[starts] = ranks_E[starts]
    return gaps_E


def _ranks(gaps_E: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    ranks_E = np.cumsum(gaps_E + 1) - 1
    starts = _starts(counts_R)
    before = ranks_E[starts] - gaps_E[starts]
    return ranks_E - np.repeat(before, counts_R[counts_R > 0])


def _starts(counts_R: np.ndarray) -> np.ndarray:
    """Index of the first entry of each row that is not empty."""
    counts = counts_R[counts_R > 0].astype(np.int64)
    return np.cumsum(counts) - counts
