"""An AWS on loopback: moto's server, and by hand what moto lacks; nothing else can be reached."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.aws.session import Aws, connect

REGION = "us-west-2"
FILE = Path(__file__).resolve().parents[2] / "cluster" / "gpu.yaml"
ACCOUNT = "123456789012"
IMAGE = "ami-0fa4e0000000fa4e0"
FAMILIES = ("g4dn.", "g5.", "g6.", "m5.", "m6i.", "m7i.")
IMAGE_NAME = "Deep Learning Base OSS Nvidia Driver GPU AMI (Ubuntu 24.04), a fake of it"


@dataclasses.dataclass
class FakeAws:
    """The server, and what it was asked for."""

    address: str
    calls: list[tuple[str, dict[str, Any]]]
    quota: float = 1000.0
    """Of each sort, in vCPUs."""
    groups: dict[str, dict[str, str]] = dataclasses.field(default_factory=dict)
    """Placement groups by name."""
    image: str = ""

    def asked(self, operation: str) -> list[dict[str, Any]]:
        """Arguments of all calls of one operation."""
        return [arguments for name, arguments in self.calls if name == operation]

    @functools.cached_property
    def clients(self) -> Aws:
        """Ours; made once, as each takes long, and good for all tests of a session."""
        return connect(REGION)


@contextmanager
def fake_aws_server() -> Iterator[FakeAws]:
    """A server in a thread of this process; all state is this process's."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _forget_clients()
    host, port = server.get_host_and_port()
    try:
        yield FakeAws(address=f"http://{host}:{port}", calls=[])
    finally:
        server.stop()


def start_over(aws: FakeAws, patch: pytest.MonkeyPatch, home: Path) -> None:
    """An empty account, for the clients of this test alone."""
    aws.calls.clear()
    aws.groups.clear()
    aws.quota = 1000.0
    _point_here(aws, patch, home)
    request = urllib.request.Request(f"{aws.address}/moto-api/reset", method="POST")
    urllib.request.urlopen(request).read()
    _add_what_is_missing(aws, patch)
    _shorten(patch)
    _record(aws, patch)
    aws.image = _make_image(aws)


def _point_here(aws: FakeAws, patch: pytest.MonkeyPatch, home: Path) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": aws.address,
        "AWS_ACCESS_KEY_ID": "fake",
        "AWS_SECRET_ACCESS_KEY": "fake",
        "AWS_CONFIG_FILE": str(home / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
        # _make_image makes the only one.
        "MOTO_EC2_LOAD_DEFAULT_AMIS": "false",
        "HOME": str(home),
    }.items():
        patch.setenv(name, value)
    connect = socket.socket.connect

    def on_loopback(self: socket.socket, address: Any) -> None:
        assert not isinstance(address, tuple) or address[0] == "127.0.0.1", address
        connect(self, address)

    patch.setattr(socket.socket, "connect", on_loopback)


def _add_what_is_missing(aws: FakeAws, patch: pytest.MonkeyPatch) -> None:
    from moto.core.responses import ActionResult, EmptyResult
    from moto.ec2.responses import EC2Response
    from moto.servicequotas.models import ServiceQuotasBackend

    def describe(self: Any) -> Any:
        (names,) = [it["Values"] for it in self._get_param("Filters", [])]
        return ActionResult(
            {"PlacementGroups": [aws.groups[it] for it in names if it in aws.groups]}
        )

    def create(self: Any) -> Any:
        name, strategy = self._get_param("GroupName"), self._get_param("Strategy")
        aws.groups[name] = {"GroupName": name, "Strategy": strategy, "State": "available"}
        return EmptyResult()

    def delete(self: Any) -> Any:
        del aws.groups[self._get_param("GroupName")]
        return EmptyResult()

    def quota(self: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        return {"QuotaCode": quota_code, "ServiceCode": service_code, "Value": aws.quota}

    for name, fake in (("describe", describe), ("create", create), ("delete", delete)):
        plural = "s" if name == "describe" else ""
        patch.setattr(EC2Response, f"{name}_placement_group{plural}", fake, raising=False)
    patch.setattr(ServiceQuotasBackend, "get_service_quota", quota)


def _shorten(patch: pytest.MonkeyPatch) -> None:
    """Some types of instances for all: Ray reads the whole list each time."""
    from moto.ec2.models.instance_types import InstanceTypeBackend

    types = [it for it in InstanceTypeBackend.instance_types if it.name.startswith(FAMILIES)]
    patch.setattr(InstanceTypeBackend, "instance_types", types)


def _record(aws: FakeAws, patch: pytest.MonkeyPatch) -> None:
    from botocore.client import BaseClient

    call: Any = BaseClient._make_api_call  # type: ignore[attr-defined]

    def recorded(self: BaseClient, operation: str, arguments: dict[str, Any]) -> Any:
        aws.calls.append((operation, arguments))
        return call(self, operation, arguments)

    patch.setattr(BaseClient, "_make_api_call", recorded)


def _forget_clients() -> None:
    """Ray keeps its clients, which know the address of an earlier server."""
    from ray.autoscaler._private.aws import config, utils

    for cache in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
        cache.cache_clear()


def _make_image(aws: FakeAws) -> str:
    """An image as AWS publishes it, and AWS's parameter with its id."""
    from moto.ec2.models import ec2_backends
    from moto.ec2.models.amis import Ami
    from moto.ssm.models import Parameter, ssm_backends

    from cluster.aws.images import DEFAULT_IMAGE

    ec2: Any = ec2_backends[ACCOUNT][REGION]
    ssm: Any = ssm_backends[ACCOUNT][REGION]
    ec2.amis[IMAGE] = Ami(ec2, IMAGE, name=IMAGE_NAME, architecture="x86_64", region_name=REGION)
    ssm._parameters[DEFAULT_IMAGE] = [
        Parameter(
            account_id=ACCOUNT,
            name=DEFAULT_IMAGE,
            value=IMAGE,
            parameter_type="String",
            description="",
            allowed_pattern=None,
            keyid=None,
            last_modified_date=0,
            version=1,
            data_type="aws:ec2:image",
        )
    ]
    aws.calls.clear()
    return IMAGE


def policies_of(aws: FakeAws, role: str) -> list[dict[str, Any]]:
    """The statements of all policies of an IAM role."""
    iam = aws.clients.iam
    assert iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    names = iam.list_role_policies(RoleName=role)["PolicyNames"]
    documents = [iam.get_role_policy(RoleName=role, PolicyName=it) for it in names]
    found = [it["PolicyDocument"] for it in documents]
    texts = [json.loads(it) if isinstance(it, str) else it for it in found]
    return [statement for it in texts for statement in it["Statement"]]


def gpu_config() -> dict[str, Any]:
    """cluster/gpu.yaml as it is."""
    return copy.deepcopy(_parsed_file())


@functools.cache
def _parsed_file() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())
