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


def test_gpu_config_separates_head_teachers_and_students() -> None:
    types = prepared("gpu.yaml")["available_node_types"]
    assert set(types) == {"head", "teacher", "student"}
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["head"]["max_workers"] == 0
    assert types["teacher"]["resources"] == {"teacher": 1}
    # Ray must place nothing on a student node: what it does not see it cannot give away.
    assert types["student"]["resources"] == {"CPU": 0, "GPU": 0, "student": 1}


def test_gpu_config_buys_spot_for_teachers_alone() -> None:
    types = prepared("gpu.yaml")["available_node_types"]
    spot = {name for name, it in types.items() if "InstanceMarketOptions" in it["node_config"]}
    assert spot == {"teacher"}
    assert types["teacher"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


def test_gpu_config_keeps_students_and_gives_idle_teachers_back() -> None:
    config = prepared("gpu.yaml")
    types = config["available_node_types"]
    # A student runs no Ray work, so above min_workers it would count as idle and be ended.
    assert types["student"]["min_workers"] == types["student"]["max_workers"] > 0
    assert types["teacher"]["min_workers"] < types["teacher"]["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    assert config["max_workers"] == sum(it["max_workers"] for it in types.values())


def test_gpu_config_names_one_image_of_its_own_for_all_nodes() -> None:
    types = prepared("gpu.yaml")["available_node_types"]
    images = {it["node_config"]["ImageId"] for it in types.values()}
    assert len(images) == 1
    assert images.pop().startswith("ami-")


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


def test_local_config_starts_ray_once_and_keeps_its_state_on_disk() -> None:
    config = prepared("local.yaml")
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


@pytest.mark.parametrize("name", FILES)
def test_token_is_made_on_the_head_before_ray_starts_and_goes_to_the_workers(name: str) -> None:
    config = prepared(name)
    assert any("get-auth-token --generate" in it for it in config["head_setup_commands"])
    assert not any("get-auth-token" in it for it in config["worker_setup_commands"])
    synced = ["~/.ray/auth_token", "~/conkd-tls", "~/conkd-tls-server"]
    assert config["cluster_synced_files"] == synced


@pytest.mark.parametrize("name", FILES)
def test_student_node_drops_the_servers_key_first_and_installs_as_all_do(name: str) -> None:
    config = prepared(name)
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


@pytest.mark.parametrize("name", FILES)
def test_students_folder_gets_the_clients_files_alone(name: str) -> None:
    # At each start, so that a second `ray up` hands on certificates that were replaced.
    copied, *others = prepared(name)["head_start_ray_commands"]
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
    targets = re.findall(r"make (.*)$", config["head_setup_commands"][0])
    assert targets == ["environment protos"]
    makefile = (ROOT / "Makefile").read_text()
    for target in targets[0].split():
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_both_configs_install_the_same_way() -> None:
    gpu, local = read("gpu.yaml"), read("local.yaml")
    for key in ("file_mounts", "cluster_synced_files", "rsync_exclude"):
        assert gpu[key] == local[key]
