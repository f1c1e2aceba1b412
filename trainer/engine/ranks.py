"""Join the ranks of a run, sum over them, agree on errors, and leave together."""

from __future__ import annotations

import datetime
import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import deepspeed
import torch
from deepspeed import comm
from deepspeed.accelerator import get_accelerator
from torch import Tensor

from trainer.common.cli import ReportedByOtherRank
from trainer.common.errors import MachineError
from trainer.engine.host import keep_freed_memory, leave_out_shared_memory
from trainer.engine.launcher_watch import leave_with_launcher
from trainer.engine.own_interface import listen_where_others_are

ResultT = TypeVar("ResultT")

# The longest that a rank may need alone: to read a model, or to write a checkpoint.
ALONE_S = 900.0


def start_distributed(patience_s: float = 0.0) -> None:
    """Join the ranks that the `deepspeed` launcher started, or be the only one.

    A rank whose machine vanished leaves the others in a collective, where its heart is missed
    (heartbeat.py). Without one, or of a rank that lives and does not come, they give up after the
    time that it may rightly let them wait: `patience_s` for its teachers, and ALONE_S.
    """
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    keep_freed_memory()
    if "RANK" not in os.environ:
        alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(_free_port()))
    leave_with_launcher()
    listen_where_others_are()
    leave_out_shared_memory()
    accelerator = get_accelerator()
    assert accelerator is not None
    if accelerator.device_name() != "cpu":
        # deepspeed.initialize would do it, but ranks talk to each other before.
        accelerator.set_device(int(os.environ["LOCAL_RANK"]))
    timeout = datetime.timedelta(seconds=patience_s + ALONE_S)
    try:
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False, timeout=timeout)
    except RuntimeError as error:
        if "address already in use" not in str(error).lower():
            raise
        raise MachineError(
            f"port {os.environ['MASTER_PORT']} must be free for the ranks to meet, got one that is "
            "in use: another run may be going on. Give another one: deepspeed --master_port N ..."
        ) from error


def stop_distributed() -> None:
    """Leave the group, so that no rank warns of a leak."""
    if comm.is_initialized():
        comm.destroy_process_group()


def raise_on_all_ranks(error: Exception | None) -> None:
    """Collective: raise on every rank if any has an error; the lowest failing rank reports it."""
    failed = torch.zeros(comm.get_world_size())
    failed[comm.get_rank()] = error is not None
    failed = failed.to(current_device())
    comm.all_reduce(failed)
    if not failed.any():
        return
    if error is not None and int(failed.nonzero()[0]) == comm.get_rank():
        raise error
    raise ReportedByOtherRank


def on_all_ranks(action: Callable[[], ResultT]) -> ResultT:
    """Collective: the result of `action`; raises on every rank if it fails on any."""
    try:
        result = action()
    except Exception as error:  # of any kind: the other ranks wait
        raise_on_all_ranks(error)
        raise AssertionError("raise_on_all_ranks raises where there is an error") from error
    raise_on_all_ranks(None)
    return result


def is_first_rank() -> bool:
    """Whether this is rank 0."""
    return comm.get_rank() == 0


def on_first_rank(action: Callable[[], None]) -> None:
    """Collective: run `action` on rank 0 while the others wait; raises on all if it fails."""
    on_all_ranks(lambda: action() if is_first_rank() else None)


def sum_over_ranks(values: Sequence[float], on_device: Tensor | None = None) -> list[float]:
    """Collective: element-wise float64 sum, first of the values that are on the device already."""
    total = torch.tensor(values, dtype=torch.float64, device=current_device())
    if on_device is not None:
        total = torch.cat([on_device, total])
    comm.all_reduce(total)
    return total.tolist()


def current_device() -> torch.device:
    """The device of this rank."""
    accelerator = get_accelerator()
    assert accelerator is not None
    return torch.device(accelerator.current_device_name())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
