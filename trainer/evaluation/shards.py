"""Which share of a file of responses this process makes; no torch."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from trainer.common.command import MAX_RANKS
from trainer.common.errors import InputError

WHOLE = re.compile("[0-9]{1,5}")
PATTERN = re.compile("([0-9]{1,5})/([0-9]{1,5})")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Every `count`-th batch, from batch `index` on."""

    index: int = 0
    count: int = 1


def shard_option(text: str) -> Shard:
    """The type of --shard: I/N, where I counts from 0 as ranks do."""
    found = PATTERN.fullmatch(text)
    if found is None or not int(found[1]) < int(found[2]) <= MAX_RANKS:
        raise argparse.ArgumentTypeError(
            f"must be I/N with whole numbers 0 <= I < N <= {MAX_RANKS}, got {text}"
        )
    return Shard(index=int(found[1]), count=int(found[2]))


def shard_of_rank(environment: Mapping[str, str] = os.environ) -> Shard:
    """The share of a rank that torchrun or deepspeed started; the whole without either.

    Raises:
        InputError: if RANK and WORLD_SIZE are not those of a rank.
    """
    rank, size = environment.get("RANK", "0"), environment.get("WORLD_SIZE", "1")
    try:
        return shard_option(f"{rank}/{size}")
    except argparse.ArgumentTypeError as error:
        raise InputError(
            f"RANK and WORLD_SIZE must be those of a launcher, got {rank} and {size}. "
            "Unset them, or start the command with torchrun or deepspeed."
        ) from error


def local_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The number of this process on its machine; 0 without a launcher."""
    text = environment.get("LOCAL_RANK", "0")
    return int(text) if WHOLE.fullmatch(text) else 0
