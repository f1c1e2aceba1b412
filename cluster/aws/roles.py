"""What a cluster's file says of AWS: its node types, and the names of what `setup` makes for them.

Names are the file's alone: setup makes what the file asks for by name, and nothing has to be
written into the file afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.common.errors import InputError

Role = Literal["head", "teacher", "student"]
ROLES: tuple[Role, ...] = ("head", "teacher", "student")
AWS = "aws"
RESOLVED = "resolve:ssm:"
"""Before the name of a parameter that holds the image's id; EC2 itself resolves it."""
ZONE = re.compile(r"([a-z]{2}(?:-[a-z]+)+-[0-9])[a-z]")
REMEDY = "cluster/gpu.yaml has an example."


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """One entry of available_node_types."""

    name: str
    role: Role
    instance_type: str
    profile: str
    """Instance profile, and the IAM role in it, of the same name."""
    is_spot: bool
    min_nodes: int
    """The head is one node; of the others so many run even without work."""
    max_nodes: int
    placement_group: str | None


@dataclass(frozen=True, kw_only=True)
class AwsFile:
    """The AWS side of a cluster's file, checked."""

    path: Path
    cluster_name: str
    region: str
    zone: str
    image: str
    """Id of an image, or RESOLVED and the name of the parameter that holds it."""
    key_name: str
    security_group: str
    node_types: tuple[NodeType, ...]

    def profile(self, role: Role) -> str:
        """The instance profile of a role's nodes."""
        return next(it.profile for it in self.node_types if it.role == role)

    @property
    def placement_group(self) -> str:
        """The group in which students are near each other."""
        return next(it.placement_group for it in self.node_types if it.placement_group)

    @property
    def image_parameter(self) -> str | None:
        """The parameter that holds the image's id, if there is one."""
        return self.image.removeprefix(RESOLVED) if self.image.startswith(RESOLVED) else None


def read_aws_file(path: Path, config: Mapping[str, Any]) -> AwsFile:
    """What is read of a file whose form Ray has accepted (schema.py).

    Raises:
        InputError: if something is missing, or cannot be.
    """
    fields = _Fields(path)
    provider = fields.group(config, "provider")
    if provider.get("type") != AWS:
        raise InputError(
            f"{path}: provider.type must be {AWS}, got {provider.get('type')}. Machines that you "
            "have need no setup: python -m cluster up FILE."
        )
    region = fields.text(provider, "region", "provider")
    names = tuple(config.get("available_node_types", {}))
    types = tuple(_node_type(fields, config, name) for name in names)
    _check_types(path, types)
    images = sorted({_image(fields, config, name) for name in names})
    if len(images) != 1:
        raise InputError(
            f"{path}: ImageId must be the same for all node types, got {', '.join(images)}. "
            "Nodes of one cluster run the same software."
        )
    return AwsFile(
        path=path,
        cluster_name=fields.text(config, "cluster_name", ""),
        region=region,
        zone=_zone(path, region, fields.text(provider, "availability_zone", "provider")),
        image=images[0],
        key_name=fields.text(fields.group(provider, "key_pair"), "key_name", "provider.key_pair"),
        security_group=fields.text(
            fields.group(provider, "security_group"), "GroupName", "provider.security_group"
        ),
        node_types=types,
    )


class _Fields:
    """Reads what must be there."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def group(self, group: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        value = group.get(key)
        if not isinstance(value, dict):
            raise InputError(f"{self.path}: {key} must be a group of keys, got {value}. {REMEDY}")
        return value

    def text(self, group: Mapping[str, Any], key: str, place: str) -> str:
        value = group.get(key)
        if not isinstance(value, str) or not value:
            name = f"{place}.{key}" if place else key
            raise InputError(f"{self.path}: {name} must be set, got {value}. {REMEDY}")
        return value


def _node_type(fields: _Fields, config: Mapping[str, Any], name: str) -> NodeType:
    entry = config["available_node_types"][name]
    place = f"available_node_types.{name}"
    node = fields.group(entry, "node_config")
    is_head = name == config.get("head_node_type")
    profile = fields.group(node, "IamInstanceProfile") if "IamInstanceProfile" in node else {}
    low, high = entry.get("min_workers", 0), entry.get("max_workers", 0)
    _check_counts(fields.path, name, low=low, high=high, is_head=is_head)
    market = node.get("InstanceMarketOptions", {})
    return NodeType(
        name=name,
        role=_role(fields.path, name, entry.get("resources", {}), is_head=is_head),
        instance_type=fields.text(node, "InstanceType", f"{place}.node_config"),
        profile=fields.text(profile, "Name", f"{place}.node_config.IamInstanceProfile"),
        is_spot=market.get("MarketType") == "spot",
        min_nodes=1 if is_head else low,
        max_nodes=1 if is_head else high,
        placement_group=node.get("Placement", {}).get("GroupName"),
    )


def _image(fields: _Fields, config: Mapping[str, Any], name: str) -> str:
    node = config["available_node_types"][name]["node_config"]
    image = fields.text(node, "ImageId", f"available_node_types.{name}.node_config")
    if not re.fullmatch(rf"ami-[0-9a-f]{{8,17}}|{RESOLVED}/[\w./-]+", image):
        raise InputError(
            f"{fields.path}: ImageId of {name} must be ami-... or {RESOLVED}/PARAMETER, got "
            f"{image}. {REMEDY}"
        )
    return image


def _role(path: Path, name: str, resources: Mapping[str, int], *, is_head: bool) -> Role:
    found: list[Role] = [role for role in ROLES if resources.get(role)]
    if len(found) != 1 or (found[0] == "head") != is_head:
        wanted = "head: 1" if is_head else "one of teacher: 1 and student: 1"
        raise InputError(
            f"{path}: resources of {name} must have {wanted}, got {dict(resources)}. Replicas and "
            "students are placed by them."
        )
    return found[0]


def _check_counts(path: Path, name: str, *, low: int, high: int, is_head: bool) -> None:
    if is_head and (low, high) != (0, 0):
        raise InputError(
            f"{path}: the head's type {name} must have max_workers 0, got {low} to {high} workers. "
            "Give workers a type of their own."
        )
    if not is_head and not (0 <= low <= high and high > 0):
        raise InputError(
            f"{path}: {name} must have capacity, 0 <= min_workers <= max_workers and max_workers "
            f"at least 1, got {low} to {high}. Raise max_workers, or remove the type."
        )


def _check_types(path: Path, types: tuple[NodeType, ...]) -> None:
    for role in ROLES:
        profiles = sorted({it.profile for it in types if it.role == role})
        if not profiles:
            raise InputError(
                f"{path}: available_node_types must have a {role} node, got "
                f"{', '.join(it.name for it in types) or 'none'}. {REMEDY}"
            )
        if len(profiles) > 1:
            raise InputError(
                f"{path}: {role} nodes must have one instance profile, got {', '.join(profiles)}. "
                "A role has one secret."
            )
    shared = {it.profile for it in types}
    if len(shared) != len(ROLES):
        raise InputError(
            f"{path}: head, teachers and students must have instance profiles of their own, got "
            f"{', '.join(sorted(shared))}. Each reads its own secret alone."
        )
    groups = {it.placement_group for it in types if it.role == "student"}
    if len(groups) != 1 or None in groups:
        raise InputError(
            f"{path}: student nodes must be in one placement group, got "
            f"{', '.join(sorted(map(str, groups)))}. Set Placement.GroupName."
        )


def _zone(path: Path, region: str, zone: str) -> str:
    found = ZONE.fullmatch(zone)
    if not found or found[1] != region:
        raise InputError(
            f"{path}: provider.availability_zone must be one zone of {region}, got {zone}. "
            f"For example {region}a."
        )
    return zone
