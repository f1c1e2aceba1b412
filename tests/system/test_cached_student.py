"""Whole runs with a cache of targets: the second needs no teacher, and learns the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.student_runs import (
    TINY,
    Service,
    command,
    error_lines,
    fit,
    loss_curve,
    run_student,
    serving,
)

STEPS = 12
WIRE = ("distill.gamma=0.6", "distill.eta=0.1", "distill.values=uint8")


@pytest.fixture(scope="module")
def folders(prepared_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    dialogue = fit("dialogue", prepared_dir, folder / "dialogue", *TINY, "train.steps=20")
    return dialogue, fit("recommendation", prepared_dir, folder / "recommendation", "epochs=1")


def end_of(output: Path) -> dict[str, Any]:
    end = json.loads((output / "metrics.jsonl").read_text().splitlines()[-1])
    assert end["event"] == "end"
    return end


def run(data: Path, output: Path, service: Service, cache: Path, *overrides: str) -> list[float]:
    settings = (f"teachers.directory={service.directory}", f"teachers.cache={cache}")
    result = run_student(data, output, *WIRE, f"train.steps={STEPS}", *settings, *overrides)
    assert result.returncode == 0, result.stderr
    return loss_curve(output)


def test_second_run_asks_no_teacher_and_has_the_same_losses_also_without_a_directory(
    folders: tuple[Path, Path], prepared_dir: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    with serving(tmp_path, *folders) as service:
        first = run(prepared_dir, tmp_path / "first", service, cache)
        second = run(prepared_dir, tmp_path / "second", service, cache)
    third = run(prepared_dir, tmp_path / "third", service, cache, "teachers.connect_s=1")
    assert len(first) == STEPS
    # Bit for bit: JSON has all digits of a float.
    assert first == second == third
    ends = [end_of(tmp_path / name) for name in ("first", "second", "third")]
    assert ends[0]["teacher_requests"] > 0
    # Two kinds, 32 examples a step.
    assert ends[0]["cache_hits"] + ends[0]["cache_misses"] == 2 * 32 * STEPS
    for end in ends[1:]:
        assert (end["teacher_requests"], end["cache_misses"]) == (0, 0)
        assert end["cache_hits"] == 2 * 32 * STEPS
        assert end["cache_read_bytes"] > 0
        assert end["cache_written_bytes"] == end["cache_broken"] == end["cache_unwritten"] == 0
        assert end["wire_bytes_per_position"] is None
    # What is not there needs a teacher, and none comes.
    settings = (f"teachers.directory={service.directory}", f"teachers.cache={cache}")
    patience = ("teachers.connect_s=1", "teachers.patience_s=2", f"train.steps={STEPS}", "seed=1")
    result = run_student(prepared_dir, tmp_path / "other", *WIRE, *settings, *patience)
    assert result.returncode != 0
    (line,) = error_lines(result)
    assert "teacher answered for 2 s" in line


@pytest.fixture
def built(
    folders: tuple[Path, Path], prepared_dir: Path, tmp_path: Path
) -> Iterator[tuple[Path, Service]]:
    """A cache that `build` filled, and the service as it was."""
    cache = tmp_path / "built"
    with serving(tmp_path, *folders) as service:
        config = ("--config", "trainer/configs/synthetic.yaml", "--output", str(cache))
        overrides = (f"data={prepared_dir}", f"teachers.directory={service.directory}", *WIRE)
        command("trainer.targets", "build", *config, *overrides)
        # There is nothing left to ask.
        command("trainer.targets", "build", *config, *overrides)
    yield cache, service


def test_targets_built_exported_and_imported_serve_any_seed_without_teachers(
    built: tuple[Path, Service], prepared_dir: Path, tmp_path: Path
) -> None:
    folder, service = built
    command("trainer.targets", "verify", str(folder))
    command("trainer.targets", "export", str(folder), str(tmp_path / "file"))
    command("trainer.targets", "import", str(tmp_path / "file"), str(tmp_path / "elsewhere"))
    command("trainer.targets", "stats", str(tmp_path / "elsewhere"))
    settings = ("teachers.connect_s=1", "teachers.patience_s=2", "seed=7")
    run(prepared_dir, tmp_path / "run", service, tmp_path / "elsewhere", *settings)
    assert end_of(tmp_path / "run")["teacher_requests"] == 0
