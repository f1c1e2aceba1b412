"""The process that owns a local Ray cluster, which ends with it."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys

import ray

from teacher_server.fleet.local_cluster import OBJECT_STORE_BYTES, RAY_NAME
from teacher_server.fleet.options import KEEP
from teacher_server.fleet.ray_private import start_local


def keep(args: argparse.Namespace) -> None:
    """The keeper: own a local Ray cluster until SIGTERM, or until `up` ends without KEEP."""
    try:
        signal.signal(signal.SIGTERM, _leave)
        # Ray makes its own folder writable for everybody; nobody else comes through ours.
        folder = args.folder / RAY_NAME
        address = start_local(folder, num_cpus=args.num_cpus, object_store_bytes=OBJECT_STORE_BYTES)
        signal.signal(signal.SIGTERM, _leave)  # Ray installed its own handler.
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        if sys.stdin.readline().strip() == KEEP:
            while True:
                signal.pause()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ray.shutdown()
        shutil.rmtree(args.folder, ignore_errors=True)


def _leave(signum: int, frame: object) -> None:
    sys.exit(0)
