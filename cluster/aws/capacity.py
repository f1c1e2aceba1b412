"""Whether AWS gives an account the machines that a file asks for: zones and quotas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.aws.roles import AwsFile, NodeType
from cluster.aws.session import Aws, code
from trainer.common.errors import InputError

# Quotas are counted in vCPUs for families of types: on demand, and spot.
QUOTAS: Mapping[str, tuple[str, str]] = {
    "g": ("L-DB2E81BA", "L-3819A6DF"),
    "vt": ("L-DB2E81BA", "L-3819A6DF"),
    "p": ("L-417A185B", "L-7212CCBC"),
}
STANDARD = ("L-1216C47A", "L-34B43A08")


def check_offered(aws: Aws, file: AwsFile) -> None:
    """Raise InputError if the zone does not have an instance type of the file."""
    wanted = sorted({it.instance_type for it in file.node_types})
    offers = aws.ec2.describe_instance_type_offerings(
        LocationType="availability-zone",
        Filters=[
            {"Name": "location", "Values": [file.zone]},
            {"Name": "instance-type", "Values": wanted},
        ],
    )["InstanceTypeOfferings"]
    there = {it["InstanceType"] for it in offers}
    for it in file.node_types:
        if it.instance_type not in there:
            raise InputError(
                f"{file.path}: {it.name} must have an instance type of zone {file.zone}, got "
                f"{it.instance_type}. Name another zone or type: aws ec2 describe-instance-type-"
                f"offerings --location-type availability-zone --region {file.region}"
            )


def quota_notes(aws: Aws, file: AwsFile) -> list[str]:
    """What the account's quotas do not allow of the file's most.

    Raises:
        InputError: if they do not allow one node of a type: it would never start.
    """
    vcpus = _vcpus(aws, sorted({it.instance_type for it in file.node_types}))
    groups: dict[str, list[NodeType]] = {}
    for it in file.node_types:
        groups.setdefault(quota_code(it), []).append(it)
    notes = []
    for quota, types in sorted(groups.items()):
        allowed = _allowed(aws, quota)
        if allowed is None:
            notes.append(f"quota {quota} ({_names(types)}) could not be read")
            continue
        for it in types:
            if vcpus[it.instance_type] > allowed:
                raise InputError(
                    f"{file.path}: the account must be allowed one {it.instance_type} for "
                    f"{it.name} ({vcpus[it.instance_type]} vCPUs), got a quota {quota} of "
                    f"{allowed:g}. Ask for more: aws service-quotas request-service-quota-increase "
                    f"--service-code ec2 --quota-code {quota} --desired-value N --region "
                    f"{file.region}"
                )
        most = sum(it.max_nodes * vcpus[it.instance_type] for it in types)
        if most > allowed:
            notes.append(
                f"quota {quota} ({_names(types)}) allows {allowed:g} vCPUs of the {most} that the "
                "file may ask for"
            )
    return notes


def quota_code(it: NodeType) -> str:
    """The quota that nodes of a type are counted in."""
    family = "".join(iter_letters(it.instance_type))
    return QUOTAS.get(family, STANDARD)[it.is_spot]


def iter_letters(instance_type: str) -> str:
    """The letters before the first digit: g of g5.xlarge."""
    digits = next(i for i, it in enumerate(instance_type) if it.isdigit())
    return instance_type[:digits]


def _names(types: Sequence[NodeType]) -> str:
    return ", ".join(it.name for it in types)


def _vcpus(aws: Aws, names: list[str]) -> dict[str, int]:
    found = aws.ec2.describe_instance_types(InstanceTypes=names)["InstanceTypes"]
    return {it["InstanceType"]: it["VCpuInfo"]["DefaultVCpus"] for it in found}


def _allowed(aws: Aws, quota: str) -> float | None:
    """The quota's value; None if it may not be read, or there is none of the code."""
    from botocore.exceptions import ClientError

    try:
        answer: Any = aws.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=quota)
    except ClientError as error:
        if code(error) not in ("AccessDeniedException", "NoSuchResourceException"):
            raise
        return None
    return answer["Quota"]["Value"]
