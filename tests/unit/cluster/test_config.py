"""cluster/*.yaml against Ray's own reading of them; nothing is started, nothing is asked for."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError

# Private, and on purpose: these two functions are all that `ray up` does before it talks to a
# cloud, and there is no public way to have a file judged. Should Ray move them, this import fails.
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.machines.provider import Machines

ROOT = Path(__file__).resolve().parents[3]
FILES = ["gpu.yaml", "local.yaml"]
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|aws_secret|password|RAY_AUTH_TOKEN\b|\btoken:\s*\S|hf_[A-Za-z]{20}",
    re.IGNORECASE,
)
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("judging a file must not need the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "cluster" / name).read_text())


def prepared(name: str) -> dict[str, Any]:
    """The config as `ray up` completes it from the provider's defaults."""
    return prepare_config(read(name))


@pytest.mark.parametrize("name", FILES)
def test_cluster_config_is_accepted_by_ray(name: str) -> None:
    config = prepared(name)
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]


def test_validate_config_refuses_an_unknown_field() -> None:
    config = {**prepared("gpu.yaml"), "max_worker": 3}
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(config)


@pytest.mark.parametrize("name", FILES)
def test_cluster_config_survives_the_json_that_ray_hands_to_the_head(name: str) -> None:
    assert json.loads(json.dumps(prepared(name))) == prepared(name)


def test_local_config_wants_every_listed_machine_as_what_it_is() -> None:
    config = Machines.bootstrap_config(
        {**prepared("local.yaml"), "auth": {}}  # which names a key that this machine need not have
    )
    types = config["available_node_types"]
    assert {name: it["min_workers"] for name, it in types.items()} == {
        "head": 0,
        "teacher": 2,
        "student": 2,
    }
    assert all(it["max_workers"] == it["min_workers"] for it in types.values())
    assert config["max_workers"] == 4
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0, "head": 1}
    assert types["teacher"]["resources"] == {"teacher": 1}
    assert types["student"]["resources"] == {"CPU": 0, "GPU": 0, "student": 1, "supervisor": 1}
    validate_config(config)


@pytest.mark.parametrize("name", FILES)
def test_config_starts_ray_once_and_keeps_its_state_on_disk(name: str) -> None:
    config = prepared(name)
    for commands in STARTS:
        assert not any("ray stop" in it for it in config[commands])
        assert "-m cluster.machines.start ray start" in config[commands][-1]
        # The control plane may be away for an hour.
        assert "RAY_gcs_rpc_server_reconnect_timeout_s=3600" in config[commands][-1]
    assert "RAY_gcs_storage=rocksdb" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("commands", STARTS)
def test_start_commands_ask_for_a_token_and_enough_files(name: str, commands: str) -> None:
    start = prepared(name)[commands][-1]
    assert "ray start" in start
    assert "RAY_AUTH_MODE=token" in start
    assert "ulimit -n 65536" in start
    assert "--dashboard-host=0.0.0.0" not in start


def test_token_is_made_on_the_head_before_ray_starts_and_goes_to_the_workers() -> None:
    config = prepared("local.yaml")
    assert any("get-auth-token --generate" in it for it in config["head_setup_commands"])
    assert not any("get-auth-token" in it for it in config["worker_setup_commands"])
    synced = ["~/.ray/auth_token", "~/conkd-tls", "~/conkd-tls-server"]
    assert config["cluster_synced_files"] == synced


def test_student_node_drops_the_servers_key_first_and_installs_as_all_do() -> None:
    config = prepared("local.yaml")
    types = config["available_node_types"]
    commands = types["student"]["worker_setup_commands"]
    dropped = "rm -rf ~/conkd-tls-server"
    assert commands == [f"touch ~/.conkd-student && {dropped}", *config["setup_commands"]]
    # Ray syncs changed certificates again, and then runs the start commands alone.
    first = config["worker_start_ray_commands"][0]
    assert first == f"if test -e ~/.conkd-student; then {dropped}; fi"
    # Ray takes a type's own commands in the place of all others.
    assert config["worker_setup_commands"] == config["setup_commands"]
    assert all(
        "worker_setup_commands" not in config["available_node_types"][it]
        for it in ("head", "teacher")
    )


def test_students_folder_gets_the_clients_files_alone() -> None:
    # At each start, so that a second `ray up` hands on certificates that were replaced.
    copied, *others = prepared("local.yaml")["head_start_ray_commands"]
    assert not any("conkd-tls" in it for it in others)
    assert copied.endswith("cp ~/conkd-tls-server/{ca.pem,client.pem,client.key} ~/conkd-tls")


@pytest.mark.parametrize("name", FILES)
def test_cluster_config_holds_and_sends_no_secret(name: str) -> None:
    text = (ROOT / "cluster" / name).read_text()
    assert SECRET.search(text) is None
    for local in read(name)["file_mounts"].values():
        parts = Path(local).parts
        assert not Path(local).is_absolute()
        assert not any(it.startswith((".", "~")) for it in parts), local


@pytest.mark.parametrize("name", FILES)
def test_setup_installs_this_repository_from_what_is_sent(name: str) -> None:
    config = prepared(name)
    mounts = config["file_mounts"]
    for remote, local in mounts.items():
        assert (ROOT / local).exists(), local
        assert remote == f"~/conkd/{local}"
    # All that `pip install -e .` reads, and that the targets named below need.
    packages = {"protos", "trainer", "teacher_server", "cluster"}
    files = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "Makefile"}
    assert set(mounts.values()) == packages | files
    if name == "gpu.yaml":
        scripts = [config["initialization_commands"][0], config["head_setup_commands"][0]]
        paths = [it.removeprefix("bash ~/conkd/") for it in scripts]
        assert paths == ["cluster/aws/prepare.sh", "cluster/aws/install.sh"]
        assert all((ROOT / it).is_file() for it in paths)
        return
    targets = re.findall(r"make (.*)$", config["head_setup_commands"][0])
    assert targets == ["environment protos"]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets[0].split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_nodes_on_aws_fetch_their_own_secret_and_pass_none_on() -> None:
    config = prepared("gpu.yaml")
    assert config["cluster_synced_files"] == []
    commands = [
        it for key, value in config.items() if key.endswith("_commands") for it in value or []
    ]
    assert not any("conkd-tls" in it or "auth-token" in it for it in commands)
    fetch = "cd ~/conkd && .venv/bin/python -m cluster.aws.node"
    assert config["head_start_ray_commands"][0] == fetch
    assert config["worker_start_ray_commands"][0] == f"{fetch} --head $RAY_HEAD_IP"


def test_gpu_config_buys_spot_for_teachers_alone() -> None:
    types = prepared("gpu.yaml")["available_node_types"]
    spot = {name for name, it in types.items() if "InstanceMarketOptions" in it["node_config"]}
    assert spot == {name for name, it in types.items() if it["resources"].get("teacher")}


def test_both_configs_install_the_same_way() -> None:
    gpu, local = read("gpu.yaml"), read("local.yaml")
    for key in ("file_mounts", "rsync_exclude"):
        assert gpu[key] == local[key]
