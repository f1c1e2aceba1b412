"""IAM: a role for each sort of node, in a profile of the same name, and AWS's own for spot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cluster.aws.parts import State
from cluster.aws.policies import policy, trust
from cluster.aws.roles import AwsFile, Role
from cluster.aws.session import Aws

POLICY = "conkd"
"""Name of a role's one inline policy."""
SPOT = "spot.amazonaws.com"
SPOT_ROLE = "AWSServiceRoleForEC2Spot"


@dataclass(frozen=True, kw_only=True)
class NodeRole:
    """The IAM role and the instance profile of one sort of node."""

    aws: Aws
    file: AwsFile
    role: Role

    @property
    def what(self) -> str:
        """Name, and what it may do."""
        rights = "reads its own secret"
        if self.role == "head":
            rights += ", starts and ends nodes of clusters"
        return f"role and instance profile {self.name}: {rights}"

    @property
    def name(self) -> str:
        """Of both."""
        return self.file.profile(self.role)

    def state(self) -> State:
        """Ready if profile, role and policy are there, and the policy is ours."""
        profile = self._found("get_instance_profile", InstanceProfileName=self.name)
        role = self._found("get_role", RoleName=self.name)
        if profile is None and role is None:
            return "missing"
        if profile is None or role is None:
            return "differs"
        roles = [it["RoleName"] for it in profile["InstanceProfile"]["Roles"]]
        there = self._found("get_role_policy", RoleName=self.name, PolicyName=POLICY)
        wanted = policy(self.aws, self.file, self.role)
        is_ours = there is not None and there["PolicyDocument"] == wanted
        return "ready" if is_ours and roles == [self.name] else "differs"

    def make(self) -> None:
        """Make what is missing of the three, and write the policy."""
        iam = self.aws.iam
        if self._found("get_role", RoleName=self.name) is None:
            iam.create_role(RoleName=self.name, AssumeRolePolicyDocument=json.dumps(trust()))
        document = json.dumps(policy(self.aws, self.file, self.role))
        iam.put_role_policy(RoleName=self.name, PolicyName=POLICY, PolicyDocument=document)
        profile = self._found("get_instance_profile", InstanceProfileName=self.name)
        if profile is None:
            profile = iam.create_instance_profile(InstanceProfileName=self.name)
        if not profile["InstanceProfile"]["Roles"]:
            iam.add_role_to_instance_profile(InstanceProfileName=self.name, RoleName=self.name)
        # A launch right after would not find it.
        iam.get_waiter("instance_profile_exists").wait(InstanceProfileName=self.name)

    def remove(self) -> None:
        """Remove all three."""
        iam = self.aws.iam
        profile = self._found("get_instance_profile", InstanceProfileName=self.name)
        if profile is not None:
            for role in profile["InstanceProfile"]["Roles"]:
                iam.remove_role_from_instance_profile(
                    InstanceProfileName=self.name, RoleName=role["RoleName"]
                )
            iam.delete_instance_profile(InstanceProfileName=self.name)
        if self._found("get_role_policy", RoleName=self.name, PolicyName=POLICY) is not None:
            iam.delete_role_policy(RoleName=self.name, PolicyName=POLICY)
        if self._found("get_role", RoleName=self.name) is not None:
            iam.delete_role(RoleName=self.name)

    def _found(self, call: str, **names: str) -> dict[str, Any] | None:
        try:
            return getattr(self.aws.iam, call)(**names)
        except self.aws.iam.exceptions.NoSuchEntityException:
            return None


@dataclass(frozen=True, kw_only=True)
class SpotRole:
    """AWS's own role for spot instances. A new account lacks it, and a head may not make it."""

    aws: Aws

    @property
    def what(self) -> str:
        """Name; it belongs to the account and stays after --remove."""
        return f"service-linked role {SPOT_ROLE}: an account needs it for spot instances"

    def state(self) -> State:
        """Ready if the account has it."""
        there = self.aws.iam.list_roles(PathPrefix=f"/aws-service-role/{SPOT}/")["Roles"]
        return "ready" if there else "missing"

    def make(self) -> None:
        """Make it."""
        self.aws.iam.create_service_linked_role(AWSServiceName=SPOT)

    def remove(self) -> None:
        """Others of the account use it: not ours to remove."""
