"""What a node of each role may ask of AWS, as IAM policy documents; nothing else is allowed."""

from __future__ import annotations

from typing import Any

from cluster.aws.parameters import secret_parameter
from cluster.aws.roles import AwsFile, Role
from cluster.aws.session import Aws

Document = dict[str, Any]
VERSION = "2012-10-17"
EC2 = "ec2.amazonaws.com"
DESCRIBED = ("Images", "Instances", "InstanceTypes", "KeyPairs", "SecurityGroups", "Subnets")
OF_A_CLUSTER = {"StringLike": {"aws:ResourceTag/ray-cluster-name": "*"}}
"""Instances that some Ray launched: the tag is given with the launch, and a node has no other."""


def trust() -> Document:
    """EC2 instances take the role."""
    return _document({"Effect": "Allow", "Principal": {"Service": EC2}, "Action": "sts:AssumeRole"})


def policy(aws: Aws, file: AwsFile, role: Role) -> Document:
    """The inline policy of a role: its own secret; the head starts and ends nodes, too."""
    own = _allow("ssm:GetParameter", _parameter(aws, secret_parameter(file.profile(role))))
    return _document(own, *(_autoscaler(aws, file) if role == "head" else ()))


def _autoscaler(aws: Aws, file: AwsFile) -> list[Document]:
    """What Ray's provider calls on the head (ray/autoscaler/_private/aws/node_provider.py)."""
    instances = aws.arn("ec2", "instance/*")
    workers = [
        aws.arn("iam", f"role/{file.profile(it)}", region="") for it in ("teacher", "student")
    ]
    statements = [
        _allow([f"ec2:Describe{it}" for it in DESCRIBED], "*"),
        _allow("ec2:RunInstances", "*"),
        {
            **_allow("ec2:CreateTags", "*"),
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            **_allow(["ec2:CreateTags", "ec2:TerminateInstances"], instances),
            "Condition": OF_A_CLUSTER,
        },
        {
            **_allow("iam:PassRole", workers),
            "Condition": {"StringEquals": {"iam:PassedToService": EC2}},
        },
    ]
    if file.image_parameter is not None:
        # EC2 resolves the image with the rights of who launches.
        statements.append(_allow("ssm:GetParameters", _parameter(aws, file.image_parameter)))
    return statements


def _parameter(aws: Aws, name: str) -> str:
    return aws.arn("ssm", f"parameter{name}")


def _allow(action: str | list[str], resource: str | list[str]) -> Document:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def _document(*statements: Document) -> Document:
    return {"Version": VERSION, "Statement": list(statements)}
