"""The ablation: students that differ in what an arm declares, trained, scored and compared.

    python -m trainer.ablate --config FILE [--seeds 3] [--table NAME ...] [--limit-cells N]
    python -m trainer.ablate table [--cells DIR] [--output FILE]

Each finished cell is a small file in DIR, which the next start does not make again; `table` makes
FILE of these files alone. The same command goes on after Ctrl-C.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trainer.ablation.arms import TABLES, table_of
from trainer.ablation.config import AblationConfig
from trainer.ablation.plan import PlannedCell, planned_cells
from trainer.common.cli import run_main
from trainer.common.command import CommandParser, whole
from trainer.common.errors import InputError
from trainer.common.outputs import check_output
from trainer.config.yaml_file import load_config

CELLS = Path("docs/results/cells")
OUTPUT = Path("docs/results/ablation.md")
MAX_SEEDS = 100


def main(argv: list[str]) -> None:
    """Parse and plan, then make cells or write tables."""
    arguments = _parser().parse_args(argv)
    check_output("the folder of --output", arguments.output.parent)
    if arguments.command == "table":
        # Not above: a mistake in the command line must not wait for what computes.
        from trainer.ablation.document import write_document

        write_document(arguments.cells, arguments.output)
        sys.stdout.write(f"{arguments.output}\n")
        return
    config = _config(arguments)
    planned = planned_cells(config, tables=arguments.table, num_seeds=arguments.seeds)
    _make(config, planned, arguments)


def _make(
    config: AblationConfig, planned: list[PlannedCell], arguments: argparse.Namespace
) -> None:
    # Not above, for the same reason.
    from cluster.launch.launcher import CommandFailed, Launcher
    from cluster.launch.machine import this_machine
    from cluster.launch.only_one import only_one
    from trainer.ablation.revision import Revision, SameRevisions
    from trainer.ablation.runner import Runner

    work = Path(config.run.output)
    with only_one(work, "ablation"), Launcher(work / "logs", screen=sys.stdout) as launcher:
        runner = Runner(
            machine=this_machine(),
            launcher=launcher,
            cells=arguments.cells,
            work=work,
            revision=Revision.of_this_code(),
            same=SameRevisions.beside(arguments.cells),
        )
        missing = runner.missing(planned, again=arguments.again)
        todo = missing[: arguments.limit_cells]
        sys.stdout.write(
            f"{len(planned) - len(missing)} of {len(planned)} cells are there, {len(todo)} are "
            "made now\n"
        )
        try:
            runner.make_all(todo)
        except CommandFailed as error:
            sys.stderr.write(f"{error.tail}\n")
            raise


def _config(arguments: argparse.Namespace) -> AblationConfig:
    """The checked config; InputError for a table that there is not."""
    if arguments.config is None:
        raise InputError("--config must be given to make cells, got nothing. See --help.")
    config = load_config(AblationConfig, arguments.config, [])
    for name in config.tables:
        table_of(name)
    check_output("--cells", arguments.cells)
    check_output("run.output", Path(config.run.output))
    return config


def _parser() -> CommandParser:
    parser = CommandParser(prog="python -m trainer.ablate", description=__doc__)
    parser.add_argument(
        "command",
        nargs="?",
        choices=("run", "table"),
        default="run",
        help="make the cells that are missing, or the document from the cells",
    )
    parser.add_argument("--config", type=Path, help="YAML file of an AblationConfig")
    parser.add_argument(
        "--seeds", type=whole(1, MAX_SEEDS), default=3, help="students of each arm, from seed 0 on"
    )
    parser.add_argument(
        "--table",
        action="append",
        choices=tuple(TABLES),
        default=[],
        help="only this table; may be repeated (default: all of the config's)",
    )
    parser.add_argument(
        "--limit-cells", type=whole(1), metavar="N", help="make at most so many, then leave"
    )
    parser.add_argument(
        "--again", action="store_true", help="make cells of other code or settings again"
    )
    parser.add_argument("--cells", type=Path, default=CELLS, help="folder of the finished cells")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="of table: the file to write")
    return parser


if __name__ == "__main__":
    run_main(main)
