from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

from trainer.checkpoints.universal import make_universal, separate_steps


def write_files(settings: argparse.Namespace) -> None:
    folder = Path(settings.output_folder)
    folder.mkdir()
    (folder / "weights.pt").write_bytes(b"weights")
    # As DeepSpeed does: the name that the folder has while it is unfinished.
    (folder.parent / "latest_universal").write_text(folder.name)


def test_rearranged_checkpoint_has_its_name_once_it_is_whole_and_is_made_once(
    tmp_path: Path,
) -> None:
    make_universal(tmp_path, 10, write_files)
    assert (tmp_path / "universal-step-00000010" / "weights.pt").read_bytes() == b"weights"
    assert [path.name for path in tmp_path.iterdir()] == ["universal-step-00000010"]

    def refuse(_settings: argparse.Namespace) -> None:
        raise AssertionError("made again")

    make_universal(tmp_path, 10, refuse)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left"), RuntimeError("No space left\n"), ValueError("No space left")],
)
def test_rearranging_on_a_full_disk_leaves_nothing_and_says_what_to_do(
    error: Exception, tmp_path: Path
) -> None:
    def fill(settings: argparse.Namespace) -> None:
        write_files(settings)
        raise error

    with pytest.raises(OSError, match=r"must be rearranged .*No space left\. If the disk is full"):
        make_universal(tmp_path, 10, fill)
    assert list(tmp_path.iterdir()) == []


def test_states_that_share_their_step_count_it_apart() -> None:
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimiser = torch.optim.AdamW(parameters, fused=True)
    shared = torch.tensor(3.0)
    for parameter in parameters:
        zeros = {name: torch.zeros(2) for name in ("exp_avg", "exp_avg_sq")}
        optimiser.state[parameter] = {"step": shared, **zeros}
        parameter.grad = torch.ones(2)
    separate_steps(optimiser)
    optimiser.step()
    assert [float(optimiser.state[each]["step"]) for each in parameters] == [4.0, 4.0, 4.0]
