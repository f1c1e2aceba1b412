"""Checkpoints that no engine wrote."""

from __future__ import annotations

from pathlib import Path

from trainer.checkpoints import files


def commit(folder: Path, step: int, *, ranks: int, keep: int) -> None:
    """Make whole what lies in the folder of a step, as the ranks of a run do together."""
    for rank in range(ranks):
        files.write_digests(folder / files.tag_of(step), share=rank, shares=ranks)
    files.commit(folder, step, ranks=ranks, keep=keep)
