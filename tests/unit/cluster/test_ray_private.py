"""What the cluster uses of Ray beside its public API is still there, and means what it meant."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest
import ray
import yaml
from jsonschema import ValidationError
from ray._raylet import PlacementGroupID  # pyright: ignore
from ray.core.generated.gcs_pb2 import GcsNodeInfo  # pyright: ignore

from cluster.commands import clean_host
from cluster.commands.cloud_nodes import KIND
from cluster.machines.addresses import PROVIDER
from cluster.machines.provider import Machines
from cluster.machines.ray_private import (
    ALIVE,
    judge_file,
    launch_hash,
    node_provider,
    placement_group_of,
)
from cluster.proof.machines import ON_DISK, RAY
from cluster.students.node_set import NODE_ID_LABEL
from tests.support.symbols import symbol

ROOT = Path(__file__).resolve().parents[3]
# Ray leaves a variable alone that it does not know: a name that went would be no error.
SETTING = re.compile(r"\bRAY_([a-z]\w+)=")
PROGRAMS = ("gcs/gcs_server", "raylet/raylet")
FILES = ("local.yaml", "gpu.yaml")


@pytest.mark.parametrize(
    "name",
    [
        "ray._raylet:GcsClient",
        "ray._raylet:InnerGcsClient.get_all_node_info",
        "ray._raylet:PlacementGroupID",
        "ray.autoscaler._private.util:hash_launch_conf",
        "ray.autoscaler._private.util:prepare_config",
        "ray.autoscaler._private.util:validate_config",
        "ray.autoscaler._private.providers:_get_node_provider",
        # Of developers' APIs, which may change between minor versions, too.
        "ray.autoscaler.sdk:bootstrap_config",
        "ray.autoscaler.sdk:get_head_node_ip",
        "ray.autoscaler.node_provider:NodeProvider.nodes_for_teardown",
        "ray.util.placement_group:placement_group_table",
    ],
)
def test_symbol_that_the_cluster_uses_is_there(name: str) -> None:
    assert symbol(name) is not None


@pytest.mark.parametrize("file", FILES)
def test_a_file_is_judged_and_left_as_it_is(file: str) -> None:
    text = (ROOT / "cluster" / file).read_text()
    config = yaml.safe_load(text)
    judge_file(config)
    assert config == yaml.safe_load(text)
    with pytest.raises(ValidationError, match="max_worker"):
        judge_file({**config, "max_worker": 1})


def test_launch_hash_differs_with_the_node_and_the_user() -> None:
    hashes = {launch_hash({"a": node}, {"ssh_user": user}) for node in (1, 2) for user in "uv"}
    assert len(hashes) == 4
    assert launch_hash({"a": 1}, {"ssh_user": "u"}) in hashes


def test_node_provider_is_that_of_the_file() -> None:
    provider = {"type": "external", "module": PROVIDER, "head_ip": "127.0.0.1"}
    assert isinstance(node_provider(provider, "cluster"), Machines)


def test_placement_group_is_the_one_of_its_id() -> None:
    group_id = PlacementGroupID.from_random()
    assert placement_group_of(group_id.hex()).id == group_id


def test_numbers_and_labels_have_the_values_that_we_use() -> None:
    assert GcsNodeInfo.GcsNodeState.Value("ALIVE") == ALIVE
    assert importlib.import_module("ray.autoscaler.tags").TAG_RAY_NODE_KIND == KIND
    label = importlib.import_module("ray.util.placement_group").NODE_ID_LABEL_KEY
    assert label == NODE_ID_LABEL


def test_settings_of_rays_processes_are_known_to_them() -> None:
    given = {*RAY, *ON_DISK} - {"RAY_AUTH_MODE"}
    names = {it.removeprefix("RAY_") for it in given}
    for file in FILES:
        names |= set(SETTING.findall((ROOT / "cluster" / file).read_text()))
    assert {"gcs_rpc_server_reconnect_timeout_s", "gcs_storage", "worker_niceness"} <= names
    folder = Path(ray.__file__).parent / "core/src/ray"
    programs = [(folder / name).read_bytes() for name in PROGRAMS]
    # With what ends a string in a program: gcs_storage is the beginning of gcs_storage_path.
    unknown = {it for it in names for program in programs if it.encode() + b"\0" not in program}
    assert unknown == set()


def test_wait_for_a_machine_is_bounded_by_the_variable_that_we_set() -> None:
    (name,) = set(re.findall(r"\bAUTOSCALER_\w+", (ROOT / "cluster/local.yaml").read_text()))
    constants = importlib.import_module("ray.autoscaler._private.constants")
    assert f'"{name}"' in inspect.getsource(constants)


def test_files_that_the_launcher_leaves_have_the_names_that_down_removes() -> None:
    commands = inspect.getsource(importlib.import_module("ray.autoscaler._private.commands"))
    runner = inspect.getsource(importlib.import_module("ray.autoscaler._private.command_runner"))
    for name in ("ray_bootstrap_key.pem", "ray_bootstrap_config.yaml"):
        assert name in clean_host.FILES
        assert f"~/{name}" in commands
    assert '"/tmp/ray_ssh_{}/{}"' in runner


def test_machines_are_named_by_the_variables_that_start_reads() -> None:
    commands = inspect.getsource(importlib.import_module("ray.autoscaler._private.commands"))
    util = inspect.getsource(importlib.import_module("ray.autoscaler._private.util"))
    assert '"RAY_CLOUD_INSTANCE_ID"' in commands
    assert '"RAY_HEAD_IP"' in util
