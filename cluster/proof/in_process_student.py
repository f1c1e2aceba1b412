"""`trainer/main.py` with the teachers inside every rank, whose answers have the served ones' bits.

deepspeed cluster/proof/in_process_student.py --dialogue DIR --recommendation DIR
    --config FILE [key=value ...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.proof.in_process import OwnTeachers
from trainer.common.cli import run_rank
from trainer.kinds.table import TEACHER_KINDS
from trainer.main import parse
from trainer.student_run import checked_input, run_student


def main(argv: list[str]) -> None:
    """Take our options, and give the rest to the trainer's own parser."""
    parser = argparse.ArgumentParser()
    for kind in TEACHER_KINDS:
        parser.add_argument(f"--{kind}", type=Path)
    arguments, rest = parser.parse_known_args(argv)
    config, data = checked_input(parse(rest))
    folders: dict[str, Path] = vars(arguments)
    run_student(config, data, lambda *_: OwnTeachers(folders, config, data))


if __name__ == "__main__":
    run_rank(main)
