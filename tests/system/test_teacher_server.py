from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
import torch

from cluster.launch.ports import free_port
from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from protos.teacher_pb2 import Compression
from teacher_server.fleet.autoscaling import ReplicaRange
from teacher_server.fleet.directory_server import DirectoryServer, DirectoryService, fetch_fleet
from teacher_server.fleet.leases import Lease, Leases
from teacher_server.fleet.local_cluster import (
    FleetState,
    check_port_free,
    check_reachable,
    is_alive,
    read_state,
    write_state,
)
from teacher_server.fleet.options import parse, parse_ranges
from teacher_server.main import main
from teacher_server.scoring.kinds import load_teacher
from tests.support import tiny_teachers
from tests.support.fleet_commands import COMMAND_S, command, environment, replicas, run
from tests.support.scrapes import fetch_secured
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.data.model_input import ExampleInput
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import SecurityFiles
from trainer.teacher_client.client import TeacherClient


def lease(replica_id: str, kind: str = "dialogue", port: int = 1) -> Lease:
    return Lease(kind=kind, address=f"127.0.0.1:{port}", replica_id=replica_id, pid=1)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--port", "99999", r"--port must be in \[1, 65535\], got 99999"),
        ("--port", "0", "--port must be in"),
        ("--threads", "0", "--threads must be in"),
        ("--token-budget", "-1", "--token-budget must be in"),
        ("--num-cpus", "-1", "--num-cpus must be in"),
    ],
)
def test_up_option_out_of_range_names_itself(option: str, value: str, rule: str) -> None:
    commands = ("up", "scale", "status", "down", "keep", "certificates")
    with pytest.raises(ValueError, match=rule):
        parse(["up", option, value], {command: lambda _options: None for command in commands})


def test_leases_are_kept_by_renewing_and_lost_by_time_or_release() -> None:
    now = [0.0]
    leases = Leases(5.0, clock=lambda: now[0])
    assert leases.renew(lease("b"))
    assert leases.renew(lease("a"))
    assert not leases.renew(lease("a"))
    assert [held.replica_id for held in leases.fleet()] == ["a", "b"]
    now[0] = 4.0
    assert not leases.renew(lease("b"))
    now[0] = 5.0
    assert leases.expire()
    assert [held.replica_id for held in leases.fleet()] == ["b"]
    assert leases.release("b")
    assert not leases.release("b")
    assert not leases.expire()


def test_leases_of_a_replica_with_a_new_address_change_the_fleet() -> None:
    leases = Leases(5.0, clock=lambda: 0.0)
    leases.renew(lease("a", port=1))
    assert leases.renew(lease("a", port=2))


def test_watch_sends_the_fleet_at_once_and_after_each_change() -> None:
    async def scenario() -> list[list[str]]:
        server = DirectoryServer(settle_s=0.0)
        port = await server.start("127.0.0.1", 0)
        await server.service.renew(lease("a"))
        seen: list[list[str]] = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            watch = teacher_pb2_grpc.DirectoryStub(channel).Watch(teacher_pb2.WatchRequest())
            seen.append(replica_ids(await watch.read()))
            await server.service.renew(lease("a"))  # Changes nothing, sends nothing.
            await server.service.renew(lease("b"))
            seen.append(replica_ids(await watch.read()))
            await server.service.release("a")
            seen.append(replica_ids(await watch.read()))
            watch.cancel()
        assert server.healthy
        await server.stop(0.1)
        assert not server.healthy
        return seen

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == [["a"], ["a", "b"], ["b"]]


def test_watch_of_a_directory_that_just_started_waits_for_the_replicas_to_renew() -> None:
    async def scenario() -> list[str]:
        service = DirectoryService(Leases(5.0), settle_s=0.1)
        watch = service.Watch(teacher_pb2.WatchRequest(), None)  # type: ignore[arg-type]
        first = asyncio.ensure_future(anext(watch))
        keep = asyncio.create_task(service.keep())
        await service.renew(lease("a"))
        fleet = await first
        keep.cancel()
        return replica_ids(fleet)

    assert asyncio.run(asyncio.wait_for(scenario(), 20)) == ["a"]


def replica_ids(fleet: object) -> list[str]:
    assert isinstance(fleet, teacher_pb2.Fleet)
    return [endpoint.replica_id for endpoint in fleet.endpoints]


def test_fetch_fleet_without_a_directory_is_refused() -> None:
    with pytest.raises(OSError, match=r"a Directory must answer at 127\.0\.0\.1:1"):
        fetch_fleet("127.0.0.1:1", 0.5)


def test_parse_ranges_reads_numbers_and_ranges() -> None:
    assert parse_ranges("dialogue=2,recommendation=0..4") == {
        "dialogue": ReplicaRange.of(2),
        "recommendation": ReplicaRange(min=0, max=4),
    }
    assert parse_ranges("") == {}
    wrong = ("dialogue=-1", "dialogue=x", "dialogue", "chess=1", "dialogue=1..x", "dialogue=..2")
    for text in wrong:
        with pytest.raises(ValueError, match=r"KIND=COUNT or KIND=MIN\.\.MAX"):
            parse_ranges(text)
    with pytest.raises(ValueError, match=r"0 <= MIN <= MAX, got 3\.\.1"):
        parse_ranges("dialogue=3..1")


def test_check_port_free_names_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port} must be free"):
            check_port_free("127.0.0.1", port)
    check_port_free("127.0.0.1", port)


def test_check_reachable_names_the_cluster_that_is_not() -> None:
    check_reachable("auto")
    with pytest.raises(ConnectionError, match=r"must be reachable at 127\.0\.0\.1:1"):
        check_reachable("127.0.0.1:1")


def test_state_of_a_keeper_whose_pid_passed_to_another_is_not_alive(tmp_path: Path) -> None:
    started = psutil.Process().create_time()
    ours = FleetState(
        ray_address="a", directory="b", keeper_pid=os.getpid(), keeper_started=started
    )
    write_state(tmp_path / "fleet.json", ours)
    assert read_state(tmp_path / "fleet.json") == ours
    assert is_alive(ours)
    other = FleetState(
        ray_address="a", directory="b", keeper_pid=os.getpid(), keeper_started=started - 60
    )
    assert not is_alive(other)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fleet")
    vocabulary = tiny_teachers.tiny_vocabulary()
    tiny_teachers.write_dialogue_teacher(root / "dialogue", vocabulary)
    tiny_teachers.write_recommendation_teacher(root / "recommendation", vocabulary)
    tiny_teachers.write_recommendation_teacher(
        root / "other", tiny_teachers.tiny_vocabulary(num_films=20)
    )
    return {name: root / name for name in ("dialogue", "recommendation", "other")}


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> SecurityFiles:
    """Made as docs/operations.md says."""
    folder = tmp_path_factory.mktemp("security") / "tls"
    run("certificates", "--output", folder)
    (folder / "token").touch(0o600)
    (folder / "token").write_text("0123456789abcdef" * 4)
    return SecurityFiles(tls=str(folder), token_file=str(folder / "token"))


@pytest.fixture
def fleet_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "fleet.json"
    yield path
    if path.is_file():
        subprocess.run(command("down", "--fleet", path), env=environment(), timeout=COMMAND_S)


def test_up_with_teachers_of_two_vocabularies_is_refused(
    folders: dict[str, Path], fleet_file: Path
) -> None:
    pair = ["--dialogue", folders["dialogue"], "--recommendation", folders["other"]]
    assert "must share one vocabulary" in run("up", *pair, "--fleet", fleet_file, fails=True)
    missing = run("up", "--dialogue", fleet_file.parent, "--fleet", fleet_file, fails=True)
    assert "must be a frozen dialogue model" in missing
    beyond = ["--dialogue", folders["dialogue"], "--host", "0.0.0.0"]
    assert "Give --tls and --token-file" in run("up", *beyond, "--fleet", fleet_file, fails=True)
    assert "a fleet must be up" in run("status", "--fleet", fleet_file, fails=True)


def test_up_with_security_of_no_use_is_refused_before_anything_starts(
    folders: dict[str, Path], tmp_path: Path, security: SecurityFiles
) -> None:
    tls, token = str(security.tls), str(security.token_file)
    open_token = tmp_path / "token"
    open_token.write_text("0123456789abcdef" * 4)
    open_token.chmod(0o644)
    beyond = ["--host", "0.0.0.0"]
    cases = {
        "--host must be a loopback .* got 0": [*beyond, "--tls", tls],
        "--host must be a loopback .* without": [*beyond, "--token-file", token],
        "ca.pem must be a file that we may read": ["--tls", str(tmp_path)],
        "token must be readable by its owner alone": ["--token-file", str(open_token)],
    }
    fleet = tmp_path / "fleet.json"
    for message, options in cases.items():
        with pytest.raises(ValueError, match=message):
            main(["up", "--dialogue", str(folders["dialogue"]), "--fleet", str(fleet), *options])
    assert not fleet.exists()


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_secure_fleet_scores_scales_survives_a_kill_and_leaves_nothing(
    folders: dict[str, Path], fleet_file: Path, security: SecurityFiles
) -> None:
    at = ["--fleet", fleet_file]
    pair = ["--dialogue", folders["dialogue"], "--recommendation", folders["recommendation"]]
    tls, token = str(security.tls), str(security.token_file)
    secure = ["--tls", tls, "--token-file", token]
    run("up", *pair, "--port", str(free_port()), *secure, "--metrics", *at)
    state = read_state(fleet_file)
    assert state.security == security
    secrets = [Path(token).read_text(), (Path(tls) / "server.key").read_text()]
    assert not any(secret in fleet_file.read_text() for secret in secrets)
    with pytest.raises(OSError, match="got UNAVAILABLE"):
        fetch_fleet(state.directory, 5)
    keeper = psutil.Process(state.keeper_pid)
    assert "no fleet must be up" in run("up", *pair, *at, fails=True)

    first = {endpoint.kind: endpoint for endpoint in fetch_fleet(state.directory, 5, security)}
    assert sorted(first) == ["dialogue", "recommendation"]
    for kind, endpoint in first.items():
        check_scores(kind, folders[kind], endpoint.address, security)
    check_serves_a_student(state.directory, security)
    check_tells_what_it_did(fleet_file, security)

    run("scale", "dialogue=2", *at)
    scaled = replicas(fetch_fleet(state.directory, 5, security), "dialogue")
    assert len(scaled) == 2 and first["dialogue"].replica_id in scaled

    victim = next(
        replica
        for replica in json.loads(run("status", "--json", *at))["kinds"]["dialogue"]["replicas"]
        if replica["replica_id"] == first["dialogue"].replica_id
    )
    os.kill(victim["pid"], signal.SIGKILL)
    back = watch_until(
        state.directory,
        security,
        lambda fleet: (
            len(fleet - {victim["replica_id"]}) == 2 and victim["replica_id"] not in fleet
        ),
    )
    for endpoint in back:
        if endpoint.kind == "dialogue":
            check_scores("dialogue", folders["dialogue"], endpoint.address, security)

    family = [keeper, *keeper.children(recursive=True)]
    run("down", *at)
    assert not any(process.is_running() for process in family)
    assert not fleet_file.exists()
    assert not Path(state.auth_token_path).parent.exists()


def watch_until(
    directory: str, security: SecurityFiles, done: Callable[[set[str]], bool]
) -> list[teacher_pb2.Endpoint]:
    """The first fleet whose dialogue replicas are as wanted."""
    channels = ChannelFactory(security)
    with channels.blocking(directory) as channel:
        stub = teacher_pb2_grpc.DirectoryStub(channel)
        request = teacher_pb2.WatchRequest()
        for fleet in stub.Watch(request, timeout=60, metadata=channels.metadata):
            if done(replicas(list(fleet.endpoints), "dialogue")):
                return list(fleet.endpoints)
    raise AssertionError("the Directory ended the watch")


def given(length: int, num_targets: int) -> ExampleInput:
    """As many tokens as entities, and one word less."""
    ids = np.arange(3, 3 + length, dtype=np.int32)
    return ExampleInput(num_targets=num_targets, tokens=ids, entities=ids, words=ids[1:])


def check_serves_a_student(directory: str, security: SecurityFiles) -> None:
    """A student that is given the two files gets the rows that it asks for."""
    client = TeacherClient(
        TeachersConfig(directory=directory, tls=security.tls, token_file=security.token_file),
        DistillConfig(),
        vocabulary=tiny_teachers.tiny_vocabulary(),
        graph_digest="tiny-graph",
    )
    ids = np.array([3, 4], np.int32)
    example = Example(
        example_id="0",
        context_ids=ids,
        response_ids=ids,
        context_entities=ids,
        context_words=ids,
        gold_items=ids[:0],
    )
    try:
        received = client.submit([example]).result()
    finally:
        client.close()
    assert [received[kind].num_rows for kind in ("dialogue", "recommendation")] == [2, 1]


def check_tells_what_it_did(fleet_file: Path, security: SecurityFiles) -> None:
    """In a table that refreshes, as JSON, and to a Prometheus that is told where to look."""
    at = ["--fleet", str(fleet_file)]
    tls, token = Path(str(security.tls)), Path(str(security.token_file)).read_text()
    shown = shown_stats(at)
    assert {kind: stats["blocks"] for kind, stats in shown.items()} == dict.fromkeys(shown, 2)
    assert shown["dialogue"]["positions"] == 5
    for target in json.loads(run("status", "--prometheus", *at)):
        kind, stats = next(
            (kind, it)
            for kind, it in shown.items()
            if it["replica_id"] == target["labels"]["replica"]
        )
        assert target["targets"] == [stats["metrics_address"]]
        scraped = fetch_secured(
            stats["metrics_address"], ca=tls / "ca.pem", client=tls, token=token
        )
        assert f'conkd_teacher_requests_total{{kind="{kind}",outcome="block"}} 2.0' in scraped
    watching = subprocess.Popen(
        command("status", "--watch", "0.2", *at),
        env={**environment(), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    for line in watching.stdout:
        if line.startswith("Rates") and "between the last two looks" in line:
            break
    watching.send_signal(signal.SIGINT)
    watching.stdout.read()
    assert watching.wait(COMMAND_S) == 130


def shown_stats(at: list[str]) -> dict[str, dict[str, Any]]:
    """What the one replica of each kind told; one that is late is not waited for by `status`."""
    while True:
        kinds = json.loads(run("status", "--json", *at))["kinds"]
        shown = {kind: status["replicas"][0]["stats"] for kind, status in kinds.items()}
        if all(shown.values()):
            assert [len(status["replicas"]) for status in kinds.values()] == [1, 1]
            return shown


def check_scores(kind: str, folder: Path, address: str, security: SecurityFiles) -> None:
    """One request over gRPC gives the rows of a teacher in this process, in float32."""
    teacher = load_teacher(kind, folder, torch.device("cpu"))
    inputs = [
        given(5, num_targets=2 if kind == "dialogue" else 1),
        given(2, num_targets=1),
    ]
    columns: dict[str, bytes] = {}
    names = ("entity", "word") if kind == "recommendation" else ("token",)
    for name in names:
        rows = [
            {"token": each.tokens, "entity": each.entities, "word": each.words}[name]
            for each in inputs
        ]
        columns[f"{name}_ids"] = np.concatenate(rows).tobytes()
        columns[f"{name}_lengths"] = np.array([len(row) for row in rows], np.int32).tobytes()
    request = teacher_pb2.ScoreRequest(
        request_id=1,
        target_lengths=np.array([each.num_targets for each in inputs], np.int32).tobytes(),
        compression=teacher_pb2.Compression(top_k=8, values=teacher_pb2.FLOAT32),
        **columns,
    )
    channels = ChannelFactory(security)
    metadata = (*channels.metadata, *handshake_metadata(teacher.description))
    with channels.blocking(address) as channel:
        stub = teacher_pb2_grpc.TeacherStub(channel)
        reply = next(stub.Score(iter([request]), metadata=metadata, timeout=30))
    expected = teacher.score(inputs, Compression(top_k=8))
    rows = codec.decode(
        reply.block, num_rows=expected.num_rows, vocab_size=teacher.description.vocab_size
    )
    np.testing.assert_array_equal(rows.ids_E, expected.ids_E)
    np.testing.assert_allclose(rows.log_probs_E, expected.log_probs_E, atol=1e-5)
    np.testing.assert_allclose(rows.tail_R, expected.tail_R, atol=1e-6)
