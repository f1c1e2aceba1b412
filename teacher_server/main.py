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
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from teacher_server.autoscaling import Bounds, Pace
from teacher_server.certificates import make_certificates
from teacher_server.console import (
    parse,
    parse_bounds,
    print_scrape_targets,
    print_status,
    watch_status,
)
from teacher_server.deployment import ReplicaOptions
from teacher_server.fleet import (
    check_cluster,
    check_room,
    connect,
    deploy,
    fleet_status,
    head_address,
    last_line,
    remove,
    scale,
    serve_is_running,
    wait_until_ready,
)
from teacher_server.local_cluster import (
    KEEP,
    FleetState,
    check_port_free,
    is_alive,
    read_state,
    start_keeper,
    stop_keeper,
    write_state,
)
from teacher_server.security import SERVER_REMEDY
from trainer.credentials import SecurityFiles, check_host, is_loopback, read_credentials
from trainer.models.frozen import FrozenCard, Kind, read_card
from trainer.spans import check_endpoint


def main(argv: list[str]) -> None:
    """Run one command; raises ValueError or OSError for what the user can mend."""
    commands = {
        **{"up": _up, "scale": _scale, "status": _status, "down": _down},
        **{"certificates": _certificates, "keep": _keep},
    }
    args = parse(argv, commands)
    # Ray's own chatter; what matters of it is raised.
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        args.run(args)
    except (RayError, RayServeException) as error:
        raise OSError(f"the Ray cluster must answer, got: {last_line(str(error))}") from error
    finally:
        ray.shutdown()


def _up(args: argparse.Namespace) -> None:
    asked = parse_bounds(args.replicas)
    folders = {"dialogue": args.dialogue, "recommendation": args.recommendation}
    cards = _check_teachers({kind: folder for kind, folder in folders.items() if folder})
    unknown = sorted(set(asked) - set(cards))
    if unknown:
        raise ValueError(f"--replicas must name teachers that are given, got {unknown[0]}.")
    security = _security(args)
    check_endpoint("--spans", args.spans)
    _check_none_up(args.fleet)
    if is_loopback(args.host):
        check_port_free(args.host, args.port)
    with contextlib.ExitStack() as undo:
        address = args.address or os.environ.get("RAY_ADDRESS", "")
        keeper = None
        if not address:
            _say("starting Ray on this machine")
            keeper = start_keeper(
                num_cpus=args.cluster_cpus,
                object_store_bytes=args.object_store_mb << 20,
            )
            undo.callback(keeper.stop)
            address = keeper.wait_for_address()
        token_path = str(keeper.auth_token_path) if keeper else ""
        connect(address, token_path)
        check_cluster(args.host)
        directory_host = args.host if is_loopback(args.host) else head_address()
        options = {kind: _replica_options(args, kind, folders[kind]) for kind in cards}
        pace = _pace(args, Pace())
        state = FleetState(
            ray_address=address,
            directory=f"{directory_host}:{args.port}",
            keeper_pid=keeper.pid if keeper else 0,
            keeper_started=keeper.started if keeper else 0.0,
            auth_token_path=token_path,
            owns_serve=not serve_is_running(),
            num_cpus=dict.fromkeys(cards, float(args.num_cpus)),
            options={kind: dataclasses.asdict(it) for kind, it in options.items()},
            batch_limits={"token_budget": args.token_budget},
            pace=dataclasses.asdict(pace),
            security=security,
        )
        write_state(args.fleet, state)
        undo.callback(args.fleet.unlink, missing_ok=True)
        if keeper is None:
            undo.callback(remove, state)
        bounds = {kind: asked.get(kind, Bounds.of(1)) for kind in cards}
        check_room(state, bounds)
        deploy(
            list(options.values()),
            port=args.port,
            bounds=bounds,
            pace=pace,
            batch_limits=dict(state.batch_limits),
            security=security,
        )
        wait_until_ready(bounds, state, timeout_s=args.timeout, progress=_say)
        if keeper is not None:
            keeper.keep()
        undo.pop_all()
    print_status(state, as_json=False)


def _scale(args: argparse.Namespace) -> None:
    state = read_state(args.fleet)
    asked = parse_bounds(args.replicas)
    for kind in asked:
        if kind not in state.options:
            raise ValueError(
                f"kind must be one that is up ({', '.join(state.options)}), got {kind}."
            )
    with _connected(state):
        known = fleet_status()
        bounds = {kind: known[kind].bounds for kind in state.options} | asked
        check_room(state, bounds)
        pace = _pace(args, Pace(**state.pace))
        scale(state, asked, pace)
        write_state(args.fleet, dataclasses.replace(state, pace=dataclasses.asdict(pace)))
        wait_until_ready(bounds, state, timeout_s=args.timeout, progress=_say)
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
    except ConnectionError as error:
        if not state.keeper_pid:
            raise  # The fleet may be alive on a cluster that does not answer now.
        # With its cluster the fleet is gone too; what is left is to forget it.
        _say(str(error))
    finally:
        # Also when Ray is stuck: the keeper takes it along.
        stop_keeper(state)
    args.fleet.unlink(missing_ok=True)
    _say("the fleet is down")


def _keep(args: argparse.Namespace) -> None:
    """The keeper: own a local Ray cluster until SIGTERM, or until `up` ends without saying keep."""
    try:
        signal.signal(signal.SIGTERM, _leave)
        ray.init(
            address="local",
            num_cpus=args.num_cpus,
            object_store_memory=args.object_store_bytes,
            include_dashboard=False,
            log_to_driver=False,
            _temp_dir=str(args.folder),
        )
        signal.signal(signal.SIGTERM, _leave)  # Ray has put its own in place.
        sys.stdout.write(f"{ray.get_runtime_context().gcs_address}\n")
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
        _say(f"wrote {path}")


def _leave(signum: int, frame: object) -> None:
    sys.exit(0)


def _check_teachers(folders: Mapping[str, Path]) -> dict[str, FrozenCard]:
    """The cards of the folders given, of one vocabulary."""
    if not folders:
        raise ValueError("--dialogue or --recommendation must be given, got neither.")
    kinds: tuple[Kind, ...] = ("dialogue", "recommendation")
    read: dict[str, FrozenCard] = {
        kind: read_card(folders[kind], kind) for kind in kinds if kind in folders
    }
    digests = {kind: card.vocabulary_digest for kind, card in read.items()}
    if len(set(digests.values())) > 1:
        raise ValueError(
            "the teachers must share one vocabulary, got digests "
            + " and ".join(f"{digest} ({kind})" for kind, digest in digests.items())
            + ". Fit both on the same prepared data."
        )
    return read


def _security(args: argparse.Namespace) -> SecurityFiles:
    """What protects the fleet; whatever is wrong with it is told before anything is started."""
    security = SecurityFiles(
        # Replicas start elsewhere, where a relative path would lead astray.
        tls=str(args.tls.resolve()) if args.tls else None,
        token_file=str(args.token_file.resolve()) if args.token_file else None,
        insecure=args.insecure,
    )
    check_host("--host", args.host, security, remedy=SERVER_REMEDY)
    if args.metrics:
        check_host("--metrics", args.metrics, security, remedy=SERVER_REMEDY)
    read_credentials(security, "server")
    read_credentials(security, "client")  # `up` and `status` ask the Directory and the replicas.
    return security


def _check_none_up(path: Path) -> None:
    if not path.is_file():
        return
    state = read_state(path)
    if is_alive(state):
        raise ValueError(
            f"no fleet must be up, got one at {state.directory} ({path}). "
            "Take it down with: python -m teacher_server down"
        )
    path.unlink()  # Its keeper is gone, and so is the fleet.


@contextlib.contextmanager
def _connected(state: FleetState) -> Iterator[None]:
    if not is_alive(state):
        raise ConnectionError(
            f"the keeper of the local Ray cluster must run, got no process {state.keeper_pid}. "
            "Clear up with: python -m teacher_server down"
        )
    connect(state.ray_address, state.auth_token_path)
    try:
        yield
    finally:
        ray.shutdown()


def _pace(args: argparse.Namespace, otherwise: Pace) -> Pace:
    """What autoscaling goes by: as given, or as before."""
    given = {"idle_s": args.idle_s}
    if args.target_queue_ms is not None:
        given["target_queue_s"] = args.target_queue_ms / 1e3
    return dataclasses.replace(
        otherwise, **{name: value for name, value in given.items() if value is not None}
    )


def _replica_options(args: argparse.Namespace, kind: str, folder: Path) -> ReplicaOptions:
    num_gpus = args.num_gpus
    if num_gpus is None:
        num_gpus = 1.0 if ray.cluster_resources().get("GPU", 0) else 0.0
    return ReplicaOptions(
        kind=kind,
        folder=str(folder.resolve()),
        host=args.host,
        metrics_host=args.metrics,
        spans=args.spans,
        num_threads=args.threads,
        num_cpus=args.num_cpus,
        num_gpus=num_gpus,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
