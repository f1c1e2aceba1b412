"""Distil a student from served teachers.

    deepspeed [--num_accelerators N] trainer/main.py --config FILE [key=value ...]

With distill.gamma=0 no teacher is asked: the same student, trained on gold tokens alone.
"""

from __future__ import annotations

from pathlib import Path

from trainer.common.cli import once_per_node, run_rank
from trainer.common.command import MAX_RANKS, CommandParser, whole
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config


def main(argv: list[str]) -> None:
    """Parse and check, then run with the served teachers, or with none if gamma is 0."""
    config = once_per_node(lambda: parse(argv))
    # Not above: a mistake in the command line must not wait for torch.
    from trainer.student_run import checked_input, connect, run_student

    config, data = checked_input(config)
    run_student(config, data, lambda settled, run_id: connect(config, data, settled, run_id))


def parse(argv: list[str]) -> RunConfig:
    """The run's config from the command line."""
    parser = CommandParser(
        prog="trainer/main.py", description="Distil a student from served teachers."
    )
    parser.add_argument("--config", type=Path, required=True, help="YAML file of a RunConfig")
    parser.add_argument(
        "--local_rank", type=whole(0, MAX_RANKS), help="set by the deepspeed launcher"
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="e.g. distill.gamma=0")
    arguments = parser.parse_intermixed_args(argv)
    return load_config(RunConfig, arguments.config, arguments.overrides)


if __name__ == "__main__":
    run_rank(main)
