"""The order of chains: global batches of whole chains of similar length, full to the response.

An epoch leaves out as many responses as make no batch, random ones. The chains of the others, by
length, are cut in `NUM_BUCKETS` buckets of as many responses, and shuffled within their bucket;
batches are filled along that list, and come in random order. A batch takes the first chains that
fill it exactly. If no choice within `LOOK_AHEAD` chains does, its last chain is cut in two: both
halves are chains, but the second forwards the first once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trainer.data.chains import Chain

NUM_BUCKETS = 24
LOOK_AHEAD = 32
"""Chains that a batch may choose from beyond those that would fill it."""


def epoch_batches(
    chains: Sequence[Chain], lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int
) -> list[list[Chain]]:
    """The global batches of an epoch, each of `batch_size` responses.

    Args:
        lengths: int [examples], tokens of each example's input.
    """
    rng = np.random.default_rng([seed, 2, epoch])
    shuffled = [chains[i] for i in rng.permutation(len(chains))]
    num_steps, num_left_out = divmod(sum(map(len, chains)), batch_size)
    kept = _leave_out(shuffled, num_left_out, rng)
    # At least two batches to a bucket, or the same chains would meet in every epoch.
    waiting = _by_length(kept, lengths, max(1, min(NUM_BUCKETS, num_steps // 2)), rng)
    found = [take(waiting, batch_size) for _ in range(num_steps)]
    return [found[i] for i in rng.permutation(num_steps)]


def take(waiting: list[Chain], count: int) -> list[Chain]:
    """Remove chains of exactly `count` responses from a list that holds as many: the first ones."""
    window = _window(waiting, count)
    reach = _reach(window, count)
    if not reach[0] >> count & 1:
        return _take_and_cut(waiting, count)
    taken: list[Chain] = []
    left: list[Chain] = []
    missing = count
    for chain, after in zip(window, reach[1:], strict=True):
        fits = len(chain) <= missing and after >> (missing - len(chain)) & 1
        (taken if fits else left).append(chain)
        missing -= len(chain) if fits else 0
    waiting[: len(window)] = left
    return taken


def _window(waiting: Sequence[Chain], count: int) -> list[Chain]:
    """The first chains that hold `count` responses, and LOOK_AHEAD more."""
    filled = int(np.searchsorted(np.cumsum([len(it) for it in waiting[:count]]), count)) + 1
    return list(waiting[: filled + LOOK_AHEAD])


def _reach(window: Sequence[Chain], count: int) -> list[int]:
    """Bit n of number i: some of the chains from i on have n <= count responses together."""
    mask = (1 << (count + 1)) - 1
    reach = [1]
    for chain in reversed(window):
        reach.append((reach[-1] | reach[-1] << len(chain)) & mask)
    return reach[::-1]


def _take_and_cut(waiting: list[Chain], count: int) -> list[Chain]:
    """Remove the first `count` responses; what is left of a chain stays in its place."""
    taken: list[Chain] = []
    missing = count
    while missing:
        chain = waiting.pop(0)
        taken.append(chain[:missing])
        if rest := chain[missing:]:
            waiting.insert(0, rest)
        missing -= len(taken[-1])
    return taken


def _leave_out(shuffled: list[Chain], count: int, rng: np.random.Generator) -> list[Chain]:
    """Without the first `count` responses; a chain that has more loses its head or its tail."""
    kept: list[Chain] = []
    for chain in shuffled:
        gone = min(count, len(chain))
        count -= gone
        rest = chain[gone:] if rng.random() < 0.5 else chain[: len(chain) - gone]
        if rest:
            kept.append(rest)
    return kept


def _by_length(
    chains: list[Chain], lengths: np.ndarray, num_buckets: int, rng: np.random.Generator
) -> list[Chain]:
    """The chains by length, shuffled within buckets of as many responses."""
    order = np.argsort([lengths[chain[-1]] for chain in chains], kind="stable")
    sizes = np.array([len(chains[i]) for i in order])
    bucket = (np.cumsum(sizes) - sizes) * num_buckets // sizes.sum()
    return [chains[i] for i in order[np.lexsort((rng.random(len(order)), bucket))]]
