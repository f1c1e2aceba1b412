"""Does the working tree compute what BASE computes? `make same-loss BASE=REVISION`

Both trees train 20 steps on two ranks from one target cache that BASE filled. Losses, exported
weights, prepared corpus and reply blocks must be the same bit for bit; a run with teachers that the
working tree serves must have the same losses up to rounding. Exit status: 0 the same, 1 different,
2 error.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from cluster.launch.launcher import CommandFailed, Launcher
from tests.same_loss.story import Outcome, Scene, run_scene
from tests.same_loss.trees import ROOT, Tree, checked_out, find_commit

EXIT_DIFFERENT, EXIT_ERROR, EXIT_INTERRUPTED = 1, 2, 130


def main(argv: list[str]) -> int:
    """Parse, run, print; the exit status."""
    started_s = time.monotonic()
    arguments = _parser().parse_args(argv)
    commit = find_commit(arguments.base)
    tree = arguments.tree.resolve()
    if not (tree / "trainer/main.py").is_file():
        raise FileNotFoundError(f"--tree must hold trainer/main.py, got {arguments.tree}.")
    outcome = _run(commit, tree, with_served=not arguments.no_served)
    seconds = round(time.monotonic() - started_s, 1)
    summary = {"base": commit, "tree": str(tree), "seconds": seconds}
    sys.stdout.write(_json(outcome, summary) if arguments.json else _text(outcome, summary))
    return EXIT_DIFFERENT if outcome.differences else 0


def _run(commit: str, tree: Path, *, with_served: bool) -> Outcome:
    """Run in a temporary folder, which stays only if a command fails: it holds the logs."""
    folder = Path(tempfile.mkdtemp(prefix="same-loss-"))
    keeps = False
    try:
        with (
            Launcher(folder / "logs", screen=sys.stderr) as launcher,
            checked_out(commit, folder / "base") as base,
        ):
            scene = Scene(
                base=Tree(name="base", root=base), tree=Tree(name="tree", root=tree), folder=folder
            )
            return run_scene(scene, launcher, with_served=with_served)
    except CommandFailed:
        keeps = True
        raise
    finally:
        if not keeps:
            shutil.rmtree(folder, ignore_errors=True)


def _json(outcome: Outcome, summary: dict[str, object]) -> str:
    found = dataclasses.asdict(outcome)
    return json.dumps({**summary, "same": not outcome.differences, **found}, indent=2) + "\n"


def _text(outcome: Outcome, summary: dict[str, object]) -> str:
    trees = f"{summary['tree']} and BASE {str(summary['base'])[:12]}"
    verdict = f"{len(outcome.differences)} differences" if outcome.differences else "the same"
    lines = [f"{trees}: {verdict} ({summary['seconds']} s)", *map(str, outcome.differences)]
    if outcome.served_deviation is not None:
        lines.append(f"served run: losses within {outcome.served_deviation:.1e} of the cached run")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.same_loss", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("base", metavar="BASE", help="revision to compare with")
    parser.add_argument("--tree", type=Path, default=ROOT, help="default: this working tree")
    parser.add_argument("--no-served", action="store_true", help="leave out the served run")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except (ValueError, OSError) as error:
        tail = f"{error.tail}\n" if isinstance(error, CommandFailed) else ""
        sys.stderr.write(f"{tail}error: {' '.join(str(error).split())}\n")
        status = EXIT_ERROR
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = EXIT_INTERRUPTED
    sys.exit(status)
