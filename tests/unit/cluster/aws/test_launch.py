"""Nodes of every type of cluster/gpu.yaml, launched by Ray's own AWS provider on loopback."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private import commands, util
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig as TypeOfRay
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated import autoscaler_pb2

from teacher_server.fleet.offers import SHARE
from tests.support.fake_aws import FILE, FakeAws, gpu_config

pytestmark = pytest.mark.everything
# Its fields are made at import, so that no tool sees them.
GangResourceRequest: Any = vars(autoscaler_pb2)["GangResourceRequest"]
SPOT = {"MarketType": "spot"}
TYPES = {
    "head": ("m7i.xlarge", "conkd-head", None),
    "dialogue": ("g5.xlarge", "conkd-teacher", SPOT),
    "dialogue-g6": ("g6.xlarge", "conkd-teacher", SPOT),
    "dialogue-g4dn": ("g4dn.xlarge", "conkd-teacher", SPOT),
    "recommendation": ("m7i.large", "conkd-teacher", SPOT),
    "recommendation-m6i": ("m6i.large", "conkd-teacher", SPOT),
    "student": ("g5.12xlarge", "conkd-student", None),
}
MAKES = ("Create", "Put", "Import", "Authorize", "Add")


@functools.cache
def bootstrapped() -> dict[str, Any]:
    """The file as Ray hands it to the head; asks AWS once for all tests here."""
    return commands._bootstrap_config(gpu_config(), no_config_cache=True)


def launched(ready: FakeAws, name: str) -> dict[str, Any]:
    """What EC2 says of a node of one type, launched as the autoscaler does."""
    config = bootstrapped()
    ready.calls.clear()
    provider = _get_node_provider(config["provider"], config["cluster_name"])
    tags = {"ray-user-node-type": name, "ray-node-type": "worker", "ray-node-name": f"ray-{name}"}
    node_config = config["available_node_types"][name]["node_config"]
    (node,) = provider.create_node(node_config, tags, 1)
    found = ready.clients.ec2.describe_instances(InstanceIds=[node])
    return found["Reservations"][0]["Instances"][0]


def test_bootstrap_finds_what_setup_made_and_makes_nothing(ready: FakeAws) -> None:
    config = bootstrapped()
    assert [name for name, _ in ready.calls if name.startswith(MAKES)] == []
    assert config["auth"]["ssh_private_key"] == str(Path.home() / ".ssh" / "conkd.pem")
    types = config["available_node_types"]
    (group,) = {tuple(it["node_config"]["SecurityGroupIds"]) for it in types.values()}
    found = ready.clients.ec2.describe_security_groups(GroupIds=list(group))["SecurityGroups"]
    assert [it["GroupName"] for it in found] == ["conkd"]
    # From the instance types, but where the file says otherwise.
    assert types["dialogue"]["resources"]["GPU"] == 1
    assert types["dialogue"]["resources"]["CPU"] == 4
    assert "GPU" not in types["recommendation"]["resources"]
    assert types["head"]["resources"] == {"CPU": 0, "head": 1}
    student = types["student"]["resources"]
    assert (student["CPU"], student["GPU"]) == (0, 0)
    assert (student["student"], student["supervisor"]) == (1, 1)


@pytest.mark.parametrize("name", TYPES)
def test_node_is_launched_as_the_file_says(ready: FakeAws, name: str) -> None:
    instance_type, profile, market = TYPES[name]
    node = launched(ready, name)
    (asked,) = ready.asked("RunInstances")
    # EC2 resolves it, with the rights of who launches; moto does not.
    assert asked["ImageId"] == "resolve:ssm:/conkd/image"
    stored = ready.clients.ssm.get_parameter(Name="/conkd/image")["Parameter"]["Value"]
    assert stored == ready.image
    assert node["InstanceType"] == asked["InstanceType"] == instance_type
    assert (asked["MinCount"], asked["MaxCount"]) == (1, 1)
    assert asked.get("InstanceMarketOptions") == market
    assert (node.get("InstanceLifecycle") == "spot") == (market is not None)
    assert asked["IamInstanceProfile"] == {"Name": profile}
    assert node["IamInstanceProfile"]["Arn"].endswith(f":instance-profile/{profile}")
    assert node["KeyName"] == "conkd"
    assert [it["GroupName"] for it in node["SecurityGroups"]] == ["conkd"]
    assert node["Placement"]["AvailabilityZone"] == "us-west-2a"
    group = asked.get("Placement", {}).get("GroupName")
    assert group == ("conkd-students" if name == "student" else None)
    tags = {it["Key"]: it["Value"] for it in node["Tags"]}
    assert tags["ray-cluster-name"] == "conkd"
    assert tags["ray-user-node-type"] == name
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    (disk,) = asked["BlockDeviceMappings"]
    assert disk["Ebs"]["Encrypted"] is True


class BeforeSshError(Exception):
    """Raised where `ray up` would log in."""


def test_ray_up_launches_the_head_alone_and_stops_before_any_login(
    ready: FakeAws, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins: list[dict[str, Any]] = []

    def stop(**arguments: Any) -> None:
        logins.append(arguments)
        raise BeforeSshError

    monkeypatch.setattr(commands, "NodeUpdaterThread", stop)
    # moto does not look for the image, and its instances are running at once.
    monkeypatch.chdir(FILE.parents[1])
    ready.calls.clear()
    with pytest.raises(BeforeSshError):
        commands.create_or_update_cluster(
            str(FILE),
            override_min_workers=None,
            override_max_workers=None,
            no_restart=False,
            restart_only=False,
            yes=True,
            no_config_cache=True,
        )
    (asked,) = ready.asked("RunInstances")
    assert asked["InstanceType"] == TYPES["head"][0]
    made = {name for name, _ in ready.calls if name.startswith(MAKES)}
    assert made <= {"CreateTags"}
    (login,) = logins
    assert login["is_head_node"] is True
    assert login["node_resources"] == {"CPU": 0, "head": 1}
    assert login["initialization_commands"] == ["bash ~/conkd/cluster/aws/prepare.sh"]
    # No secret leaves the laptop, nor goes from node to node.
    assert all(it.startswith("~/conkd/") for it in login["file_mounts"] if it.startswith("~/conkd"))


@pytest.fixture
def read_by_autoscaler() -> AutoscalingConfig:
    config = util.prepare_config(gpu_config())
    return AutoscalingConfig(config, skip_content_hash=True)


def test_autoscaler_gives_every_type_back_that_is_idle(
    read_by_autoscaler: AutoscalingConfig,
) -> None:
    types: dict[str, TypeOfRay] = read_by_autoscaler.get_node_type_configs() or {}
    assert read_by_autoscaler.get_idle_timeout_s() == 600
    assert {name: it.idle_timeout_s for name, it in types.items()} == {
        **dict.fromkeys(TYPES, None),
        "student": 1800,
    }
    # One below its least it would never give back.
    assert {it.min_worker_nodes for it in types.values()} == {0}
    assert read_by_autoscaler.get_max_num_worker_nodes() == 12


def wanted(
    work: list[dict[str, float]], *, failed: tuple[str, ...] = (), apart: bool = False
) -> dict[str, int]:
    """The nodes that Ray's scheduler starts for pending work; types of `failed` just had none."""
    config = AutoscalingConfig(bootstrapped(), skip_content_hash=True)
    # As a placement group STRICT_SPREAD asks.
    rules = [(ResourceRequestUtil.PlacementConstraintType.ANTI_AFFINITY, "_PG_1", "")]
    requests = [ResourceRequestUtil.make(it, rules if apart else None) for it in work]
    reply = ResourceDemandScheduler().schedule(
        SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs() or {},
            max_num_nodes=config.get_max_num_nodes(),
            resource_requests=[] if apart else ResourceRequestUtil.group_by_count(requests),
            gang_resource_requests=[GangResourceRequest(requests=requests)] if apart else [],
            cloud_resource_availabilities=dict.fromkeys(failed, 0.0),
            recoverable_resource_availabilities=dict.fromkeys(failed, 0.0),
        )
    )
    return {it.instance_type: it.count for it in reply.to_launch}


# What replicas ask for, of the resource of their kind too (teacher_server/fleet/offers.py).
DIALOGUE = {"CPU": 0.5, "GPU": 1.0, "dialogue": SHARE}
RECOMMENDATION = {"CPU": 0.5, "recommendation": SHARE}
STUDENT = {"student": 1.0}


@pytest.mark.parametrize(
    ("work", "failed", "nodes"),
    [
        ([DIALOGUE] * 2, (), {"dialogue": 2}),
        ([DIALOGUE] * 2, ("dialogue",), {"dialogue-g6": 2}),
        ([DIALOGUE], ("dialogue", "dialogue-g6"), {"dialogue-g4dn": 1}),
        ([DIALOGUE] * 9, (), {"dialogue": 8, "dialogue-g6": 1}),
        ([RECOMMENDATION], (), {"recommendation": 1}),
        ([RECOMMENDATION], ("recommendation",), {"recommendation-m6i": 1}),
        ([{"supervisor": 0.01}], (), {"student": 1}),
    ],
)
def test_autoscaler_takes_the_next_type_of_a_pool_where_aws_had_none(
    ready: FakeAws, work: list[dict[str, float]], failed: tuple[str, ...], nodes: dict[str, int]
) -> None:
    del ready
    assert wanted(work, failed=failed) == nodes


def test_students_of_a_run_get_a_node_each(ready: FakeAws) -> None:
    del ready
    assert wanted([STUDENT] * 2, apart=True) == {"student": 2}
