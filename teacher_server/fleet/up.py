"""`up`: check everything that can be checked beforehand, then start the fleet or nothing."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

from protos.teacher_pb2 import Description
from teacher_server.fleet.console import print_status, say
from teacher_server.fleet.deploy import deploy, remove, wait_until_ready
from teacher_server.fleet.deployment import ReplicaOptions
from teacher_server.fleet.fleet_lock import changing
from teacher_server.fleet.local_cluster import (
    FleetState,
    Keeper,
    check_port_free,
    check_reachable,
    clear_folder,
    is_alive,
    read_state,
    start_keeper,
    start_of,
    write_state,
)
from teacher_server.fleet.offers import Offers, check_offers
from teacher_server.fleet.options import (
    asked_batch_limits,
    asked_folders,
    asked_scaling,
    parse_dtypes,
    parse_gpus,
    parse_ranges,
)
from teacher_server.fleet.pins import pin_of
from teacher_server.fleet.ray_cluster import (
    check_cluster,
    cluster_address,
    cluster_room,
    connect,
    head_address,
    is_gone,
    offers,
)
from teacher_server.fleet.ray_private import cluster_id, serve_is_running
from teacher_server.fleet.room import (
    ReplicaNeed,
    Room,
    check_memory,
    check_room,
    gpu_share,
    num_devices,
    weights_in,
)
from teacher_server.fleet.scaling import ReplicaRange, ScalingTarget
from teacher_server.fleet.trust import authorities
from teacher_server.replica.security import SERVER_REMEDY
from teacher_server.scoring.kinds import SERVED_KINDS
from trainer.common.devices import VARIABLE, num_visible_devices
from trainer.common.errors import InputError, UnreachableError
from trainer.common.machine import memory_bytes
from trainer.common.outputs import check_output
from trainer.common.plugins import with_plugins
from trainer.config.watch import check_endpoint
from trainer.models.frozen import read_card
from trainer.security.addresses import address_of, is_loopback
from trainer.security.credentials import SecurityFiles, check_host, read_credentials

# Of records of earlier versions: the cluster of this machine.
AUTO = "auto"


def up(args: argparse.Namespace) -> None:
    """Start the fleet of the options and show it; an error takes everything down again.

    Raises:
        ValueError, OSError: for user errors, most of them before anything is started.
    """
    known = with_plugins(SERVED_KINDS, args.plugin, "SERVED_KINDS")
    folders = asked_folders(args, known)
    asked = parse_ranges(args.replicas, folders)
    dtypes = parse_dtypes(args.dtype, {kind: known[kind] for kind in folders})
    cards = _check_teachers(folders)
    gpus = parse_gpus(args.num_gpus, folders, known)
    ranges = {kind: asked.get(kind, ReplicaRange.of(1)) for kind in folders}
    security = _security(args)
    check_endpoint("--spans", args.spans)
    check_output("the folder of --fleet", args.fleet.parent)
    with changing(args.fleet, args.command):
        state = _started(args, cards, folders, dtypes, gpus, ranges, security)
    print_status(state, as_json=False)


def _started(
    args: argparse.Namespace,
    cards: Mapping[str, Description],
    folders: Mapping[str, Path],
    dtypes: Mapping[str, str],
    gpus: Mapping[str, float],
    ranges: Mapping[str, ReplicaRange],
    security: SecurityFiles,
) -> FleetState:
    """Start the fleet and wait until it serves, or take all of it down again."""
    address = args.address or os.environ.get("RAY_ADDRESS", "")
    before = _record_before(args.fleet, is_new_cluster=not address)
    if is_loopback(args.host):
        check_port_free(args.host, args.port)
    if not address:
        gpus = _checked_shares(args, folders, dtypes, gpus, ranges)
    with contextlib.ExitStack() as undo:
        keeper, address = _cluster(args, address, undo)
        if before is not None:
            _check_gone(before, args.fleet)
        check_cluster(args.host)
        offered = offers()
        options = {
            kind: _replica_options(args, cards[kind], folder, dtypes[kind], gpus.get(kind), offered)
            for kind, folder in folders.items()
        }
        state = _state(args, options, keeper=keeper, address=address, security=security)
        if keeper is None:
            for doubt in check_offers(state.needs, offered):
                say(doubt)
        write_state(args.fleet, state)
        undo.callback(args.fleet.unlink, missing_ok=True)
        if keeper is None:
            undo.callback(remove, state)
        else:
            check_room(cluster_room(), state.needs, ranges)
        say(f"Ray runs at {state.ray_address}: starting the Directory and the replicas")
        deploy(state, ranges, ScalingTarget(**state.scaling), port=args.port)
        wait_until_ready(ranges, state, timeout_s=args.timeout, progress=say)
        if keeper is not None:
            keeper.keep()
        undo.pop_all()
    return state


def _checked_shares(
    args: argparse.Namespace,
    folders: Mapping[str, Path],
    dtypes: Mapping[str, str],
    asked: Mapping[str, float],
    ranges: Mapping[str, ReplicaRange],
) -> dict[str, float]:
    """GPUs of each kind's replicas, asked for or an equal share of the others, once all fit a
    cluster that is not there yet."""
    num_gpus = num_visible_devices(os.environ.get(VARIABLE))
    room = Room(num_cpus=args.cluster_cpus, num_gpus=num_gpus)
    others = [kind for kind in folders if kind not in asked]
    taken = num_devices(asked, {kind: ranges[kind].max for kind in asked})
    # If nothing is left they still ask for one each, and the check says that all do not fit.
    left = max(num_gpus - taken, min(num_gpus, 1))
    share = gpu_share(sum(ranges[kind].max for kind in others), left)
    if others and 0 < share < 1:
        say(f"each replica takes {share:g} of a GPU: there are more replicas than GPUs")
    gpus = {**asked, **dict.fromkeys(others, share)}
    needs = {it: ReplicaNeed(num_cpus=args.num_cpus, num_gpus=gpus[it]) for it in folders}
    check_room(room, needs, ranges)
    on_cpu = {kind: folder for kind, folder in folders.items() if not gpus[kind]}
    check_memory(weights_in(on_cpu, dtypes), ranges, memory_bytes())
    return gpus


def _cluster(
    args: argparse.Namespace, address: str, undo: contextlib.ExitStack
) -> tuple[Keeper | None, str]:
    """Connect to the named cluster or start one; returns its keeper if started, and its address."""
    keeper = None
    if not address:
        say("starting Ray on this machine, which takes a minute on a slow one")
        keeper = start_keeper(num_cpus=args.cluster_cpus, on_loopback=is_loopback(args.host))
        undo.callback(keeper.stop)
        address = keeper.wait_for_address()
    connect(address, str(keeper.auth_token_path) if keeper else "")
    return keeper, cluster_address()


def _state(
    args: argparse.Namespace,
    options: Mapping[str, ReplicaOptions],
    *,
    keeper: Keeper | None,
    address: str,
    security: SecurityFiles,
) -> FleetState:
    """The record of the fleet, written before anything of it is on the cluster."""
    directory_host = args.host if is_loopback(args.host) else head_address()
    return FleetState(
        ray_address=address,
        cluster_id=cluster_id(),
        directory=address_of(directory_host, args.port),
        keeper_pid=keeper.pid if keeper else 0,
        keeper_start=start_of(keeper.pid) if keeper else "",
        auth_token_path=str(keeper.auth_token_path) if keeper else "",
        owns_serve=not serve_is_running(),
        options={kind: dataclasses.asdict(it) for kind, it in options.items()},
        batch_limits=asked_batch_limits(args),
        scaling=dataclasses.asdict(asked_scaling(args, ScalingTarget())),
        security=security,
        authorities=authorities(security),
    )


def _replica_options(
    args: argparse.Namespace,
    card: Description,
    folder: Path,
    dtype: str,
    num_gpus: float | None,
    offered: Offers,
) -> ReplicaOptions:
    resources = offered.resources_for(card.kind)
    if num_gpus is None:
        # An existing cluster may grow: there is no need to share.
        num_gpus = offered.gpus_for(resources)
    return ReplicaOptions(
        kind=card.kind,
        folder=str(folder.resolve()),
        host=args.host,
        metrics_host=args.metrics,
        spans=args.spans,
        num_threads=args.threads,
        num_cpus=args.num_cpus,
        num_gpus=num_gpus,
        resources=resources,
        ports=args.replica_ports,
        dtype=dtype,
        deterministic=args.deterministic,
        plugins=tuple(args.plugin),
        pin=dataclasses.asdict(pin_of(card, folder, dtype)),
    )


def _check_teachers(folders: Mapping[str, Path]) -> dict[str, Description]:
    """The cards of the given folders; they must share one vocabulary."""
    read = {kind: read_card(folder, kind) for kind, folder in folders.items()}
    digests = {kind: card.vocabulary_digest for kind, card in read.items()}
    if len(set(digests.values())) > 1:
        raise InputError(
            "the teachers must share one vocabulary, got digests "
            + " and ".join(f"{digest} ({kind})" for kind, digest in digests.items())
            + ". Fit them on the same prepared data."
        )
    return read


def _security(args: argparse.Namespace) -> SecurityFiles:
    """The files that protect the fleet, checked before anything is started."""
    security = SecurityFiles(
        # Replicas have another working directory: a relative path would name other files.
        tls=str(args.tls.resolve()) if args.tls else None,
        token_file=str(args.token_file.resolve()) if args.token_file else None,
        insecure=args.insecure,
    )
    check_host("--host", args.host, security, remedy=SERVER_REMEDY)
    if args.metrics:
        check_host("--metrics", args.metrics, security, remedy=SERVER_REMEDY)
    read_credentials(security, "server")
    read_credentials(security, "client")  # `up` and `status` call the Directory and the replicas.
    return security


def _record_before(path: Path, *, is_new_cluster: bool) -> FleetState | None:
    """The record of a fleet on a cluster that is not ours, to be looked at once connected.

    Raises:
        InputError: if its fleet is up, or may be and would be lost sight of.
    """
    if not path.is_file():
        return None
    state = read_state(path)
    if is_alive(state) and (state.keeper_pid or is_new_cluster):
        raise _is_up(state, path)
    if not state.keeper_pid:
        return state
    # Its keeper is gone, and so is the fleet.
    clear_folder(state)
    path.unlink()
    return None


def _check_gone(state: FleetState, path: Path) -> None:
    """Raise InputError unless the fleet of a record has ended with its cluster.

    Each start of a cluster's head is another cluster. Elsewhere a cluster that answers may be the
    record's.
    """
    is_elsewhere = state.ray_address not in (cluster_address(), AUTO)
    if (not is_gone(state) and serve_is_running()) or (is_elsewhere and _answers(state)):
        raise _is_up(state, path)
    say(f"{path} names a fleet that has ended with its Ray cluster: it is replaced")


def _answers(state: FleetState) -> bool:
    try:
        check_reachable(state.ray_address)
    except UnreachableError:
        return False
    return True


def _is_up(state: FleetState, path: Path) -> InputError:
    return InputError(
        f"no fleet must be up, got one at {state.directory} ({path}). "
        "Take it down with: python -m teacher_server down"
    )
