"""A checkpoint for any number of ranks: DeepSpeed joins its shards, parameter by parameter.

DeepSpeed's part is a parameter: only the room trainer/engine imports DeepSpeed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch.optim import Optimizer

from trainer.checkpoints.files import UNIVERSAL_LIST_NAME, flush, tag_of, universal_tag_of
from trainer.common.errors import MachineError, first_line

logger = logging.getLogger(__name__)


def make_universal(folder: Path, step: int, convert: Callable[[argparse.Namespace], None]) -> None:
    """Rearrange the checkpoint of `step` unless that was done; afterwards it is whole or not there.

    To be called on one rank. `convert` is the main function of DeepSpeed's `ds_to_universal`.

    Raises:
        MachineError: if it could not be written.
    """
    path, universal = folder / tag_of(step), folder / universal_tag_of(step)
    if universal.is_dir():
        return
    unfinished = universal.with_name(f".{universal.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    settings = argparse.Namespace(
        input_folder=str(path),
        output_folder=str(unfinished),
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    logger.warning("rearranging %s for another number of ranks", path)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            convert(settings)
    # torch raises RuntimeError for a full disk, and DeepSpeed for files that do not match.
    except (OSError, RuntimeError, ValueError) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise MachineError(
            f"{path} must be rearranged for this number of ranks, got: {first_line(error)}. If the "
            "disk is full make room for twice its size, or go on with as many ranks as wrote it."
        ) from error
    finally:
        # It names the unfinished folder, and would outlive the finished one, too.
        (folder / UNIVERSAL_LIST_NAME).unlink(missing_ok=True)
    # A folder with this name must survive a power cut.
    flush(unfinished)
    unfinished.rename(universal)


def separate_steps(optimiser: Optimizer) -> None:
    """Give every parameter's state a step of its own, where the parameter is.

    From a universal checkpoint DeepSpeed 0.19 hands one tensor on the CPU to the states of all
    parameters of a group. Adam counts in place, so once for each of them; on a GPU it refuses it.
    """
    for parameter, state in optimiser.state.items():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].to(parameter.device, copy=True)
