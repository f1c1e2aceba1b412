"""A spot node that is taken away in two minutes is drained: Serve moves its replicas at once.

python -m cluster.aws.spot

EC2 gives the notice in the instance's metadata. Ray's GCS then takes the node for draining, and
Serve's controller starts replicas elsewhere before it stops those here.
"""

from __future__ import annotations

import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cluster.aws.metadata import Metadata
from trainer.common.cli import run_main
from trainer.common.command import CommandParser
from trainer.common.errors import MachineError

POLL_S = 5.0
NOTICE = "spot/instance-action"
MARGIN_S = 10
"""Before the machine goes, replicas have gone."""
UNIT = "conkd-spot"
DRAIN = ("drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION")


def main(argv: list[str]) -> None:
    """Watch until a notice comes; drain; end."""
    parser = CommandParser(prog="python -m cluster.aws.spot", description=__doc__)
    parser.parse_args(argv)
    from cluster.aws.node import run_command

    ray = str(Path(sys.executable).with_name("ray"))
    watch(Metadata(), drain=lambda left_s: run_command([ray, *drain_arguments(left_s)]))


def watch(
    metadata: Metadata, *, drain: Callable[[int], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Wait for a notice that this instance goes, then call `drain` with the seconds left."""
    while True:
        left_s = seconds_left(metadata)
        if left_s is not None:
            print(f"spot notice: this node goes in {left_s} s; it is drained", flush=True)
            try:
                drain(left_s)
                return
            except MachineError as error:
                # The head may be away for a moment: the next round tries again.
                print(f"not drained yet: {error}", flush=True)
        sleep(POLL_S)


def seconds_left(metadata: Metadata) -> int | None:
    """Seconds until the instance is taken away, less a margin; None without a notice."""
    text = metadata.get(NOTICE)
    if text is None:
        return None
    end = datetime.datetime.fromisoformat(json.loads(text)["time"].replace("Z", "+00:00"))
    now = datetime.datetime.now(datetime.timezone.utc)
    return max(0, int((end - now).total_seconds()) - MARGIN_S)


def drain_arguments(left_s: int) -> list[str]:
    """The arguments of `ray` that drain the node on which it runs."""
    message = "spot notice: EC2 takes this node away"
    return [*DRAIN, "--reason-message", message, "--deadline-remaining-seconds", str(left_s)]


def watch_commands(home: Path) -> list[list[str]]:
    """The commands that start the watch as a unit of systemd, in the place of an earlier one."""
    folder = home / "conkd"
    python = folder / ".venv/bin/python"
    start = [
        *("sudo", "systemd-run", "--quiet", f"--unit={UNIT}", "--collect"),
        *(f"--uid={home.name}", f"--working-directory={folder}"),
        *("--setenv=RAY_AUTH_MODE=token", f"--setenv=HOME={home}"),
        *("--property=Restart=on-failure", str(python), "-m", "cluster.aws.spot"),
    ]
    return [["sudo", "bash", "-c", f"systemctl stop {UNIT} 2>/dev/null || true"], start]


if __name__ == "__main__":
    run_main(main)
