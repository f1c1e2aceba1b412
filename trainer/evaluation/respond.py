"""Let a system answer every recommender message of a split: the file that is scored.

    python -m trainer.evaluation.respond --checkpoint DIR --data DIR --output FILE.jsonl
        [--split test] [--classifier DIR|oracle|student] [--limit N] [--batch-size N]
        [--decoding greedy|nucleus] [--top-p P] [--seed N] [--shard I/N] [--latency]

DIR is a run directory, an exported student, a dialogue teacher, or a recommendation teacher, which
ranks and says nothing. The same command goes on where it was killed. Started by torchrun or
deepspeed each rank does its share; by hand, name the shares: --shard 0/2 here, --shard 1/2 there.
The last one joins them. Score the file: python -m trainer.evaluation.score
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.common.cli import once_per_node, run_rank
from trainer.common.command import MAX_RANKS, CommandParser, number, whole
from trainer.common.errors import InputError
from trainer.common.outputs import check_output
from trainer.evaluation.options import METHODS, add_evaluate_arguments
from trainer.evaluation.shards import Shard, local_rank, shard_of_rank, shard_option

SUFFIX = ".jsonl"
MAX_SEED = (1 << 32) - 1


def main(argv: list[str]) -> None:
    """Parse, answer, say where."""
    arguments = once_per_node(lambda: parse(argv))
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.evaluation.response_run import checked_work, respond_config, respond_to_file

    work = once_per_node(lambda: checked_work(respond_config(arguments), local_rank()))
    sys.stdout.write(f"{respond_to_file(work, arguments.shard)}\n")


def parse(argv: list[str]) -> argparse.Namespace:
    """The system, the data, how it answers, and this process's share."""
    parser = CommandParser(
        prog="python -m trainer.evaluation.respond",
        description="Let a system answer every recommender message of a split of prepared data.",
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="run or model folder")
    parser.add_argument("--output", type=Path, required=True, help="the file, *.jsonl")
    add_evaluate_arguments(parser)
    parser.add_argument(
        "--decoding", choices=METHODS, default="greedy", help="how words are chosen"
    )
    parser.add_argument("--top-p", type=number(0.01, 1), help="mass of the nucleus; default: .9")
    parser.add_argument("--seed", type=whole(0, MAX_SEED), help="of the nucleus; default: 0")
    parser.add_argument("--shard", type=shard_option, help="share I/N, I from 0; default: a rank's")
    parser.add_argument(
        "--latency", action="store_true", help="also measure the time of a token, one process alone"
    )
    parser.add_argument(
        "--local_rank", type=whole(0, MAX_RANKS), help="set by the deepspeed launcher"
    )
    arguments = parser.parse_args(argv)
    arguments.shard = _shard(arguments.shard, latency=arguments.latency)
    _check_output(arguments.output)
    _check_draws(arguments)
    return arguments


def _shard(given: Shard | None, *, latency: bool) -> Shard:
    of_rank = shard_of_rank()
    if given is not None and of_rank.count > 1:
        raise InputError(
            f"--shard must be left out where a launcher gives the share, got WORLD_SIZE "
            f"{of_rank.count}. Leave it out."
        )
    shard = given or of_rank
    if latency and shard.count > 1:
        raise InputError(
            f"--latency must be measured by one process alone, got {shard.count}. Run the command "
            "once more without shares when the file is whole."
        )
    return shard


def _check_output(output: Path) -> None:
    if output.suffix != SUFFIX:
        raise InputError(f"--output must be a file named *{SUFFIX}, got {output}. Rename it.")
    if output.is_dir():
        raise InputError(f"--output must be a file, got the folder {output}. Name another one.")
    check_output("the folder of --output", output.parent)


def _check_draws(arguments: argparse.Namespace) -> None:
    """Refuse options that would say nothing."""
    given = {"--top-p": arguments.top_p, "--seed": arguments.seed}
    named = [name for name, value in given.items() if value is not None]
    if named and arguments.decoding != "nucleus":
        raise InputError(
            f"{named[0]} must be left out unless --decoding is nucleus, got {given[named[0]]}. "
            "Leave it out."
        )


if __name__ == "__main__":
    run_rank(main)
