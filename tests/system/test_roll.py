"""A fleet on Ray whose replicas are replaced one by one under students.

The new ones have new certificates and run the next version of the software.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from cluster.launch.ports import free_port
from protos import teacher_pb2, teacher_pb2_grpc
from protos.fingerprint import digest_file
from protos.handshake import handshake_metadata
from teacher_server.fleet.directory_server import fetch_fleet
from tests.support.fleet_commands import command, environment, run
from tests.support.releases import TEACHERS, install_next_release, install_this_release
from tests.support.served_teachers import FittedTeachers
from tests.support.student_runs import (
    EXACT,
    loss_curve,
    run_student,
    started,
    step_lines,
    student_command,
)
from trainer.data.model_input import RANGES
from trainer.models.frozen import WEIGHTS_NAME
from trainer.security.channels import ChannelFactory
from trainer.security.credentials import SERVER_NAME, SecurityFiles

STUDENTS = 4
# They train without a pause: new replicas, and tests beside this one, come before them.
LAST = ("nice", "-n", "15")
# Steps of a student after the roll. None ends by itself before: a roll takes as long as it takes.
STEPS_AFTER = 10
ENDLESS = 100_000
# At a constant rate a loss does not depend on the number of steps.
RUN = (*EXACT, "train.batch_size=4", "optimiser.schedule=constant", "seed=7")
ROLL_S = 900.0
REPLICA_S = 120.0


@dataclass(frozen=True)
class Fleet:
    """Two dialogue replicas and one of recommendation, with TLS and a token."""

    file: Path
    directory: str
    dialogue: Path
    security: SecurityFiles
    new_certificates: Path
    software: Path
    """A folder with an installed release, which the fleet runs."""

    @property
    def at(self) -> list[str]:
        return ["--fleet", str(self.file)]

    @property
    def settings(self) -> tuple[str, ...]:
        return (
            f"teachers.directory={self.directory}",
            f"teachers.tls={self.security.tls}",
            f"teachers.token_file={self.security.token_file}",
        )

    def ids(self) -> list[str]:
        return [it.replica_id for it in fetch_fleet(self.directory, 10, self.security)]

    def status(self) -> dict[str, Any]:
        return json.loads(run("status", "--json", *self.at, software=self.software))

    def dialogue_status(self) -> dict[str, Any]:
        return self.status()["kinds"]["dialogue"]

    def listed(self) -> dict[str, tuple[str, bool]]:
        """Replica id of each dialogue replica -> its weights, and whether it retires."""
        endpoints = fetch_fleet(self.directory, 10, self.security)
        return {
            it.replica_id: (it.weights_digest, it.retiring)
            for it in endpoints
            if it.kind == "dialogue"
        }

    @contextlib.contextmanager
    def stream_to(self, replica_id: str) -> Iterator[None]:
        """A stream to a replica, as a student that learns from it has one."""
        channels, ended = ChannelFactory(self.security), threading.Event()

        def nothing() -> Iterator[teacher_pb2.ScoreRequest]:
            ended.wait()
            yield from ()

        endpoints = fetch_fleet(self.directory, 10, self.security)
        (address,) = [it.address for it in endpoints if it.replica_id == replica_id]
        with channels.blocking(address) as channel:
            stub, metadata = teacher_pb2_grpc.TeacherStub(channel), channels.metadata
            described = stub.Describe(teacher_pb2.DescribeRequest(), timeout=10, metadata=metadata)
            call = stub.Score(nothing(), metadata=(*metadata, *handshake_metadata(described)))
            try:
                yield
                assert call.is_active()
            finally:
                ended.set()
                call.cancel()

    def roll(self, *options: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command("roll", "--json", *options, *self.at),
            cwd=self.software,
            env=environment(self.software),
            capture_output=True,
            text=True,
            timeout=ROLL_S,
        )

    def capabilities(self) -> set[str]:
        """Of all dialogue replicas."""
        channels, found = ChannelFactory(self.security), set()
        for endpoint in fetch_fleet(self.directory, 10, self.security):
            if endpoint.kind == "dialogue":
                with channels.blocking(endpoint.address) as channel:
                    described = teacher_pb2_grpc.TeacherStub(channel).Describe(
                        teacher_pb2.DescribeRequest(), timeout=10, metadata=channels.metadata
                    )
                found.add(",".join(described.capabilities))
        return found


@pytest.fixture(scope="module")
def fleet(teachers: FittedTeachers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    root = tmp_path_factory.mktemp("roll")
    for kind, folder in (("d", teachers.dialogue), ("r", teachers.recommendation)):
        shutil.copytree(folder, root / kind)
    software = root / "software"
    install_this_release(software, root / "built")
    security = certificates(root)
    file, port = root / "fleet.json", free_port()
    kinds = ("--dialogue", root / "d", "--recommendation", root / "r", "--replicas", "dialogue=2")
    files = ("--tls", str(security.tls), "--token-file", str(security.token_file))
    # Deterministic: then the losses do not depend on who shares a round with whom.
    options = ("--port", str(port), "--deterministic", "--fleet", file)
    run("up", *kinds, *files, *options, software=software)
    try:
        yield Fleet(file, f"127.0.0.1:{port}", root / "d", security, root / "new", software)
    finally:
        run("down", "--fleet", file, software=software)


def certificates(root: Path) -> SecurityFiles:
    """A set of one CA that trusts another CA too, and a set of that other one."""
    for name in ("tls", "new"):
        run("certificates", "--output", root / name)
    both = [(root / name / "ca.pem").read_text() for name in ("tls", "new")]
    (root / "tls" / "ca.pem").write_text("".join(both))
    token = root / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef" * 4)
    return SecurityFiles(tls=str(root / "tls"), token_file=str(token))


def served_certificate(address: str, tls: Path) -> str:
    """The certificate that a server of the fleet shows, in PEM."""
    context = ssl.create_default_context(cafile=str(tls / "ca.pem"))
    context.load_cert_chain(tls / "client.pem", tls / "client.key")
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as secured,
    ):
        shown = secured.getpeercert(binary_form=True)
    assert shown is not None
    return ssl.DER_cert_to_PEM_cert(shown)


def wait_until(is_so: Callable[[], bool], timeout_s: float, what: str) -> None:
    until_s = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < until_s, f"{what} must be so within {timeout_s} s"
        time.sleep(0.5)


def steps_of(output: Path) -> list[int]:
    is_there = (output / "metrics.jsonl").is_file()
    return [entry["step"] for entry in step_lines(output)] if is_there else []


@pytest.mark.everything
@pytest.mark.timeout(2400)
def test_roll_to_the_next_version_with_new_certificates_ends_no_run_and_changes_no_loss(
    fleet: Fleet, prepared_dir: Path, tmp_path: Path
) -> None:
    tls = Path(str(fleet.security.tls))
    before = fleet.ids()
    assert fleet.capabilities() == {RANGES}
    outputs = [tmp_path / f"student{number}" for number in range(STUDENTS)]
    with contextlib.ExitStack() as students:
        runs = []
        for output in outputs:
            endless = (*RUN, f"train.steps={ENDLESS}", *fleet.settings)
            argv = [*LAST, *student_command(prepared_dir, output, *endless, ranks=1)]
            runs.append(students.enter_context(started(argv, output.with_suffix(".log"))))
        for output in outputs:
            wait_until(lambda at=output: bool(steps_of(at)), 240, f"a first step in {output}")
        for name in ("server.pem", "server.key", "client.pem", "client.key"):
            shutil.copy(fleet.new_certificates / name, tls / name)
        install_next_release(fleet.software, tmp_path / "built")
        at_step = [len(steps_of(output)) for output in outputs]
        rolled = fleet.roll()
        assert rolled.returncode == 0, rolled.stderr
        to_step = [len(steps_of(output)) for output in outputs]
        print(f"rolled from steps {at_step} to {to_step}")
        for output, step in zip(outputs, to_step, strict=True):
            wait_until(
                lambda at=output, end=step + STEPS_AFTER: len(steps_of(at)) >= end,
                240,
                f"{STEPS_AFTER} steps after the roll in {output}",
            )
        assert [each.poll() for each in runs] == [None] * STUDENTS
    replaced = json.loads(rolled.stdout)
    counts = {kind: len(pairs) for kind, pairs in replaced.items()}
    assert counts == {"dialogue": 2, "recommendation": 1, "directory": 1}
    places = [pair for kind, pairs in replaced.items() if kind != "directory" for pair in pairs]
    assert {pair["old"] for pair in places} == set(before)
    assert {pair["new"] for pair in places} == set(fleet.ids())
    assert fleet.capabilities() == {f"{RANGES},next"}
    endpoints = fetch_fleet(fleet.directory, 10, fleet.security)
    for address in (fleet.directory, *(it.address for it in endpoints)):
        assert served_certificate(address, tls) == (tls / "server.pem").read_text()

    reference, num_steps = tmp_path / "unrolled", max(to_step) + STEPS_AFTER
    plain = (*RUN, f"train.steps={num_steps}", *fleet.settings)
    result = run_student(prepared_dir, reference, *plain, ranks=1, timeout_s=600)
    assert result.returncode == 0, result.stderr
    expected = loss_curve(reference)
    for output, step in zip(outputs, to_step, strict=True):
        steps, losses = steps_of(output), loss_curve(output)
        assert steps == list(range(1, len(steps) + 1)) and len(steps) > step
        both = min(len(losses), num_steps)
        assert losses[:both] == pytest.approx(expected[:both], rel=1e-5)


@pytest.mark.everything
@pytest.mark.timeout(600)
def test_roll_whose_replicas_do_not_start_leaves_the_fleet_as_it_was(fleet: Fleet) -> None:
    before, content = fleet.ids(), fleet.file.read_text()
    teachers = fleet.software / TEACHERS
    release = teachers.read_text()
    teachers.write_text(f'{release}\nraise RuntimeError("a broken release")\n')
    rolled = fleet.roll()
    teachers.write_text(release)
    assert rolled.returncode == 2
    (error,) = [line for line in rolled.stderr.splitlines() if line.startswith("error: ")]
    assert "a new dialogue replica must start, got: RuntimeError: a broken release" in error
    assert "The dialogue replicas are those of before" in error
    assert fleet.file.read_text() == content
    assert fleet.ids() == before
    assert fleet.dialogue_status()["problem"] == ""


@pytest.mark.everything
@pytest.mark.timeout(600)
def test_folder_that_was_exported_anew_is_refused_by_roll_and_by_new_replicas(
    fleet: Fleet,
) -> None:
    card = fleet.dialogue / "teacher.json"
    content = card.read_text()
    card.write_text(json.dumps(json.loads(content) | {"temperature": 2.0}))
    got = "temperature 2.0 instead of 1.0"
    assert got in run("roll", *fleet.at, fails=True, software=fleet.software)
    victim = fleet.dialogue_status()["replicas"][0]
    os.kill(victim["pid"], signal.SIGKILL)
    wait_until(lambda: got in fleet.dialogue_status()["problem"], REPLICA_S, "the refusal")
    assert victim["replica_id"] not in fleet.ids()
    assert len(fleet.ids()) == 2
    card.write_text(content)
    wait_until(lambda: len(fleet.ids()) == 3, REPLICA_S, "three replicas")
    wait_until(lambda: not fleet.dialogue_status()["problem"], REPLICA_S, "no problem")


def another_teacher(folder: Path, to: Path) -> str:
    """A copy of a frozen teacher whose weights are a little larger; their digest."""
    shutil.copytree(folder, to)
    weights = {name: tensor * 1.01 for name, tensor in load_file(folder / WEIGHTS_NAME).items()}
    save_file(weights, to / WEIGHTS_NAME, {"format": "pt"})
    digest = digest_file(to / WEIGHTS_NAME)
    card = json.loads((to / "teacher.json").read_text())
    (to / "teacher.json").write_text(json.dumps(card | {"weights_digest": digest}))
    return digest


@pytest.mark.everything
@pytest.mark.timeout(600)
def test_other_teacher_serves_beside_the_old_one_until_nobody_uses_that(
    fleet: Fleet, tmp_path: Path
) -> None:
    before = fleet.listed()
    ((old, retiring),) = set(before.values())
    assert not retiring
    new = another_teacher(fleet.dialogue, tmp_path / "next")
    with fleet.stream_to(min(before)):
        rolled = fleet.roll("--dialogue", tmp_path / "next", "--drain-s", "1")
        assert rolled.returncode == 0, rolled.stderr
        listed = fleet.listed()
        assert {it: listed[it] for it in before} == dict.fromkeys(before, (old, True))
        came = {it: listed[it] for it in listed.keys() - before.keys()}
        assert [*came.values()] == [(new, False)] * 2
        shown = fleet.status()
        assert {it["replica_id"] for it in shown["retiring"]["dialogue"]["replicas"]} == {*before}
        assert {it["replica_id"] for it in shown["kinds"]["dialogue"]["replicas"]} == {*came}
    # The one whose stream ended last keeps the other one.
    wait_until(lambda: fleet.listed() == came, REPLICA_S, "the end of the old ones")
    wait_until(lambda: fleet.status()["retiring"] == {}, REPLICA_S, "none that retires")
