"""What a node does before Ray starts: its secrets, the shared folder, the watch for its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from ray.scripts.scripts import drain_node

from cluster.aws.metadata import Metadata
from cluster.aws.node import Node, prepare
from cluster.aws.spot import drain_arguments, seconds_left, watch
from tests.support.fake_aws import REGION, FakeAws
from tests.support.fake_metadata import NOTICE, FakeMetadata, notice
from trainer.common.errors import MachineError
from trainer.security.credentials import SecurityFiles, read_credentials


@pytest.fixture
def service() -> Iterator[FakeMetadata]:
    server = FakeMetadata()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


SHARED = Path("/elsewhere")


def metadata_of(service: FakeMetadata) -> Metadata:
    return Metadata(address=f"http://127.0.0.1:{service.server_port}")


def node(service: FakeMetadata, profile: str, home: Path) -> tuple[Node, list[list[str]]]:
    ran: list[list[str]] = []

    def run(command: Sequence[str]) -> None:
        ran.append(list(command))

    service.texts |= {
        "iam/security-credentials/": profile,
        "placement/region": REGION,
        "instance-life-cycle": "spot" if profile == "conkd-teacher" else "on-demand",
    }
    return Node(metadata=metadata_of(service), home=home, run=run, shared=SHARED), ran


def files_below(folder: Path) -> dict[str, int]:
    return {
        str(it.relative_to(folder)): it.stat().st_mode & 0o777
        for it in folder.rglob("*")
        if it.is_file()
    }


@pytest.mark.parametrize(
    ("profile", "tls", "has_key"),
    [
        ("conkd-head", {"ca.pem", "client.pem", "client.key", "token"}, True),
        ("conkd-teacher", {"token"}, True),
        ("conkd-student", {"ca.pem", "client.pem", "client.key", "token"}, False),
    ],
)
def test_node_writes_the_secrets_of_its_role_for_its_user_alone(
    ready: FakeAws,
    service: FakeMetadata,
    tmp_path: Path,
    profile: str,
    tls: set[str],
    has_key: bool,
) -> None:
    del ready
    home = tmp_path / "ubuntu"
    prepare(node(service, profile, home)[0], head=None if profile == "conkd-head" else "10.0.0.1")
    written = files_below(home)
    assert set(written.values()) == {0o600}
    assert ".ray/auth_token" in written
    assert {Path(it).name for it in written if it.startswith("conkd-tls/")} == tls
    assert (home / "conkd-tls-server" / "server.key").exists() == has_key
    token = str(home / "conkd-tls" / "token")
    if has_key:
        files = SecurityFiles(tls=str(home / "conkd-tls-server"), token_file=token)
        assert read_credentials(files, "server").identity is not None
    if "client.key" in tls:
        files = SecurityFiles(tls=str(home / "conkd-tls"), token_file=token)
        assert read_credentials(files, "client").identity is not None


def test_node_mounts_the_file_system_and_a_spot_node_is_watched(
    ready: FakeAws, service: FakeMetadata, tmp_path: Path
) -> None:
    system = ready.clients.efs.describe_file_systems()["FileSystems"][0]["FileSystemId"]
    one, ran = node(service, "conkd-teacher", tmp_path / "ubuntu")
    prepare(one, head="10.0.0.1")
    shell = [it[-1] for it in ran]
    assert shell[0] == "mkdir -p /elsewhere"
    assert shell[1].startswith("mountpoint -q /elsewhere || mount -t nfs4 -o nfsvers=4.1,")
    assert shell[1].endswith(f",noresvport {system}.efs.us-west-2.amazonaws.com:/ /elsewhere")
    watching = ran[-1]
    assert watching[:2] == ["sudo", "systemd-run"]
    assert "--uid=ubuntu" in watching
    assert watching[-2:] == ["-m", "cluster.aws.spot"]
    student, ran = node(service, "conkd-student", tmp_path / "other")
    prepare(student, head="10.0.0.1")
    assert not any("systemd-run" in it for it in ran)


def test_head_hands_out_its_own_disk_if_setup_was_told_so(
    ready: FakeAws, service: FakeMetadata, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del ready
    from cluster.aws import node as module

    fetch = module.fetch
    monkeypatch.setattr(module, "fetch", lambda *a: {**fetch(*a), "shared": "head"})
    head, ran = node(service, "conkd-head", tmp_path / "head")
    prepare(head, head=None)
    assert ran[0][-1].endswith(" install -y -qq nfs-kernel-server >/dev/null")
    assert "/etc/exports.d/conkd.exports" in ran[2][-1]
    assert "exportfs -ra" in ran[3][-1]
    student, ran = node(service, "conkd-student", tmp_path / "student")
    prepare(student, head="10.0.0.1")
    assert ran[1][-1].endswith(" 10.0.0.1:/elsewhere /elsewhere")


def test_node_without_a_profile_and_one_that_may_not_read_are_one_line(
    ready: FakeAws, service: FakeMetadata, tmp_path: Path
) -> None:
    del ready
    one, _ = node(service, "another-role", tmp_path)
    with pytest.raises(MachineError, match=r"AWS must hand out /conkd/secrets/another-role, got"):
        prepare(one, head="10.0.0.1")
    del service.texts["iam/security-credentials/"]
    with pytest.raises(MachineError, match=r"must have the metadata iam/security-credentials/"):
        prepare(one, head="10.0.0.1")
    silent = Metadata(address="http://127.0.0.1:1")
    with pytest.raises(MachineError, match=r"instance metadata at http://127.0.0.1:1 must answer"):
        silent.get("placement/region")
    assert files_below(tmp_path) == {}


def test_watch_drains_once_and_again_if_the_head_is_away(service: FakeMetadata) -> None:
    slept, drained = [], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            service.texts[NOTICE] = notice(120)

    def drain(left_s: int) -> None:
        drained.append(left_s)
        if len(drained) == 1:
            raise MachineError("the head is away")

    watch(metadata_of(service), drain=drain, sleep=sleep)
    assert len(slept) == 4
    assert len(drained) == 2
    assert all(60 < it <= 110 for it in drained)


def test_a_notice_of_the_past_leaves_no_time(service: FakeMetadata) -> None:
    assert seconds_left(metadata_of(service)) is None
    service.texts[NOTICE] = notice(-30)
    assert seconds_left(metadata_of(service)) == 0


def test_drain_is_a_command_of_ray() -> None:
    command, *arguments = drain_arguments(110)
    assert command == "drain-node"
    context = drain_node.make_context(command, list(arguments))
    assert context.params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert context.params["deadline_remaining_seconds"] == 110
    # The node on which it runs.
    assert context.params["node_id"] is None
