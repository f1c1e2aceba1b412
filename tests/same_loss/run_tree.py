"""Runs a script with the packages of one tree: `run_tree.py --tree TREE SCRIPT [ARGUMENT ...]`.

An editable install or the caller's folder could supply the packages of another tree, and two equal
trees would always compute the same. So this checks where they come from, and then runs the script.
"""

from __future__ import annotations

import argparse
import importlib
import runpy
import sys
from pathlib import Path

PACKAGES = ("protos", "trainer", "teacher_server")


def main(argv: list[str]) -> None:
    """Put the tree first on the path, check the origin of its packages, run the script."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--tree", type=Path, required=True)
    parser.add_argument("--local_rank", help="set by the deepspeed launcher, passed to the script")
    parser.add_argument("script", type=Path)
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    arguments = parser.parse_args(argv)
    # In place of the folder of this file.
    sys.path[0] = str(arguments.tree)
    check_origin(arguments.tree)
    rank = [] if arguments.local_rank is None else [f"--local_rank={arguments.local_rank}"]
    sys.argv = [str(arguments.script), *rank, *arguments.arguments]
    runpy.run_path(str(arguments.script), run_name="__main__")


def check_origin(tree: Path) -> None:
    """Exit with an error if a package is imported from outside the tree."""
    for name in PACKAGES:
        file = importlib.import_module(name).__file__
        if file is None or tree.resolve() not in Path(file).resolve().parents:
            sys.exit(f"error: {name} must be imported from {tree}, got {file}. Check PYTHONPATH.")


if __name__ == "__main__":
    main(sys.argv[1:])
