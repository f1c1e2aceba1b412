"""Evidence from a witnessed run: lost, duplicated and reordered answers, and recovery time."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster.bench.fleet.replay import fingerprint
from protos.codec import concat_rows
from protos.target_rows import Targets
from trainer.kinds.table import TEACHER_KINDS

WINDOW_S = 2.0
"""Window over which speed is measured."""
GRID_S = 0.1
FULL_SPEED = 0.8
"""Share of the expected speed that counts as full: runs differ by a tenth on a busy machine."""


@dataclass(frozen=True, kw_only=True)
class HandOut:
    """One batch of targets that the client gave to the step."""

    at_s: float
    batch: int
    rows: int
    fingerprints: list[str]


@dataclass(frozen=True, kw_only=True)
class Witnessed:
    """The record of one run."""

    submitted: list[list[str]]
    """Example ids of every batch, in order of submission."""
    handed_out: list[HandOut]
    positions: int
    """Rows that the client itself counted as answered."""
    resends: int
    hedges: int


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Answers that were never handed out, too often, or for another example."""

    lost: int
    duplicated: int
    reordered: int


def example_fingerprint(targets: Targets, rows: range, example: int) -> str:
    """Digest of an example's rows from all teachers, by which answers are told apart."""
    at = {"position": np.array(rows), "example": np.array([example])}
    parts = [targets[name].take(at[it.rows_per]) for name, it in TEACHER_KINDS.items()]
    return fingerprint(concat_rows(parts))


def read_witness(path: Path) -> Witnessed:
    """The record as far as it is written."""
    text = path.read_text() if path.is_file() else ""
    entries = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    ends = [entry for entry in entries if "positions" in entry]
    return Witnessed(
        submitted=[entry["examples"] for entry in entries if "submitted" in entry],
        handed_out=[
            HandOut(
                at_s=entry["at_s"],
                batch=entry["handed_out"],
                rows=entry["rows"],
                fingerprints=entry["fingerprints"],
            )
            for entry in entries
            if "handed_out" in entry
        ],
        positions=ends[-1]["positions"] if ends else 0,
        resends=ends[-1]["resends"] if ends else 0,
        hedges=ends[-1]["hedges"] if ends else 0,
    )


def count_answers(run: Witnessed, fingerprints: Mapping[str, str]) -> Counts:
    """Compare what was handed out with the recorded answer of every submitted example.

    Args:
        run: of replayed answers.
        fingerprints: example id -> example_fingerprint of its recorded answers.
    """
    wanted = [[fingerprints[example_id] for example_id in batch] for batch in run.submitted]
    got = [hand_out.fingerprints for hand_out in run.handed_out]
    num_wanted = Counter(each for batch in wanted for each in batch)
    num_got = Counter(each for batch in got for each in batch)
    pairs = [
        pair
        for theirs, ours in zip(wanted, got, strict=False)
        for pair in zip(theirs, ours, strict=False)
    ]
    return Counts(
        lost=sum((num_wanted - num_got).values()),
        duplicated=sum((num_got - num_wanted).values()),
        reordered=sum(theirs != ours and ours in num_wanted for theirs, ours in pairs),
    )


def count_rows(run: Witnessed) -> Counts:
    """The same if answers may differ by a quantisation step: count batches and rows."""
    batches = [hand_out.batch for hand_out in run.handed_out]
    rows = sum(hand_out.rows for hand_out in run.handed_out)
    return Counts(
        lost=len(run.submitted) - len(set(batches)) + max(0, rows - run.positions),
        duplicated=len(batches) - len(set(batches)) + max(0, run.positions - rows),
        reordered=sum(later < earlier for earlier, later in itertools.pairwise(batches)),
    )


def max_relative_difference(curve: Sequence[float], expected: Sequence[float]) -> float:
    """Largest relative difference of two loss curves; ValueError if their lengths differ."""
    if len(curve) != len(expected):
        raise ValueError(f"a curve must have {len(expected)} steps, got {len(curve)}.")
    return max(abs(a - b) / abs(b) for a, b in zip(curve, expected, strict=True))


def speed(hand_outs: Sequence[HandOut], start_s: float, end_s: float) -> float:
    """Positions per second that were handed out in an interval."""
    rows = sum(each.rows for each in hand_outs if start_s < each.at_s <= end_s)
    return rows / (end_s - start_s)


def recovery_s(hand_outs: Sequence[HandOut], fault_s: float, expected: float) -> float:
    """Seconds from the fault to the first window at full speed; infinite if there is none."""
    last_s = hand_outs[-1].at_s - WINDOW_S
    for start_s in np.arange(fault_s, last_s, GRID_S):
        if speed(hand_outs, start_s, start_s + WINDOW_S) >= FULL_SPEED * expected:
            return float(start_s - fault_s)
    return float("inf")


def longest_wait_s(hand_outs: Sequence[HandOut], fault_s: float) -> float:
    """The longest time without a batch, from the fault on."""
    times = [fault_s, *(each.at_s for each in hand_outs if each.at_s > fault_s)]
    return float(max(np.diff(times), default=0.0))
