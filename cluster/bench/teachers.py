"""The first step of all benchmarks: the teachers that the others measure, fitted once."""

from __future__ import annotations

import time
from pathlib import Path

from cluster.bench.corpus import fit_teachers
from cluster.bench.result import BenchResult
from trainer.models.frozen import read_card


def bench_teachers(source: Path | None) -> BenchResult:
    """Fit both teachers unless they are there; the seconds that it took."""
    start = time.perf_counter()
    corpus = fit_teachers(source)
    seconds = time.perf_counter() - start
    cards = [read_card(folder, kind) for kind, folder in corpus.folders.items()]
    return BenchResult(
        figures={"fit_s": seconds},
        rows=[{"teacher": card.kind, "weights_digest": card.weights_digest} for card in cards],
        corpus=corpus.name,
    )
