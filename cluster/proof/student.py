"""`trainer/main.py` at a pace that a file sets.

deepspeed cluster/proof/student.py --pace FILE --config FILE [key=value ...]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from cluster.proof.pace import PacedTeachers
from trainer.common.cli import run_rank
from trainer.main import parse
from trainer.student_run import checked_input, connect, run_student


def main(argv: list[str]) -> None:
    """Take our option, and give the rest to the trainer's own parser."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--pace", type=Path, required=True)
    arguments, rest = parser.parse_known_args(argv)
    config, data = checked_input(parse(rest))

    def paced(settled: Mapping[str, str], run_id: str) -> PacedTeachers:
        client = connect(config, data, settled, run_id)
        assert client is not None, "the proof's students have gamma above 0"
        return PacedTeachers(client, arguments.pace)

    run_student(config, data, paced)


if __name__ == "__main__":
    run_rank(main)
