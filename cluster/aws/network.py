"""EC2: the zone's subnet, the security group, the students' placement group."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cluster.aws.parts import State
from cluster.aws.roles import AwsFile
from cluster.aws.session import Aws
from trainer.common.errors import InputError

SSH_PORT = 22
EVERYBODY = "0.0.0.0/0"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the nodes are."""

    vpc: str
    subnet: str


def find_place(aws: Aws, file: AwsFile) -> Place:
    """The public subnet of the file's zone, by the rule of Ray's provider.

    Raises:
        InputError: if the zone has none, or subnets of several networks: Ray would take any.
    """
    zone = [{"Name": "availability-zone", "Values": [file.zone]}]
    subnets = [
        it
        for it in aws.ec2.describe_subnets(Filters=zone)["Subnets"]
        if it["State"] == "available" and it["MapPublicIpOnLaunch"]
    ]
    networks = sorted({it["VpcId"] for it in subnets})
    if len(networks) != 1:
        raise InputError(
            f"{file.path}: zone {file.zone} must have subnets with public addresses in one VPC, "
            f"got {len(networks)} VPCs. Name another zone, or make the default VPC: aws ec2 "
            "create-default-vpc."
        )
    return Place(vpc=networks[0], subnet=subnets[0]["SubnetId"])


@dataclass(frozen=True, kw_only=True)
class SecurityGroup:
    """Who reaches the nodes: each other all of them, others port 22. Ray finds it by its name."""

    aws: Aws
    file: AwsFile
    place: Place
    ssh_from: str | None
    """Addresses that may log in, with the key; None: those that there are, or everybody."""

    @property
    def what(self) -> str:
        """Name and rules."""
        others = self.ssh_from or ("the same as before" if self.find() else EVERYBODY)
        return (
            f"security group {self.file.security_group}: members reach each other, and {others} "
            f"port {SSH_PORT}"
        )

    def find(self) -> dict[str, Any] | None:
        """The group as EC2 describes it."""
        values = {"group-name": self.file.security_group, "vpc-id": self.place.vpc}
        filters = [{"Name": name, "Values": [value]} for name, value in values.items()]
        groups = self.aws.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
        return groups[0] if groups else None

    def state(self) -> State:
        """Ready if its rules are ours."""
        group = self.find()
        if group is None:
            return "missing"
        there, wanted = _simple(group["IpPermissions"]), _simple(self._rules(group["GroupId"]))
        is_right = there == wanted if self.ssh_from else len(there) == len(wanted)
        return "ready" if is_right else "differs"

    def make(self) -> None:
        """Make the group, or replace its rules."""
        ec2, group = self.aws.ec2, self.find()
        if group is None:
            made = ec2.create_security_group(
                GroupName=self.file.security_group,
                Description="Nodes of conkd clusters",
                VpcId=self.place.vpc,
            )
            group = {"GroupId": made["GroupId"], "IpPermissions": []}
        if group["IpPermissions"]:
            ec2.revoke_security_group_ingress(
                GroupId=group["GroupId"], IpPermissions=group["IpPermissions"]
            )
        ec2.authorize_security_group_ingress(
            GroupId=group["GroupId"], IpPermissions=self._rules(group["GroupId"])
        )

    def remove(self) -> None:
        """Delete the group; EC2 refuses while a node or a file system uses it."""
        group = self.find()
        assert group is not None
        self.aws.ec2.delete_security_group(GroupId=group["GroupId"])

    def _rules(self, group_id: str) -> list[dict[str, Any]]:
        return [
            {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group_id}]},
            {
                "IpProtocol": "tcp",
                "FromPort": SSH_PORT,
                "ToPort": SSH_PORT,
                "IpRanges": [{"CidrIp": self.ssh_from or EVERYBODY}],
            },
        ]


def _simple(rules: Iterable[dict[str, Any]]) -> set[tuple[str, int, frozenset[str]]]:
    """Protocol, port, and who, of rules as they are given or described."""
    return {
        (
            rule["IpProtocol"],
            rule.get("FromPort", -1),
            frozenset(
                [it["GroupId"] for it in rule.get("UserIdGroupPairs", [])]
                + [it["CidrIp"] for it in rule.get("IpRanges", [])]
            ),
        )
        for rule in rules
    }


@dataclass(frozen=True, kw_only=True)
class PlacementGroup:
    """Students near each other."""

    aws: Aws
    file: AwsFile

    @property
    def what(self) -> str:
        """Name and sort."""
        return f"placement group {self.file.placement_group}: students near each other (cluster)"

    def state(self) -> State:
        """Ready if it is there."""
        names = [{"Name": "group-name", "Values": [self.file.placement_group]}]
        groups = self.aws.ec2.describe_placement_groups(Filters=names)["PlacementGroups"]
        if not any(it["State"] in ("pending", "available") for it in groups):
            return "missing"
        if groups[0]["Strategy"] != "cluster":
            raise InputError(
                f"placement group {self.file.placement_group} must have the strategy cluster, got "
                f"{groups[0]['Strategy']}. Remove it, or name another one in {self.file.path}."
            )
        return "ready"

    def make(self) -> None:
        """Make it."""
        self.aws.ec2.create_placement_group(GroupName=self.file.placement_group, Strategy="cluster")

    def remove(self) -> None:
        """Delete it; EC2 refuses while it has instances."""
        self.aws.ec2.delete_placement_group(GroupName=self.file.placement_group)
