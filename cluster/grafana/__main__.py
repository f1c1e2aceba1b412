"""Write the Grafana dashboard to stdout: python -m cluster.grafana > conkd.json."""

from __future__ import annotations

import json
import sys

from trainer.common.cli import run_main
from trainer.common.command import CommandParser


def main(argv: list[str]) -> None:
    """Parse, write."""
    parser = CommandParser(
        prog="python -m cluster.grafana",
        description="Write the Grafana dashboard to stdout: JSON to import.",
    )
    parser.parse_args(argv)
    # Not above: a mistake in the command line must not wait for torch.
    from cluster.grafana.dashboard import dashboard

    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")


if __name__ == "__main__":
    run_main(main)
