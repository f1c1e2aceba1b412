"""A fleet on Ray with certificates and a token: it scores, scales, survives a kill, and ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from cluster.launch.ports import free_port
from protos import codec, teacher_pb2, teacher_pb2_grpc
from protos.handshake import handshake_metadata
from protos.teacher_pb2 import Compression
from teacher_server.fleet.directory_server import fetch_fleet
from teacher_server.fleet.local_cluster import (
    read_state,
)
from teacher_server.scoring.kinds import load_teacher
from tests.support import tiny_teachers
from tests.support.fleet_commands import COMMAND_S, command, environment, replicas, run
from tests.support.scrapes import fetch_secured
from trainer.config.distill import DistillConfig
from trainer.config.teachers import TeachersConfig
from trainer.data.examples import Example
from trainer.data.model_input import ONE_ROW, InputLimits, SequenceInput
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import SecurityFiles
from trainer.teacher_client.answers import fields_of
from trainer.teacher_client.client import TeacherClient


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fleet")
    return tiny_teachers.write_teachers(root, tiny_teachers.tiny_vocabulary())


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


@pytest.mark.everything
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


def given(length: int, num_rows: int) -> SequenceInput:
    """As many tokens as entities, and one word less."""
    ids = np.arange(3, 3 + length, dtype=np.int32)
    return SequenceInput.at_end(num_rows=num_rows, tokens=ids, entities=ids, words=ids[1:])


def check_serves_a_student(directory: str, security: SecurityFiles) -> None:
    """A student that is given the two files gets the rows that it asks for."""
    client = TeacherClient(
        TeachersConfig(directory=directory, tls=security.tls, token_file=security.token_file),
        DistillConfig(gate="soft"),
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
    limits = InputLimits.of(teacher.description)
    inputs = [given(5, num_rows=2), given(2, num_rows=1)]
    if not limits.max_tokens:
        inputs = [dataclasses.replace(it, ranges=ONE_ROW) for it in inputs]
    request = teacher_pb2.ScoreRequest(
        request_id=1,
        compression=teacher_pb2.Compression(top_k=8, values=teacher_pb2.FLOAT32),
        **fields_of(inputs, limits),
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
