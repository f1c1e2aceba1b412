"""Starts, scales, shows and stops a fleet of frozen teachers.

    python -m teacher_server up --dialogue DIR --recommendation DIR [--replicas dialogue=2]
    python -m teacher_server scale dialogue=4        # or dialogue=0..4: autoscaled
    python -m teacher_server status [--json | --watch [SECONDS] | --prometheus]
    python -m teacher_server down
    python -m teacher_server certificates --output DIR [--days N]

`up` uses the Ray cluster of --address or RAY_ADDRESS, or starts one on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import shutil
import signal
import sys
from collections.abc import Iterator

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from teacher_server.fleet.autoscaling import ScalingTarget
from teacher_server.fleet.certificates import make_certificates
from teacher_server.fleet.console import print_scrape_targets, print_status, say, watch_status
from teacher_server.fleet.deploy import remove, scale, wait_until_ready
from teacher_server.fleet.local_cluster import (
    KEEP,
    OBJECT_STORE_BYTES,
    RAY_NAME,
    FleetState,
    clear_folder,
    is_alive,
    read_state,
    stop_keeper,
    write_state,
)
from teacher_server.fleet.options import asked_scaling, parse, parse_keep, parse_ranges
from teacher_server.fleet.ray_cluster import cluster_room, connect
from teacher_server.fleet.ray_private import start_local
from teacher_server.fleet.room import check_room
from teacher_server.fleet.status import fleet_status, last_line
from teacher_server.fleet.up import up
from trainer.common.errors import MachineError, UnreachableError


def main(argv: list[str]) -> None:
    """Run one command; raises UserError for what its user can put right."""
    if argv[:1] == [KEEP]:
        _keep(parse_keep(argv[1:]))
        return
    commands = {"up": up, "scale": _scale, "status": _status, "down": _down}
    args = parse(argv, {**commands, "certificates": _certificates})
    # Ray's own log lines; its errors are raised.
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        args.run(args)
    except (RayError, RayServeException) as error:
        raise MachineError(f"the Ray cluster must answer, got: {last_line(str(error))}") from error
    finally:
        ray.shutdown()


def _scale(args: argparse.Namespace) -> None:
    state = read_state(args.fleet)
    asked = parse_ranges(args.replicas, state.options)
    with _connected(state):
        known = fleet_status()
        ranges = {kind: known[kind].replica_range for kind in state.options} | asked
        if state.keeper_pid:
            check_room(cluster_room(), state.needs, ranges)
        scaling = asked_scaling(args, ScalingTarget(**state.scaling))
        scale(state, asked, scaling)
        write_state(args.fleet, dataclasses.replace(state, scaling=dataclasses.asdict(scaling)))
        wait_until_ready(ranges, state, timeout_s=args.timeout, progress=say)
        print_status(state, as_json=False)


def _status(args: argparse.Namespace) -> None:
    state = read_state(args.fleet)
    if args.prometheus:
        print_scrape_targets(state)
        return
    with _connected(state):
        if args.watch is None:
            print_status(state, as_json=args.json)
        else:
            watch_status(state, args.watch)


def _down(args: argparse.Namespace) -> None:
    state = read_state(args.fleet)
    try:
        with _connected(state):
            remove(state)
    except UnreachableError as error:
        if not state.keeper_pid:
            raise  # The fleet may run on a cluster that does not answer now.
        # The fleet ended with its cluster; only its state file is left.
        say(str(error))
    finally:
        # Also when Ray is stuck: it ends with the keeper.
        stop_keeper(state)
    clear_folder(state)
    args.fleet.unlink(missing_ok=True)
    say("the fleet is down")


def _keep(args: argparse.Namespace) -> None:
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


def _certificates(args: argparse.Namespace) -> None:
    for path in make_certificates(args.output, days=args.days):
        say(f"wrote {path}")


def _leave(signum: int, frame: object) -> None:
    sys.exit(0)


@contextlib.contextmanager
def _connected(state: FleetState) -> Iterator[None]:
    if not is_alive(state):
        raise UnreachableError(
            f"the keeper of the local Ray cluster must run, got no process {state.keeper_pid}. "
            "Clear up with: python -m teacher_server down"
        )
    connect(state.ray_address, state.auth_token_path)
    try:
        yield
    finally:
        ray.shutdown()
