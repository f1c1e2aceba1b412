"""The shared folder: a file system of EFS with one way in, in the zone of the nodes.

Others are given as ADDRESS:/PATH of a server for NFS 4 (FSx for OpenZFS, one of your own), or as
`head`, whose disk all others then mount: it costs nothing and goes with the head.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Any, Literal

from cluster.aws.network import Place, SecurityGroup
from cluster.aws.parameters import HEAD
from cluster.aws.parts import State
from cluster.aws.session import Aws
from trainer.common.errors import InputError, MachineError

EFS = "efs"
ADDRESS = re.compile(r"[A-Za-z0-9.-]+:/[\w./-]*")
EMPTY_BYTES = 1 << 20
"""A file system without files is metered at some KB."""
WAIT_S = 300.0
POLL_S = 2.0
Life = Literal["available", "gone"]


def checked_storage(text: str) -> str:
    """What --shared may be; InputError otherwise."""
    if text not in (EFS, HEAD) and not ADDRESS.fullmatch(text):
        raise InputError(
            f"--shared must be {EFS}, {HEAD} or ADDRESS:/PATH of a server for NFS 4, got {text}. "
            f"{EFS} is a file system that setup makes."
        )
    return text


@dataclass(frozen=True, kw_only=True)
class FileSystem:
    """One of EFS, found by its creation token."""

    aws: Aws
    token: str
    zone: str
    place: Place
    group: SecurityGroup

    @property
    def what(self) -> str:
        """Name, place, and how much it holds."""
        found = self.find()
        held = f", holds {size(found) / 1e9:.3g} GB" if found else ""
        return f"file system {self.token} (EFS, encrypted), reached from {self.zone}{held}"

    def find(self) -> dict[str, Any] | None:
        """The file system as EFS describes it."""
        found = self.aws.efs.describe_file_systems(CreationToken=self.token)["FileSystems"]
        alive = [it for it in found if it["LifeCycleState"] not in ("deleting", "deleted")]
        return alive[0] if alive else None

    def state(self) -> State:
        """Ready if it has a way in from the nodes' subnet."""
        found = self.find()
        if found is None:
            return "missing"
        subnets = [it["SubnetId"] for it in self._targets(found["FileSystemId"])]
        return "ready" if self.place.subnet in subnets else "differs"

    def address(self) -> str | None:
        """What nodes mount, once it is there."""
        found = self.find()
        if found is None:
            return None
        suffix = "amazonaws.com.cn" if self.aws.partition == "aws-cn" else "amazonaws.com"
        return f"{found['FileSystemId']}.efs.{self.aws.region}.{suffix}:/"

    def make(self) -> None:
        """Make it, and the way in."""
        found = self.find()
        if found is None:
            found = self.aws.efs.create_file_system(
                CreationToken=self.token,
                Encrypted=True,
                PerformanceMode="generalPurpose",
                ThroughputMode="elastic",
                Tags=[{"Key": "Name", "Value": self.token}],
            )
        name = found["FileSystemId"]
        self._wait(name, "available")
        group = self.group.find()
        assert group is not None, "the group is made before"
        self.aws.efs.create_mount_target(
            FileSystemId=name, SubnetId=self.place.subnet, SecurityGroups=[group["GroupId"]]
        )
        self._wait_for_targets(name, "available")

    def remove(self) -> None:
        """Delete it, with all that it holds."""
        found = self.find()
        assert found is not None
        name = found["FileSystemId"]
        for target in self._targets(name):
            self.aws.efs.delete_mount_target(MountTargetId=target["MountTargetId"])
        self._wait_for_targets(name, "gone")
        self.aws.efs.delete_file_system(FileSystemId=name)

    def _targets(self, name: str) -> list[dict[str, Any]]:
        return self.aws.efs.describe_mount_targets(FileSystemId=name)["MountTargets"]

    def _wait(self, name: str, life: Life) -> None:
        def done() -> bool:
            found = self.aws.efs.describe_file_systems(FileSystemId=name)["FileSystems"]
            return [it["LifeCycleState"] for it in found] == [life]

        _wait_until(done, f"file system {name}")

    def _wait_for_targets(self, name: str, life: Life) -> None:
        def done() -> bool:
            states = {it["LifeCycleState"] for it in self._targets(name)}
            return states == (set() if life == "gone" else {life})

        _wait_until(done, f"mount targets of {name}")


def size(found: dict[str, Any]) -> int:
    """Bytes that a described file system holds."""
    return int(found["SizeInBytes"]["Value"])


def _wait_until(done: Any, what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not done():
        if time.monotonic() > end:
            raise MachineError(
                f"{what} must be ready within {WAIT_S:.0f} s, got none. Run the same command again."
            )
        time.sleep(POLL_S)
