"""A global batch of chains, split over ranks and their forwards.

Every rank has as many parts, none of them empty: under ZeRO-3 a forward takes all ranks. Ranks have
about as many tokens, and not as many responses: every response counts alike, whoever has it. A
chain has a random key for good, and ranks are runs of keys, so that a chain tends to come to the
same rank in every epoch, whose node may keep its targets.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from trainer.data.chains import Chain


def chain_keys(chains: Sequence[Chain], seed: int) -> np.ndarray:
    """float64 [examples] in [0, 1): of each example the key of its chain, the same for good."""
    drawn = np.random.default_rng([seed, 3]).random(len(chains))
    return np.repeat(drawn, [len(chain) for chain in chains])


def split(
    batch: Sequence[Chain],
    lengths: np.ndarray,
    keys: np.ndarray,
    *,
    world_size: int,
    num_parts: int,
) -> list[list[list[Chain]]]:
    """The chains at [rank][part]; the largest are cut if there are too few for all parts.

    Args:
        batch: chains of at least world_size * num_parts responses together.
        lengths: int [examples], tokens of each example's input.
        keys: float [examples], from `chain_keys`.
    """
    pieces = cut(batch, world_size * num_parts)
    pieces.sort(key=lambda piece: (keys[piece[0]], piece[0]))
    tokens = np.array([lengths[piece[-1]] for piece in pieces])
    ends = _run_ends(tokens, world_size, num_parts)
    return [
        _parts(pieces[start:end], lengths, num_parts)
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def cut(batch: Sequence[Chain], at_least: int) -> list[Chain]:
    """The chains, of which the largest are halved until there are `at_least` of them."""
    heap = [(-len(chain), chain.start, chain.stop) for chain in batch]
    heapq.heapify(heap)
    while len(heap) < at_least:
        size, start, stop = heap[0]
        middle = start - size // 2
        heapq.heapreplace(heap, (start - middle, start, middle))
        heapq.heappush(heap, (middle - stop, middle, stop))
    return [range(start, stop) for _, start, stop in heap]


def _run_ends(tokens: np.ndarray, num_runs: int, at_least: int) -> list[int]:
    """Where runs of about as many tokens end, each of at least so many pieces."""
    middles = np.cumsum(tokens) - tokens / 2
    ends = [0]
    for run in range(1, num_runs):
        end = int(np.searchsorted(middles, tokens.sum() * run / num_runs))
        latest = len(tokens) - (num_runs - run) * at_least
        ends.append(min(max(end, ends[-1] + at_least), latest))
    return [*ends[1:], len(tokens)]


def _parts(pieces: Sequence[Chain], lengths: np.ndarray, num_parts: int) -> list[list[Chain]]:
    """Longest first, each to the part with the fewest tokens; in a part in the order of the file.

    So halves of a chain that meet again are one chain.
    """
    loads = [0] * num_parts
    parts: list[list[Chain]] = [[] for _ in range(num_parts)]
    for piece in sorted(pieces, key=lambda it: (-lengths[it[-1]], it[0])):
        part = loads.index(min(loads))
        parts[part].append(piece)
        loads[part] += int(lengths[piece[-1]])
    return [sorted(part, key=lambda it: it[0]) for part in parts]
