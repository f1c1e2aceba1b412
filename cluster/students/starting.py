"""Starts the supervisor of a run, finds it, and stops it."""

from __future__ import annotations

import dataclasses
import json
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from cluster.students.node_set import STUDENT
from cluster.students.options import RunOptions
from cluster.students.order import RunOrder, check_sizes
from cluster.students.run_files import CONFIG_NAME, read_state, run_folder
from cluster.students.supervisor import NAMESPACE, PREFIX, SHARE, SUPERVISOR, Supervisor
from teacher_server.fleet.ray_cluster import connect
from trainer.common.atomic import write_text
from trainer.common.errors import InputError, MachineError, MissingError, first_line
from trainer.common.text_files import read_text
from trainer.config.run import RunConfig
from trainer.config.yaml_file import load_config

CLUSTER = "auto"
START_S = 120.0
STOP_S = 90.0
LOOK_S = 0.5


def start_run(options: RunOptions) -> str:
    """Start the run, unless it is there: then what it does."""
    folder = run_folder(options.name)
    _check_output(options.overrides, folder)
    overrides = [*options.overrides, f"output={folder}"]
    config = load_config(RunConfig, options.config, overrides)
    order = _order(options, folder)
    check_sizes(config, order)
    connect(CLUSTER)
    found = _find(options.name)
    if found is not None:
        state: Any = ray.get(found.status.remote(), timeout=START_S)
        if not state.is_over:
            return f"run {options.name} goes on already, {state.state}: {state.message}"
        _remove(found, options.name)
    _check_nodes()
    write_text(folder / CONFIG_NAME, read_text(options.config))
    _start(order)
    _wait_for_state(order)
    return f"run {options.name} is started on {options.nodes} nodes; its folder is {folder}"


def stop_run(name: str) -> str:
    """End a run, and wait for that."""
    folder = run_folder(name)
    state = read_state(folder)
    if state.is_over:
        return f"run {name} is over already, {state.state}: {state.message}"
    connect(CLUSTER)
    found = _find(name)
    if found is None:
        raise MissingError(
            f"run {name} must have a supervisor, got none in this cluster: it ended with an "
            "earlier one. Run it again to go on, or remove its supervisor.json."
        )
    found.stop.remote()
    deadline_s = time.monotonic() + STOP_S
    while not (state := read_state(folder)).is_over:
        if time.monotonic() > deadline_s:
            raise MachineError(
                f"run {name} must end within {STOP_S:.0f} s, got: {state.state}, {state.message}. "
                "Look at its log."
            )
        time.sleep(LOOK_S)
    return f"run {name} has ended, {state.state}, after step {state.step}"


def describe(name: str, *, as_json: bool) -> str:
    """What a run does, by its folder."""
    state = read_state(run_folder(name))
    if as_json:
        return json.dumps(dataclasses.asdict(state))
    if state.is_over:
        return f"run {name} {state.state} after step {state.step}: {state.message}"
    nodes = ", ".join(state.nodes) or "no node"
    age_s = max(0.0, time.time() - state.updated)
    return (
        f"run {name} {state.state}, step {state.step}, attempt {state.attempt}: {state.ranks} "
        f"ranks on {nodes} ({len(state.nodes)} of {state.wanted_nodes} nodes); {age_s:.0f} s ago\n"
        f"  {state.message}"
    )


def _check_output(overrides: Sequence[str], folder: Path) -> None:
    for key, _, value in (each.partition("=") for each in overrides):
        if key == "output" and Path(value) != folder:
            raise InputError(
                f"output must be {folder}, the run's folder in the shared one, got {value}. Leave "
                "it out, or choose it with --name."
            )


def _order(options: RunOptions, folder: Path) -> RunOrder:
    return RunOrder(
        name=options.name,
        id=secrets.token_hex(8),
        folder=str(folder),
        config=str(folder / CONFIG_NAME),
        overrides=options.overrides,
        nodes=options.nodes,
        min_nodes=options.min_nodes,
        slots=options.slots,
        wait_s=options.wait_s,
    )


def _find(name: str) -> Any | None:
    try:
        return ray.get_actor(f"{PREFIX}{name}", namespace=NAMESPACE)
    except ValueError:
        return None


def _remove(supervisor: Any, name: str) -> None:
    """End the supervisor of a run that is over, if it has not ended itself."""
    ray.kill(supervisor)
    deadline_s = time.monotonic() + STOP_S
    while _find(name) is not None and time.monotonic() < deadline_s:
        time.sleep(LOOK_S)


def _check_nodes() -> None:
    """Raise InputError where no node is for students, now or later."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(SUPERVISOR in each and STUDENT in each for each in alive):
        raise InputError(
            f"the cluster must have nodes with the resources {STUDENT} and {SUPERVISOR}, got none. "
            "Start Ray there with --resources, as cluster/local.yaml does."
        )


def _start(order: RunOrder) -> None:
    supervisor: Any = ray.remote(Supervisor)
    actor = supervisor.options(
        name=f"{PREFIX}{order.name}",
        namespace=NAMESPACE,
        lifetime="detached",
        num_cpus=0,
        resources={SUPERVISOR: SHARE},
        max_restarts=-1,
        max_concurrency=4,
    ).remote(order)
    try:
        ray.get(actor.status.remote(), timeout=START_S)
    except (GetTimeoutError, RayError) as error:
        ray.kill(actor)
        raise MachineError(
            f"the supervisor of run {order.name} must start on a student node within "
            f"{START_S:.0f} s, got: {first_line(error)}. Look at ray status."
        ) from error


def _wait_for_state(order: RunOrder) -> None:
    """Wait for the state of this run in its folder: `follow` and `status` look there alone."""
    deadline_s = time.monotonic() + START_S
    while not _has_state(order):
        if time.monotonic() > deadline_s:
            raise MachineError(
                f"the supervisor of run {order.name} must write to {order.folder} within "
                f"{START_S:.0f} s, got nothing. See that its node has the shared folder there."
            )
        time.sleep(LOOK_S)


def _has_state(order: RunOrder) -> bool:
    try:
        return read_state(Path(order.folder)).id == order.id
    except MissingError:
        return False
