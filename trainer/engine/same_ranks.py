"""Ranks that would train together with different settings, data, code or teachers leave together.

Each machine may be started by hand, with a command and files of its own: a typo, or a stale copy on
one of them, would otherwise train to the end.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping

import torch
from deepspeed import comm

from trainer.common.errors import InputError
from trainer.engine.ranks import current_device, raise_on_all_ranks

REMEDY = "Start all ranks with the same command, on the same files."


def check_same_on_all_ranks(own: Mapping[str, object]) -> None:
    """Collective: every rank must have the values of rank 0.

    Args:
        own: name -> value of this rank, as JSON can hold it.

    Raises:
        InputError: on all ranks; the lowest rank that differs names both values.
    """
    first = json.loads(text_of_first_rank(json.dumps(own)))
    mine = json.loads(json.dumps(own))
    problem = None
    for name in sorted(first.keys() | mine.keys()):
        if first.get(name) != mine.get(name):
            problem = InputError(
                f"{name} must be the same on all ranks, got {first.get(name)} on rank 0 and "
                f"{mine.get(name)} on rank {comm.get_rank()} ({socket.gethostname()}). {REMEDY}"
            )
            break
    raise_on_all_ranks(problem)


def text_of_first_rank(text: str) -> str:
    """Collective: what rank 0 passes."""
    content = torch.tensor(list(text.encode()), dtype=torch.uint8, device=current_device())
    size = torch.tensor([len(content)], device=current_device())
    comm.broadcast(size, 0)
    if comm.get_rank() != 0:
        content = torch.empty(int(size), dtype=torch.uint8, device=current_device())
    comm.broadcast(content, 0)
    return bytes(content.tolist()).decode()
