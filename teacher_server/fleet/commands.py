"""What the commands of `python -m teacher_server` do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from teacher_server.fleet.certificates import make_certificates
from teacher_server.fleet.console import (
    print_replaced,
    print_scrape_targets,
    print_status,
    say,
    watch_status,
)
from teacher_server.fleet.deploy import remove, scale, wait_until_ready
from teacher_server.fleet.fleet_change import FleetChange
from teacher_server.fleet.fleet_lock import changing
from teacher_server.fleet.local_cluster import (
    FleetState,
    clear_folder,
    is_alive,
    read_state,
    stop_keeper,
    write_state,
)
from teacher_server.fleet.options import asked_scaling, parse_ranges
from teacher_server.fleet.ray_cluster import cluster_room, connect, is_gone
from teacher_server.fleet.roll import roll_fleet, undo_interrupted
from teacher_server.fleet.roll_plan import plan_roll
from teacher_server.fleet.room import check_memory, check_room, weights_in
from teacher_server.fleet.scaling import ScalingTarget
from teacher_server.fleet.status import fleet_status, last_line
from teacher_server.fleet.succession import counted_ranges
from teacher_server.fleet.up import up
from trainer.common.errors import MachineError, UnreachableError
from trainer.common.machine import memory_bytes

Command = Callable[[argparse.Namespace], None]


def run(args: argparse.Namespace) -> None:
    """Run the command that was parsed; raises UserError for what its user can put right."""
    # Ray's own log lines; its errors are raised.
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        COMMANDS[args.command](args)
    except (RayError, RayServeException) as error:
        raise MachineError(f"the Ray cluster must answer, got: {last_line(str(error))}") from error
    finally:
        ray.shutdown()


def _scale(args: argparse.Namespace, state: FleetState) -> None:
    of_kinds = parse_ranges(args.replicas, state.current)
    asked = {state.current[kind]: wanted for kind, wanted in of_kinds.items()}
    with _on_its_cluster(state):
        known = fleet_status()
        counted = counted_ranges(state, known) | asked
        ranges = {group: known[group].replica_range for group in counted} | asked
        if state.keeper_pid:
            check_room(cluster_room(), state.needs, counted)
            on_cpu = {it: state.options[it] for it in counted if not state.needs[it].num_gpus}
            folders = {group: Path(options["folder"]) for group, options in on_cpu.items()}
            dtypes = {group: options["dtype"] for group, options in on_cpu.items()}
            check_memory(weights_in(folders, dtypes), counted, memory_bytes())
        scaling = asked_scaling(args, ScalingTarget(**state.scaling))
        scale(state, asked, scaling)
        write_state(args.fleet, dataclasses.replace(state, scaling=dataclasses.asdict(scaling)))
        wait_until_ready(ranges, state, timeout_s=args.timeout, progress=say)
        print_status(state, as_json=False)


def _roll(args: argparse.Namespace, state: FleetState) -> None:
    plan = plan_roll(args, state)
    with _on_its_cluster(state):
        fleet = FleetChange(args.fleet, state, timeout_s=args.timeout, progress=say)
        if undo_interrupted(fleet):
            plan = plan_roll(args, fleet.state)
        replaced = roll_fleet(fleet, plan)
        if args.json:
            print_replaced(replaced)
        else:
            print_status(fleet.state, as_json=False)


def _status(args: argparse.Namespace) -> None:
    state = read_state(args.fleet)
    if args.prometheus:
        print_scrape_targets(state)
        return
    with _on_its_cluster(state):
        if args.watch is None:
            print_status(state, as_json=args.json)
        else:
            watch_status(lambda: read_state(args.fleet), args.watch)


def _down(args: argparse.Namespace, state: FleetState) -> None:
    try:
        with _connected(state):
            if is_gone(state):
                say("its Ray cluster has ended, and the fleet with it: the record is removed")
            else:
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


def _certificates(args: argparse.Namespace) -> None:
    for path in make_certificates(args.output, days=args.days):
        say(f"wrote {path}")


def _alone(command: Callable[[argparse.Namespace, FleetState], None]) -> Command:
    """A command on the fleet that is up, which no other one changes meanwhile."""

    def run_alone(args: argparse.Namespace) -> None:
        read_state(args.fleet)  # Where no fleet is up, nothing is made.
        with changing(args.fleet, args.command):
            command(args, read_state(args.fleet))

    return run_alone


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


@contextlib.contextmanager
def _on_its_cluster(state: FleetState) -> Iterator[None]:
    """Connected, to the very cluster on which the fleet was started."""
    with _connected(state):
        if is_gone(state):
            raise UnreachableError(
                f"the fleet must be on the Ray cluster at {state.ray_address}, got a cluster that "
                "was started later: the fleet ended with the one before. Start it again with "
                "python -m teacher_server up, which replaces its record."
            )
        yield


COMMANDS: dict[str, Command] = {
    "up": up,
    "scale": _alone(_scale),
    "roll": _alone(_roll),
    "status": _status,
    "down": _alone(_down),
    "certificates": _certificates,
}
