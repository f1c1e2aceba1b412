"""Mistakes in the options of `python -m teacher_server`: one error, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from teacher_server.fleet import certificates, ray_cluster, up
from teacher_server.fleet.local_cluster import FleetState, write_state
from teacher_server.fleet.options import parse, parse_ranges
from teacher_server.fleet.scaling import ReplicaRange
from teacher_server.main import main
from tests.support import tiny_teachers
from trainer.common.errors import InputError, UnreachableError
from trainer.security.credentials import SecurityFiles


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("--port", "99999", r"--port must be a whole number in \[1, 65535\], got 99999"),
        ("--port", "0", "--port must be a whole number in"),
        ("--threads", "0", "--threads must be a whole number in"),
        ("--token-budget", "-1", "--token-budget must be a whole number in"),
        ("--num-cpus", "-1", "--num-cpus must be a number in"),
        ("--replica-ports", "50100", "--replica-ports must be FIRST-LAST .*, got 50100"),
        ("--replica-ports", "9-8", "the lower one first, got 9-8"),
        ("--replica-ports", "1-65536", "ports of 1 to 65535"),
    ],
)
def test_up_option_out_of_range_names_itself(option: str, value: str, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse(["up", option, value])


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
    with pytest.raises(ValueError, match=r"MIN <= MAX, got 'dialogue=3\.\.1'"):
        parse_ranges("dialogue=3..1")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fleet")
    folders = tiny_teachers.write_teachers(root, tiny_teachers.tiny_vocabulary())
    tiny_teachers.write_recommendation_teacher(
        root / "other", tiny_teachers.tiny_vocabulary(num_films=20)
    )
    return folders | {"other": root / "other"}


@pytest.fixture(scope="module")
def security(tmp_path_factory: pytest.TempPathFactory) -> SecurityFiles:
    folder = tmp_path_factory.mktemp("security") / "tls"
    certificates.make_certificates(folder, days=1)
    (folder / "token").touch(0o600)
    (folder / "token").write_text("0123456789abcdef" * 4)
    return SecurityFiles(tls=str(folder), token_file=str(folder / "token"))


def test_up_with_teachers_of_two_vocabularies_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    dialogue, other, fleet = str(folders["dialogue"]), str(folders["other"]), tmp_path / "fleet"
    cases = {
        "must share one vocabulary": ["up", "--dialogue", dialogue, "--recommendation", other],
        "must be a frozen dialogue model": ["up", "--dialogue", str(tmp_path)],
        "Give --tls and --token-file": ["up", "--dialogue", dialogue, "--host", "0.0.0.0"],
        "a fleet must be up": ["status"],
    }
    for message, arguments in cases.items():
        with pytest.raises((ValueError, OSError), match=message):
            main([*arguments, "--fleet", str(fleet)])
    assert not fleet.exists()


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


HERE, THERE = "10.77.1.1:6379", "10.77.9.1:6379"


@pytest.mark.parametrize(
    ("record", "is_running", "is_up"),
    [
        # The same cluster, whose Serve runs, or was shut down.
        ({"cluster_id": "now"}, True, True),
        ({"cluster_id": "now"}, False, False),
        # The head was started anew, and may run another fleet, which another check finds.
        ({"cluster_id": "before"}, True, False),
        ({"cluster_id": "before", "ray_address": "auto"}, False, False),
        # Another cluster, which answers or does not.
        ({"cluster_id": "other", "ray_address": THERE}, False, True),
        ({"cluster_id": "other", "ray_address": "10.77.8.1:6379"}, False, False),
    ],
)
def test_record_of_a_fleet_that_ended_with_its_cluster_is_no_obstacle(
    record: dict[str, str],
    is_running: bool,
    is_up: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def check_reachable(address: str) -> None:
        if address != THERE:
            raise UnreachableError(f"nothing answers at {address}.")

    monkeypatch.setattr(up, "cluster_address", lambda: HERE)
    monkeypatch.setattr(ray_cluster, "cluster_id", lambda: "now")
    monkeypatch.setattr(up, "serve_is_running", lambda: is_running)
    monkeypatch.setattr(up, "check_reachable", check_reachable)
    state = FleetState(
        ray_address=record.get("ray_address", HERE),
        directory="10.77.1.1:50051",
        cluster_id=record["cluster_id"],
    )
    if is_up:
        with pytest.raises(InputError, match=r"no fleet must be up, got one at 10\.77\.1\.1:50051"):
            up._check_gone(state, Path("fleet.json"))
    else:
        up._check_gone(state, Path("fleet.json"))
        assert "fleet.json names a fleet that has ended" in capsys.readouterr().err


def test_record_on_another_cluster_is_not_lost_for_a_new_local_one(tmp_path: Path) -> None:
    path = tmp_path / "fleet.json"
    state = FleetState(ray_address=HERE, directory="10.77.1.1:50051", cluster_id="now")
    write_state(path, state)
    with pytest.raises(InputError, match="no fleet must be up"):
        up._record_before(path, is_new_cluster=True)
    assert up._record_before(path, is_new_cluster=False) == state
