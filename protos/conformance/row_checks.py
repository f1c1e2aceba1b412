"""The rows of a teacher: whole and cut, in every format, drawn, in ranges, asked again.

R rows, V vocabulary, E entries of all rows together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from protos.codec import TargetRows, concat_rows
from protos.conformance.caller import Caller
from protos.conformance.outcomes import Check, Failed, NotApplicable, need
from protos.conformance.probes import Probe, Probes, num_rows, to_request
from protos.item_mass import check_item_mass
from protos.target_rows import ITEM_MASS, WireError, row_sums
from protos.teacher_pb2 import FLOAT32, LOW, Compression
from protos.value_formats import FORMATS

# Of a probability; between two batches of one teacher, whose sums are grouped otherwise.
TOLERANCES = {"float32": 1e-5}
OTHER_TOLERANCE = 2e-2
# Rounding of float16, and of masses that are sums over a vocabulary.
ROUNDING = 1e-3
TOP_K, TOP_P, SAMPLES = 4, 0.5, 32
NUM_BATCHES, MANY_SAMPLES = 4, 1024
SEED = 7
# The last is the largest that a request can have.
OTHER_SEEDS = (8, (1 << 64) - 1)
RARELY = 1e-6


def tolerance(caller: Caller) -> float:
    """By how much a probability may differ from one answer to the next."""
    return TOLERANCES.get(caller.about.dtype, OTHER_TOLERANCE)


def ask(
    caller: Caller, sequences: Sequence[Probe], compression: Compression | None = None
) -> TargetRows:
    """The rows of these sequences in one request, float32 and whole if not told otherwise."""
    request = to_request(sequences, compression or Compression(values=FLOAT32))
    return caller.rows(request, num_rows(sequences))


def dense(rows: TargetRows) -> np.ndarray:
    """Probabilities float64 [R, V]; 0 where nothing was sent."""
    probs_RV = np.zeros((rows.num_rows, rows.vocab_size))
    row_E = np.repeat(np.arange(rows.num_rows), rows.counts_R)
    probs_RV[row_E, rows.ids_E] = np.exp(rows.log_probs_E, dtype=np.float64)
    return probs_RV


def need_same(left: TargetRows, right: TargetRows, most: float, what: str) -> float:
    """Failed unless whole rows agree; by how much they differ."""
    off = float(np.abs(dense(left) - dense(right)).max(initial=0.0))
    need(off <= most, f"{what} must agree within {most:g}, got rows that differ by {off:.3g}.")
    return off


def whole_rows(caller: Caller, probes: Probes) -> str:
    """top_k = 0 keeps everything: no tail, ids of the support alone."""
    rows = ask(caller, probes.batch())
    support = probes.support
    inside_E = (rows.ids_E >= support.start) & (rows.ids_E < support.stop)
    need(bool(inside_E.all()), f"ids must be in [{support.start}, {support.stop}), got others.")
    need(not rows.tail_R.any(), f"a whole row must have a tail of 0, got {rows.tail_R.max()}.")
    return f"{rows.num_rows} rows of up to {rows.counts_R.max()} entries"


def top_k(caller: Caller, probes: Probes) -> str:
    """The largest entries, with the log-probs of the whole row, and the rest as tail."""
    sequences = probes.batch()
    whole = dense(ask(caller, sequences))
    cut = ask(caller, sequences, Compression(top_k=TOP_K, values=FLOAT32))
    most = min(TOP_K, len(probes.support))
    need(
        int(cut.counts_R.max()) <= most,
        f"rows must have at most {most} entries, got {cut.counts_R.max()}.",
    )
    _need_largest(whole, cut, tolerance(caller))
    return ""


def top_p(caller: Caller, probes: Probes) -> str:
    """The fewest entries that reach the share."""
    sequences = probes.batch()
    whole = dense(ask(caller, sequences))
    cut = ask(caller, sequences, Compression(top_p=TOP_P, values=FLOAT32))
    most = tolerance(caller)
    _need_largest(whole, cut, most)
    for row, probs_V in enumerate(dense(cut)):
        kept, smallest = probs_V.sum(), probs_V[probs_V > 0].min(initial=1.0)
        need(
            kept >= TOP_P - ROUNDING and kept - smallest < TOP_P + ROUNDING,
            f"row {row} must keep the fewest entries that reach {TOP_P}, got a mass of {kept:.4f} "
            f"of which the smallest has {smallest:.4f}.",
        )
    return ""


def _need_largest(whole_RV: np.ndarray, cut: TargetRows, most: float) -> None:
    """What was kept is what is largest; ties may be kept either way."""
    for row, (probs_V, kept_V) in enumerate(zip(whole_RV, dense(cut), strict=True)):
        kept = kept_V > 0
        off = float(np.abs(probs_V - kept_V)[kept].max(initial=0.0))
        need(off <= most, f"row {row} must have the whole row's log-probs, got {off:.3g} off.")
        dropped = float(probs_V[~kept].max(initial=0.0))
        least = float(probs_V[kept].min(initial=1.0))
        need(
            least >= dropped - most,
            f"row {row} must keep its largest entries, got {least:.3g} but not {dropped:.3g}.",
        )
        rest = float(probs_V[~kept].sum())
        tail = float(cut.tail_R[row])
        need(abs(tail - rest) <= ROUNDING, f"the tail must be {rest:.4f}, got {tail:.4f}.")


def value_format(name: str) -> Check:
    """Values of a format that rounds."""

    def run(caller: Caller, probes: Probes) -> str:
        sequences = probes.batch()
        exact = ask(caller, sequences)
        asked = Compression(values=FORMATS[name].number)  # type: ignore[arg-type]
        rounded = ask(caller, sequences, asked)
        probs_RV = dense(exact)
        allowed_RV = tolerance(caller) + _rounding(name, probs_RV, exact.counts_R)
        off_RV = np.abs(dense(rounded) - probs_RV) - allowed_RV
        at = np.unravel_index(off_RV.argmax(), off_RV.shape)
        need(
            float(off_RV.max()) <= 0,
            f"{name} must be within {allowed_RV[at]:.3g} of float32, got {off_RV[at]:.3g} more.",
        )
        return ""

    return Check(f"sends values as {name}", run)


def _rounding(name: str, probs_RV: np.ndarray, counts_R: np.ndarray) -> np.ndarray:
    """What a format may round away, docs/wire.md: of uint8 one step of its code."""
    if name == "float16":
        return np.full(probs_RV.shape, ROUNDING)
    mu_R1 = np.maximum(1.0, counts_R**1.5 / 32)[:, None]
    return (1 + mu_R1 * probs_RV) * np.log1p(mu_R1) / (255 * mu_R1)


def item_mass(caller: Caller, probes: Probes) -> str:
    """The gate's input: summed before the cut, the same however a row is cut."""
    sequences = probes.batch()
    whole = ask(caller, sequences)
    if ITEM_MASS not in whole.masses:
        raise NotApplicable("it gives no item_mass; students, whose gates read it, refuse it")
    cut = ask(caller, sequences, Compression(top_k=1, values=FLOAT32))
    try:
        check_item_mass(cut, probes.items)
    except WireError as error:
        raise Failed(str(error)) from error
    items_R = dense(whole)[:, probes.items.start : probes.items.stop].sum(-1)
    most = max(ROUNDING, tolerance(caller))
    for rows in (whole, cut):
        off = float(np.abs(rows.item_mass_R - items_R).max())
        need(off <= most, f"item_mass must be that of the whole row, got {off:.3g} off.")
    return ""


def masses(caller: Caller, probes: Probes) -> str:
    """Kept mass and tail make 1, in float32 within its rounding."""
    rows = ask(caller, probes.batch(), Compression(top_k=TOP_K, values=FLOAT32))
    kept_R = row_sums(np.exp(rows.log_probs_E), rows.counts_R)
    off = float(np.abs(kept_R + rows.tail_R - 1.0).max())
    need(off <= ROUNDING, f"kept mass and tail must make 1, got {off:.3g} off.")
    told, sent = sorted(caller.about.masses), sorted(rows.masses)
    need(told == sent, f"rows must have the masses that Describe names, {told}, got {sent}.")
    return f"masses: {', '.join(sent) or 'none'}"


def samples(caller: Caller, probes: Probes) -> str:
    """Draws depend on the seed and the response's own input alone."""
    sequences = probes.batch()
    drawn = _drawn(caller, sequences, seed=SEED)
    need(not drawn.tail_R.any(), "drawn rows must have no tail, got one.")
    weights_RV = dense(drawn)
    times_RV = weights_RV * SAMPLES
    off = float(np.abs(times_RV - times_RV.round()).max())
    need(off <= ROUNDING, f"weights must be n / {SAMPLES}, got {off:.3g} off.")
    possible = dense(ask(caller, sequences)) > 0
    need(bool(possible[weights_RV > 0].all()), "ids must be possible ones, got others.")
    _need_drawn(caller, drawn, _drawn(caller, sequences, seed=SEED), "the same seed")
    alone = concat_rows([_drawn(caller, [each], seed=SEED) for each in sequences])
    _need_drawn(caller, drawn, alone, "a response alone and in company")
    return ""


def other_seeds(caller: Caller, probes: Probes) -> str:
    """Draws of other seeds differ, where they would hardly agree by chance."""
    sequences = [each for _ in range(NUM_BATCHES) for each in probes.batch()]
    likeliest_R = dense(ask(caller, sequences)).max(-1).clip(0.0, 1.0)
    deviation_R = np.sqrt(MANY_SAMPLES * likeliest_R * (1.0 - likeliest_R))
    # How often a row's likeliest id is drawn is binomial; no number of times is likelier than that.
    chance = float((0.5 / deviation_R.clip(min=0.5)).prod())
    if chance ** len(OTHER_SEEDS) > RARELY:
        raise NotApplicable("its rows are so certain that other seeds may draw the same")
    first, *others = (
        dense(_drawn(caller, sequences, seed=seed, samples=MANY_SAMPLES))
        for seed in (SEED, *OTHER_SEEDS)
    )
    differs = any(not np.array_equal(first, other) for other in others)
    need(differs, f"other seeds must draw other entries, got the same for {OTHER_SEEDS}.")
    return ""


def _drawn(
    caller: Caller, sequences: Sequence[Probe], seed: int, samples: int = SAMPLES
) -> TargetRows:
    asked = Compression(samples=samples, seed=seed, values=FLOAT32)
    return ask(caller, sequences, asked)


def _need_drawn(caller: Caller, left: TargetRows, right: TargetRows, what: str) -> None:
    """Failed unless the draws are the same, but for those that rounding may move to a neighbour."""
    moved = float(np.abs(dense(left) - dense(right)).sum() * SAMPLES / 2)
    most = 1 + int(4 * tolerance(caller) * left.num_rows * SAMPLES)
    need(moved <= most, f"{what} must draw the same entries, got {moved:.0f} draws elsewhere.")


def ranges(caller: Caller, probes: Probes) -> str:
    """Rows of several ranges of a sequence are those of each alone, behind it nothing is seen."""
    _need_ranges(probes)
    sequence = probes.sequence(12)
    length = len(sequence.tokens)
    third = max(1, length // 4)
    wanted = [(0, third), (third + 1, third), (length - 1, 1)]
    if length < 4:
        raise NotApplicable(f"its sequences have at most {length} tokens")
    together = ask(caller, [sequence.wanting(*wanted)])
    alone = ask(caller, [sequence.wanting(each) for each in wanted])
    cut = [sequence.until(start + n).wanting((start, n)) for start, n in wanted]
    need_same(together, alone, tolerance(caller), "ranges together and alone")
    off = need_same(together, ask(caller, cut), tolerance(caller), "a sequence and its beginning")
    drawn = _drawn(caller, [sequence.wanting(*wanted)], seed=3)
    _need_drawn(caller, drawn, _drawn(caller, cut, seed=3), "ranges together and alone")
    return f"within {off:.1g}"


def merged_prefixes(caller: Caller, probes: Probes) -> str:
    """Two responses of a dialogue, the later of which continues the earlier: one sequence."""
    _need_ranges(probes)
    later = probes.sequence(10, 3)
    if len(later.tokens) < 6:
        raise NotApplicable(f"its sequences have at most {len(later.tokens)} tokens")
    earlier = later.until(4).wanting((2, 2))
    apart = ask(caller, [earlier, later])
    merged = ask(caller, [later.wanting((2, 2), *later.ranges)])
    off = need_same(apart, merged, tolerance(caller), "two sequences and the merged one")
    return f"within {off:.1g}"


def _need_ranges(probes: Probes) -> None:
    if not probes.takes_ranges:
        raise NotApplicable("it does not list the capability ranges")


def same_again(caller: Caller, probes: Probes) -> str:
    """The same request, on another stream."""
    sequences = probes.batch()
    request = to_request(sequences)
    first, second = (caller.ask(request)[request.request_id] for _ in range(2))
    left, right = (caller.decode(it, request, num_rows(sequences)) for it in (first, second))
    off = need_same(left, right, tolerance(caller), "two answers")
    same = first.block == second.block
    return "the same bytes" if same else f"other bytes, within {off:.1g}"


def in_company(caller: Caller, probes: Probes) -> str:
    """The same sequences, beside others in a request."""
    sequences, others = probes.batch(), probes.batch()
    alone, together = ask(caller, sequences), ask(caller, [*others, *sequences, *others])
    mine = together.split([num_rows(each) for each in (others, sequences, others)])[1]
    off = need_same(alone, mine, tolerance(caller), "a sequence alone and in company")
    return f"within {off:.1g}"


def of_a_run(caller: Caller, probes: Probes) -> str:
    """Who asks, and how urgently, changes no row; a teacher may ignore both."""
    sequences = probes.batch()
    request = to_request(sequences)
    request.run_id, request.priority = "conformance", LOW
    named, plain = caller.rows(request, num_rows(sequences)), ask(caller, sequences)
    off = need_same(named, plain, tolerance(caller), "requests with and without run and priority")
    return f"within {off:.1g}"


ROW_CHECKS = (
    Check("sends whole rows", whole_rows),
    Check("cuts rows by top_k", top_k),
    Check("cuts rows by top_p", top_p),
    Check("sends kept mass and tail that make 1", masses),
    Check("sends the mass of all items", item_mass),
    value_format("float16"),
    value_format("uint8"),
    Check("draws the same rows from the same seed", samples),
    Check("draws other rows from another seed", other_seeds),
    Check("answers ranges as if each was alone", ranges),
    Check("answers merged sequences as if apart", merged_prefixes),
    Check("answers the same request the same way", same_again),
    Check("answers a sequence the same way in company", in_company),
    Check("answers a low request of a run the same way", of_a_run),
)
