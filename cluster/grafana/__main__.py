"""Write the Grafana dashboard to stdout: python -m cluster.grafana > conkd.json."""

from __future__ import annotations

import argparse
import json
import sys

from cluster.grafana.dashboard import dashboard
from trainer.common.cli import run_main


def main(argv: list[str]) -> None:
    """Parse, write."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.grafana",
        description="Write the Grafana dashboard to stdout: JSON to import.",
    )
    parser.parse_args(argv)
    sys.stdout.write(json.dumps(dashboard(), indent=2) + "\n")


if __name__ == "__main__":
    run_main(main)
