"""Ranks that were started with different settings or data leave together, before any step."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.student_runs import TINY, error_lines, launcher, run_to_end

# Before the copied data is changed, its name in the overrides.
COPY = "data"


@pytest.mark.parametrize(
    ("overrides", "name", "values"),
    [
        (
            "optimiser.learning_rate=0.5",
            "optimiser.learning_rate",
            "got 0.002 on rank 0 and 0.5 on rank 1",
        ),
        pytest.param(
            "action_tokens=false,distill.gate=soft",
            "action_tokens",
            "got True on rank 0 and False on rank 1",
            marks=pytest.mark.everything,
        ),
        pytest.param(COPY, "examples", "on rank 1", marks=pytest.mark.everything),
    ],
)
def test_rank_with_other_settings_or_data_ends_the_run(
    overrides: str, name: str, values: str, prepared_dir: Path, tmp_path: Path
) -> None:
    if overrides == COPY:
        overrides = f"data={changed_copy(prepared_dir, tmp_path / 'copy')}"
    result = run_to_end(
        [
            *(*launcher(2), "tests/support/split_rank.py", overrides),
            *("--config", "trainer/configs/synthetic.yaml", f"data={prepared_dir}"),
            *(f"output={tmp_path / 'run'}", *TINY, "distill.gamma=0", "train.steps=3"),
        ]
    )
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert line.startswith(f"error: {name} must be the same on all ranks, ")
    assert values in line
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def changed_copy(data: Path, copy: Path) -> Path:
    """Prepared data of the same vocabulary and as many examples, one token of which differs."""
    shutil.copytree(data, copy)
    lines = (copy / "train.jsonl").read_text().splitlines()
    first = json.loads(lines[0])
    first["response_ids"][0] += 1
    lines[0] = json.dumps(first)
    (copy / "train.jsonl").write_text("\n".join(lines) + "\n")
    return copy
